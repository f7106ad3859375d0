"""Why a generation ended, read from its exit status and the last lines it wrote. Pure.

llama-server exits with 1 for every failed start, so the reason is in the text (LLAMA_SERVER (d),
each line verified on the pinned build). The most telling line wins, not the last one.
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """Exactly one of the two is set, as ``waitid`` tells it."""

    code: int | None = None
    signal: int | None = None

    @property
    def signal_name(self) -> str | None:
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"

    def __str__(self) -> str:
        return f"exit code {self.code}" if self.signal is None else str(self.signal_name)


@dataclass(frozen=True, slots=True)
class Cause:
    """``permanent``: starting again without a change would end the same way; ``evidence``: the line it was read from."""

    name: str
    detail: str
    permanent: bool = False
    evidence: str = field(default="", compare=False)


# (what the line says, cause, permanent). In order of how much each says: first match wins.
_NEEDLES: tuple[tuple[re.Pattern[str], str, bool], ...] = tuple(
    (re.compile(pattern), cause, permanent)
    for pattern, cause, permanent in (
        (r"couldn't bind HTTP server socket", "port_in_use", False),
        (r"invalid argument:|error while handling (argument|environment variable)", "bad_flag", True),
        (r"the supplied chat template is not supported", "bad_flag", True),
        (r"failed to open GGUF file .*No such file", "model_missing", True),
        (r"failed to open GGUF file .*Permission denied", "model_unreadable", True),
        (
            r"failed to read magic|invalid magic characters|failed to read key-value pairs",
            "model_corrupt",
            True,
        ),
        (r"data is not within the file bounds|found tensors with invalid data", "model_corrupt", True),
        (r"this GGUF file is version|unknown model architecture", "model_unsupported", True),
        (r"insufficient memory|unable to allocate|Cannot allocate memory", "out_of_memory", False),
        (r"failed to allocate (buffer for kv cache|compute)|out of memory", "out_of_memory", False),
        (r"terminate called .*bad_alloc", "out_of_memory", False),
        (r"GGML_ASSERT|GGML_ABORT|terminate called", "aborted", False),
        (r"failed to load model from", "model_unreadable", True),
        (r"exiting due to model loading error|failed to load model", "load_failed", False),
    )
)

_SIGNALS = {
    signal.SIGKILL: ("killed", "ended by SIGKILL, which nobody here sent"),
    signal.SIGSEGV: ("segfault", "crashed (segmentation fault)"),
    signal.SIGBUS: ("bus_error", "crashed (bus error: was the model file cut short while mapped?)"),
    signal.SIGILL: ("illegal_instruction", "crashed: the binary was built for another CPU"),
    signal.SIGABRT: ("aborted", "aborted itself"),
}


_SENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

# Whatever `classify` can say of an end that nobody ordered.
NAMES = frozenset(
    {name for _, name, _ in _NEEDLES} | {name for name, _ in _SIGNALS.values()} | {"signalled", "exited"}
)


def classify(status: ExitStatus, tail: Sequence[str], *, ordered: str | None = None) -> Cause:
    """Name the cause; ``ordered`` is the reason when we ended it ourselves ("stopped", "hung", ...)."""
    if ordered is not None:
        return Cause(ordered, f"ended by llmsup with {status}")
    sent = status.signal in _SENT  # then what it wrote before was about something else
    for pattern, name, permanent in () if sent else _NEEDLES:
        for line in reversed(tail):
            if pattern.search(line):
                return Cause(name, _plain(line), permanent, evidence=_plain(line))
    if status.signal is not None:
        known = _SIGNALS.get(signal.Signals(status.signal)) if status.signal in _SIGNALS else None
        name, detail = known or ("signalled", f"ended by {status}")
        return Cause(name, detail)
    last = next((_plain(line) for line in reversed(tail) if line.strip()), "it said nothing")
    return Cause("exited", f"exit code {status.code}; last words: {last}")


_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")


def _plain(line: str) -> str:
    """The line without llama-server's time stamp, cut to what fits on a screen."""
    return _STAMP.sub("", line).strip()[:300]
