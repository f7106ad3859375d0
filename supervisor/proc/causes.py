"""Why a generation ended, read from its exit status and, of a failed start, the last lines it wrote. Pure.

llama-server exits with 1 for every failed start, so the reason is in the text (LLAMA_SERVER (d),
each line verified on the pinned build). The most telling line wins, not the last one.

Once it has been READY, its text is no evidence: it logs words of its clients (a sampler's name, a grammar), so
whoever makes it crash could choose what it is said to have died of. What counts then is what only the kernel can
say: the signal, the exit code, its own counter (`witness`). The lines are kept for people to read.
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
    signal.SIGFPE: ("arithmetic_error", "crashed (arithmetic error, as a division by zero)"),
    signal.SIGABRT: ("aborted", "aborted itself"),
    signal.SIGTRAP: ("aborted", "aborted itself (trap)"),
}


_SENT = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})

# A model file's own words, told while it is loaded: a key's value, a vocabulary. Also chosen by a stranger.
_OF_THE_FILE = re.compile(r"llama_model_loader: - |print_info: |load: (special|control|token)")

# Whatever `classify` can say of an end that nobody ordered.
NAMES = frozenset(
    {name for _, name, _ in _NEEDLES} | {name for name, _ in _SIGNALS.values()} | {"signalled", "exited"}
)


# After READY, of what a request can be the cause. A kill from outside says nothing of what was inside.
CRASHES = frozenset(
    {"segfault", "bus_error", "illegal_instruction", "arithmetic_error", "aborted", "out_of_memory"}
)


def classify(
    status: ExitStatus, tail: Sequence[str], *, ordered: str | None = None, served: bool = False
) -> Cause:
    """Name the cause; ``ordered`` is the reason when we ended it ourselves ("stopped", "hung", ...); ``served``: it
    had been READY, so that what it wrote proves nothing.
    """
    if ordered is not None:
        return Cause(ordered, f"ended by llmsup with {status}")
    if (
        not served and status.signal not in _SENT
    ):  # before a signal from outside it wrote about something else
        told = _told(tail)
        if told is not None:
            return told
    if status.signal is not None:
        known = _SIGNALS.get(signal.Signals(status.signal)) if status.signal in _SIGNALS else None
        name, detail = known or ("signalled", f"ended by {status}")
        return Cause(name, detail)
    if served:
        return Cause("exited", f"ended itself with exit code {status.code}")
    last = next((_plain(line) for line in reversed(tail) if line.strip()), "it said nothing")
    return Cause("exited", f"exit code {status.code}; last words: {last}")


def _told(tail: Sequence[str]) -> Cause | None:
    """The cause that the text of a failed start gives."""
    own = [line for line in tail if not _OF_THE_FILE.search(line)]
    for pattern, name, permanent in _NEEDLES:
        for line in reversed(own):
            if pattern.search(line):
                return Cause(name, _plain(line), permanent, evidence=_plain(line))
    return None


def crashed(cause: str, exit_code: int | None) -> bool:
    """Whether a request can have brought it down. It ends itself with 0 where somebody has asked it to (SIGTERM)."""
    return cause in CRASHES or (cause == "exited" and exit_code != 0)


_STAMP = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} [A-Z] ")


def _plain(line: str) -> str:
    """The line without llama-server's time stamp, cut to what fits on a screen."""
    return _STAMP.sub("", line).strip()[:300]
