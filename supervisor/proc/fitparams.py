"""A second opinion on memory, from llama.cpp itself: its llama-fit-params plans a model without loading it.

It takes about 10 ms, as it reads the header and allocates nothing. It is a help, never a need: a missing
tool, a crash or a late answer is a reason in words, not an error.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.proc.building import subcommand

TOOL = "llama-fit-params"
TIMEOUT_S = 10.0  # a cold disk and a 20 MiB header; it takes 0.01 s from the cache

# "Host 201 192 22": device, then model, context and compute in whole MiB, rounded down (common/fit.cpp)
_LINE = re.compile(r"^(\S.*?) (\d{1,12}) (\d{1,12}) (\d{1,12}) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What one device ("Host", "CUDA0") will hold, in MiB rounded down."""

    device: str
    model_mib: int
    context_mib: int
    compute_mib: int


@dataclass(frozen=True, slots=True)
class Opinion:
    """``devices`` is None when there is no opinion; ``reason`` then says why not."""

    devices: tuple[DeviceMemory, ...] | None
    reason: str = ""

    @property
    def total_mib(self) -> int | None:
        if self.devices is None:
            return None
        return sum(found.model_mib + found.context_mib + found.compute_mib for found in self.devices)


def beside(server: Path) -> Path:
    """Where the tool lies when it was built together with that llama-server."""
    return server.with_name(TOOL)


def ask(
    tool: Path,
    model: Path,
    *,
    context_size: int,
    parallel: int,
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    ubatch: int = 512,
    gpu_layers: int = 0,
    timeout_s: float = TIMEOUT_S,
    environ: Mapping[str, str] | None = None,
) -> Opinion:
    """What the tool says of ``-c context_size -np parallel``; never raises.

    It knows no unified cache: ask with ``parallel=1`` for one. It computes a logit for every token of a
    batch, which llama-server does not, so that with large vocabularies its compute memory is too high.
    Blocks for up to ``timeout_s``; may be called from any thread.
    """
    arguments = {"-m": str(model), "-c": str(context_size), "-np": str(parallel), "-ub": str(ubatch)}
    arguments |= {"-ctk": cache_type_k, "-ctv": cache_type_v, "-ngl": str(gpu_layers), "--fit-print": "on"}
    argv = [str(tool), *(word for pair in arguments.items() for word in pair)]
    try:
        output = subcommand.capture(argv, env=_environment(environ), timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        return Opinion(None, f"{tool} gave no answer in {timeout_s:g} s")
    except FileNotFoundError:
        return Opinion(None, f"{tool} does not exist")
    except (OSError, ValueError) as exc:  # not executable, no memory; a zero byte in a path
        return Opinion(None, f"{tool} cannot be run: {exc}")
    if output.returncode != 0:
        last = next((line.strip() for line in reversed(output.stderr.splitlines()) if line.strip()), "")
        ended = f"signal {-output.returncode}" if output.returncode < 0 else f"status {output.returncode}"
        return Opinion(None, f"{tool} ended with {ended}" + (f": {last[:300]}" if last else ""))
    return read(output.stdout)


def read(text: str) -> Opinion:
    """What the tool printed: a line for each device, the host last."""
    found = tuple(
        DeviceMemory(device, int(model), int(context), int(compute))
        for device, model, context, compute in _LINE.findall(text)
    )
    return Opinion(found) if found else Opinion(None, f"{TOOL} printed no line of memory: {text[:100]!r}")


def _environment(environ: Mapping[str, str] | None) -> dict[str, str]:
    """Ours, without what would change the answer; an abort must not fork a debugger for its backtrace."""
    kept = {
        name: value
        for name, value in (os.environ if environ is None else environ).items()
        if not name.startswith("LLAMA_")
    }
    return kept | {"GGML_NO_BACKTRACE": "1"}
