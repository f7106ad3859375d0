"""Foreign programs: run one and read its output, or stream it and leave nothing of it behind."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

GRACE_S = 3.0  # ninja needs well under a second to end its compilers and remove half-written objects


@dataclass(frozen=True, slots=True)
class Output:
    returncode: int  # negative: the signal that ended it
    stdout: str
    stderr: str


def capture(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    timeout_s: float = 10,
) -> Output:
    """Run to the end. Raises OSError (cannot be executed) and subprocess.TimeoutExpired."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=env,
        cwd=cwd,
        timeout=timeout_s,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    return Output(done.returncode, done.stdout, done.stderr)


def stream(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log: BinaryIO,
    on_line: Callable[[str], None],
    held: Sequence[int] = (),
    draws_on: int | None = None,
) -> int:
    """Run to the end, each line of output into `log` and to `on_line`; returns the exit status.

    `held`: descriptors (locks) the program and its children keep. `draws_on`: the descriptor that gets
    its stdout, so that it may draw there; only stderr is read then. When anything is raised here,
    KeyboardInterrupt above all, the program and all its descendants are ended before it goes on.
    Killed outright, we leave it a broken pipe, which ends ninja, make and pip at their next line.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if draws_on is None else draws_on,
        stderr=subprocess.STDOUT if draws_on is None else subprocess.PIPE,
        env=env,
        process_group=0,  # Ctrl-C reaches us alone; we end the children in order
        pass_fds=held,
    ) as process:
        try:
            for raw in process.stdout or process.stderr or ():
                log.write(raw)
                on_line(raw.decode("utf-8", "replace").rstrip())
            return process.wait()
        except BaseException:
            end(process)
            raise


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, SIGKILL after GRACE_S, and to every descendant that is left.

    Ninja puts each compiler into a group of its own, so the group alone is not all of them.
    """
    import psutil

    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        descendants = []
    _signal_group(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
    for descendant in descendants:
        with contextlib.suppress(psutil.Error):
            descendant.kill()  # psutil checks the start time first: a reused pid is safe


def _signal_group(pgid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pgid, number)
