"""What can be made to go wrong, and where the wishes come from.

Later ones win: ``FAKE_<NAME>`` in the environment, the JSON object in the file named by ``FAKE_CONTROL``
(read again at every request, so a test can change its mind), a request's own ``"fake": {...}`` (or the header
``X-Fake: {...}`` where the body is not JSON). A misspelt name is an error, never silently nothing.
"""

import json
import os
from collections.abc import Mapping


class Switches:
    """One set of wishes; the class attributes are the defaults and give each wish its type."""

    # While loading
    load_s: float = 0.0  # how long it takes; a log line every 250 ms shows progress
    load_silent: bool = False  # ... and no such lines
    load_message: str = ""  # written to stderr when loading begins
    load_exit: int = -1  # leave with this code when the loading time is over; -1: do not
    fork_at_start: bool = False  # the parent exits 0 at once, the child goes on
    spawn_grandchild: bool = False  # a sleeper in the same process group that ignores SIGTERM
    # Once ready
    exit_after_ready_s: float = -1.0  # leave by itself; -1: do not
    exit_code: int = 0  # with which code
    ignore_sigterm: bool = False
    refuse: bool = False  # the listener is closed while the process lives; open again when unset
    rss_bytes: int = 0  # memory to take (at ready, or for good at each request that asks)
    log_flood: int = 0  # bytes of log lines to write (at ready, or at each request that asks)
    log_line_bytes: int = 0  # length of one line to write, likewise
    # Dying
    crash_signal: str = ""  # SIGSEGV, SIGKILL, SIGABRT ... sent to itself
    crash_at: str = (
        "request"  # load | ready | request | first_byte (head sent, no token) | chunk:N (N tokens sent)
    )
    # Hanging. request: work routes say nothing; all: every route; health: only /health;
    # health_ok_tokens_hang: the answer starts, then nothing; loop: that, and /metrics and /slots hang too.
    hang: str = ""
    hang_after: int = 0  # tokens sent before a token hang
    # Timing
    token_delay_s: float = 0.0
    first_token_delay_s: float = 0.0  # a prompt phase that progresses (counters, return_progress events)
    bytewise: bool = False  # head and chunks byte by byte
    # The answer
    status: int = 0  # this code with an error body instead of the answer
    warmup_fail_n: int = 0  # the first N completions answer 500
    cut: str = ""  # before_head | mid_chunk | before_last_chunk | content_length_short | rst
    cut_after: int = 1  # tokens sent before mid_chunk and rst
    garbage: str = ""  # not_http | bad_status | two_lengths | long_line (8 MiB) | bad_chunk
    extra_bytes: int = 0  # so many bytes of a forged second answer after the answer
    no_done: bool = False  # the stream ends cleanly but without its final events
    error_event: int = -1  # an error event after N tokens, clean end, no [DONE]; -1: none
    big_body: int = 0  # an answer of so many bytes
    connection_close: bool = False
    eof_body: bool = False  # neither length nor chunks: the close is the end
    tool_call: bool = False  # chat streams a tool call instead of text
    # Over several generations of the process
    counter: str = ""  # a file that gets one line (the pid) for each start
    fault_runs: int = 0  # faults apply in the first N starts only (counted by `counter`); 0: always

    def __init__(self, *layers: Mapping[str, object]) -> None:
        for layer in layers:
            for name, value in layer.items():
                setattr(self, name, self._typed(name, value))

    @classmethod
    def _typed(cls, name: str, value: object) -> object:
        default = getattr(cls, name, None)
        if name not in NAMES or default is None:
            raise ValueError(f"no such switch: {name}")
        if isinstance(default, bool):
            return str(value).lower() in {"1", "true", "yes", "on"}
        return type(default)(value)

    def without_faults(self) -> "Switches":
        """The same timing and nothing that goes wrong."""
        return Switches({name: getattr(self, name) for name in TIMING})


NAMES = frozenset(Switches.__annotations__)
TIMING = frozenset(
    {
        "load_s",
        "load_silent",
        "token_delay_s",
        "first_token_delay_s",
        "counter",
        "fault_runs",
        "bytewise",
        "tool_call",
    }
)


class SwitchBoard:
    """Joins the sources; one for the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._control_path = environ.get("FAKE_CONTROL", "")
        self._control: dict[str, object] = {}
        self._env = {
            key[5:].lower(): value
            for key, value in environ.items()
            if key.startswith("FAKE_") and key != "FAKE_CONTROL"
        }
        self._run = self._count(Switches(self._env).counter)

    @property
    def has_control(self) -> bool:
        return bool(self._control_path)

    def now(self, request: Mapping[str, object] | None = None) -> Switches:
        """The wishes in force.

        :raises ValueError: for a name or value that makes no sense.
        """
        merged = Switches(self._env, self._read_control(), request or {})
        past_faults = 0 < merged.fault_runs < self._run
        return merged.without_faults() if past_faults else merged

    def _read_control(self) -> dict[str, object]:
        if self._control_path:
            try:
                with open(self._control_path, encoding="utf-8") as file:
                    self._control = json.load(file)
            except (OSError, ValueError):
                pass  # absent, or caught half-written: the last good one stays in force
        return self._control

    @staticmethod
    def _count(path: str) -> int:
        """Append our pid to the file and say which start this is, from 1."""
        if not path:
            return 1
        with open(path, "a+", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
            file.flush()
            file.seek(0)
            return sum(1 for _ in file)
