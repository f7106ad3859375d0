"""What is shown: the tables of `rows` and a few lines on a terminal, everything as JSON in a file."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from benchmarks import rows
from benchmarks.measure import CHUNKS_PER_S, TOKENS, Values
from benchmarks.rows import Rows, Summary


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts without which the figures mean nothing."""

    cores: int
    cpu: str
    kernel: str
    python: str
    loop: str
    load_average_1m: float
    peers: dict[str, str]


def machine(peers: dict[str, str]) -> Machine:
    try:
        loop = f"uvloop {metadata.version('uvloop')}"
    except metadata.PackageNotFoundError:
        loop = "asyncio"
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = len(os.sched_getaffinity(0))
    return Machine(cores, cpu, platform.release(), python, loop, os.getloadavg()[0], peers)


TITLES = {
    "pass": "pass-through (/v1/embeddings): 2 KB request, 1 KB answer, closed loop",
    "chat": f"chat, one piece of {TOKENS} tokens: llmsup assembles it from a stream, others pass on a plain answer",
    "short": f"chat, streams of {TOKENS} tokens at once, closed loop",
}


def show(summary: Summary, held: dict[str, Values], facts: Machine, notes: list[str]) -> None:
    print(
        f"\n{facts.cores} cores ({facts.cpu}), {facts.python}, {facts.loop}, load {facts.load_average_1m:.2f} at the start"
    )
    for peer, what in facts.peers.items():
        print(f"  {peer}: {what}")
    for kind, title in TITLES.items():
        table(title, rows.REQUEST_HEAD, rows.requests(summary, kind))
    table(
        f"SSE: {CHUNKS_PER_S} chunks/s a stream, one-way delay of a chunk",
        rows.SSE_HEAD,
        rows.chunks(summary),
    )
    if held:
        table("memory: each figure from a fresh process", rows.MEMORY_HEAD, rows.memory(held))
        table("growth: MB after so many chats", rows.growth_head(held), rows.growth(held))
    table("llmsup and its targets", rows.TARGET_HEAD, rows.targets(summary, held))
    print("\n".join(["", *rows.remarks(summary), *notes]))


def table(title: str, head: list[str], lines: Rows) -> None:
    """With rich where it is installed (colours on a terminal only), else plain."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        plain_table(title, head, lines)
        return
    width = None if sys.stdout.isatty() else 160
    console = Console(no_color=not sys.stdout.isatty(), highlight=False, width=width)
    shown = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(head):
        shown.add_column(name, justify="left" if index == 1 else "right", no_wrap=True)
    for index, row in enumerate(lines):
        last_of_group = index + 1 == len(lines) or lines[index + 1][0] != row[0]
        shown.add_row(*row, style="bold cyan" if row[1] == "llmsup" else None, end_section=last_of_group)
    console.print()
    console.print(shown)


def plain_table(title: str, head: list[str], lines: Rows) -> None:
    widths = [max(len(row[index]) for row in [head, *lines]) for index in range(len(head))]
    print(f"\n{title}")
    for row in [head, *lines]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def save(path: Path, summary: Summary, facts: Machine, detail: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": asdict(facts), **detail, "summary": summary}
    path.write_text(json.dumps(document, indent=1) + "\n")
