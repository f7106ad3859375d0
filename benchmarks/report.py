"""What is shown: two tables and a few lines on a terminal, everything as JSON in a file."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from benchmarks.measure import CHUNKS_PER_S, SCENARIOS, Values

Summary = dict[str, dict[str, dict[str, Values]]]
Rows = list[list[str]]


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


def number(cell: Values | None, digits: int = 0, *, spread: bool = False, sign: bool = False) -> str:
    """The median, with (min-max) if asked."""
    if cell is None:
        return "-"
    style = f"{'+' if sign else ''},.{digits}f"
    text = format(cell["median"], style)
    return f"{text} ({cell['min']:,.{digits}f}-{cell['max']:,.{digits}f})" if spread else text


JSON_HEAD = [
    "c",
    "peer",
    "req/s (min-max)",
    "/direct",
    "/nginx",
    "p50 µs",
    "p99 µs",
    "CPU µs/req",
    "CPU/nginx",
    "bad",
]
SSE_HEAD = [
    "streams",
    "peer",
    "chunks/s",
    "of due",
    "p50 µs",
    "p99 µs",
    "+p50",
    "+p99",
    "CPU µs/chunk",
    "CPU/nginx",
    "bad",
]


def json_rows(summary: Summary) -> Rows:
    rows: Rows = []
    for scenario in SCENARIOS:
        if scenario.kind == "json":
            for peer, cells in summary.get(scenario.name, {}).items():
                get = cells.get
                rows.append(
                    [
                        *(str(scenario.connections), peer, number(get("rps"), spread=True)),
                        *(number(get("rps_vs_direct"), 2), number(get("rps_vs_nginx"), 2)),
                        *(number(get("p50_us")), number(get("p99_us"))),
                        *(number(get("cpu_us"), 1), number(get("cpu_vs_nginx"), 2), number(get("bad"))),
                    ]
                )
    return rows


def sse_rows(summary: Summary) -> Rows:
    rows: Rows = []
    for scenario in SCENARIOS:
        if scenario.kind == "sse":
            due = scenario.connections * CHUNKS_PER_S
            for peer, cells in summary.get(scenario.name, {}).items():
                get = cells.get
                rate = get("chunks_per_s")
                rows.append(
                    [
                        *(str(scenario.connections), peer, number(rate)),
                        f"{rate['median'] / due:.1%}" if rate else "-",
                        *(number(get("p50_us")), number(get("p99_us"))),
                        *(number(get("added_p50_us"), sign=True), number(get("added_p99_us"), sign=True)),
                        *(number(get("cpu_us"), 1), number(get("cpu_vs_nginx"), 2), number(get("bad"))),
                    ]
                )
    return rows


def latency_lines(summary: Summary) -> list[str]:
    """The latency a proxy adds to one request on one connection."""
    return [
        f"{peer} adds {number(cells.get('added_p50_us'), spread=True)} µs (p50) and "
        f"{number(cells.get('added_p99_us'), spread=True)} µs (p99) to a request at c=1"
        for peer, cells in summary.get("json-1", {}).items()
        if peer != "direct"
    ]


def show(summary: Summary, facts: Machine, notes: list[str]) -> None:
    print(
        f"\n{facts.cores} cores ({facts.cpu}), {facts.python}, {facts.loop}, load {facts.load_average_1m:.2f} at the start"
    )
    for peer, what in facts.peers.items():
        print(f"  {peer}: {what}")
    table("JSON: 2 KB request, 1 KB answer, closed loop", JSON_HEAD, json_rows(summary))
    table(f"SSE: {CHUNKS_PER_S} chunks/s a stream, one-way delay of a chunk", SSE_HEAD, sse_rows(summary))
    print("\n".join(["", *latency_lines(summary), *notes]))


def table(title: str, head: list[str], rows: Rows) -> None:
    """With rich where it is installed (colours on a terminal only), else plain."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        plain_table(title, head, rows)
        return
    width = None if sys.stdout.isatty() else 140
    console = Console(no_color=not sys.stdout.isatty(), highlight=False, width=width)
    shown = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(head):
        shown.add_column(name, justify="left" if index == 1 else "right", no_wrap=True)
    for index, row in enumerate(rows):
        last_of_group = index + 1 == len(rows) or rows[index + 1][0] != row[0]
        shown.add_row(*row, style="bold cyan" if row[1] == "llmsup" else None, end_section=last_of_group)
    console.print()
    console.print(shown)


def plain_table(title: str, head: list[str], rows: Rows) -> None:
    widths = [max(len(row[index]) for row in [head, *rows]) for index in range(len(head))]
    print(f"\n{title}")
    for row in [head, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def save(path: Path, summary: Summary, facts: Machine, detail: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": asdict(facts), **detail, "summary": summary}
    path.write_text(json.dumps(document, indent=1) + "\n")
