"""`llmsup start`: the daemon in the background, and the truth about how its start went."""

import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import click

from supervisor.cli import context, output
from supervisor.errors import LlmsupError, TimedOut

DEFAULT_TIMEOUT_S = 600.0
STDERR_BYTES = 1 << 20
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
SPINNER = "|/-\\"


@click.command("start")
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Seconds to wait for the model to be ready.",
)
def command(timeout_s: float) -> None:
    """Start the daemon in the background.

    Returns when the default model is READY, or says why it is not; the daemon's log is
    llmsup.log in the log folder. Exit code 5 when the model is not ready in time, 7 when llmsup runs already.

    \b
    Examples:
      llmsup start
      llmsup --config my.yaml start --timeout 30
    """
    from supervisor.settings.load import load

    path = context.config_path()
    loaded = load(path, os.environ)  # a mistake is better said here than in a log
    run_dir = context.run_dir()
    run_dir.create()
    if run_dir.running():
        with run_dir.locked():
            pass  # raises: it is running
    stderr_path = loaded.settings.log_dir / "llmsup-stderr.log"
    heard = _size(stderr_path)
    begun = time.monotonic()
    process, ready = _spawn(loaded.path, stderr_path)
    verdict = _wait(process, ready, timeout_s)
    if verdict is None:
        raise TimedOut(
            f"the model was not ready within {timeout_s:g} s; the daemon goes on (pid {process.pid})",
            hint="watch it with: llmsup status; llmsup logs -f",
        )
    if verdict == "ok":
        host, port = context.listen()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        scheme = "http" if loaded.settings.tls.cert_file is None else "https"
        output.echo(
            f"llmsup is ready: {scheme}://{where} (pid {process.pid}, {time.monotonic() - begun:.1f} s)"
        )
        return
    if verdict.startswith("no "):
        raise LlmsupError(
            f"{verdict[3:]}; the daemon goes on (pid {process.pid})",
            hint="mend it, then: llmsup restart; or: llmsup stop",
        )
    if verdict.startswith("end "):
        _, code, message = verdict.split(" ", 2)
        process.wait()
        raise _died(message, int(code))
    _report_death(process, stderr_path, heard)


def _open_stderr(path: Path) -> int:
    """For what the interpreter says when it crashes, and nothing else: a start begins it anew when it is large.

    Where it cannot be made it is done without: the daemon lives without its logs too, and `status` says why.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_size > STDERR_BYTES:
                path.replace(path.with_name(f"{path.name}.1"))
        return os.open(path, flags, 0o640)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def _spawn(config: Path, stderr_path: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """The daemon, detached; and the pipe on which it says one line."""
    stderr_fd = _open_stderr(stderr_path)
    ready_read, ready_write = os.pipe()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "supervisor",
                "--config",
                str(config),
                "run",
                "--ready-fd",
                str(ready_write),
            ],
            stdin=subprocess.DEVNULL,
            stdout=stderr_fd,
            stderr=stderr_fd,
            start_new_session=True,
            pass_fds=(ready_write,),
        )
    finally:
        os.close(ready_write)
        os.close(stderr_fd)
    return process, ready_read


def _wait(process: "subprocess.Popen[bytes]", ready: int, timeout_s: float) -> str | None:
    """The daemon's line; "" when it died without one; None when time is up."""
    deadline = time.monotonic() + timeout_s
    turn = 0
    try:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([ready], [], [], min(left, 0.1))[0]:
                return os.read(ready, 64 * 1024).decode("utf-8", "replace").strip()
            turn += 1
            if sys.stderr.isatty() and turn > 3:
                output.spin(f"{SPINNER[turn % 4]} loading the model ...")
        return None
    except KeyboardInterrupt:
        error = LlmsupError(
            f"interrupted; the daemon goes on (pid {process.pid})", hint="end it with: llmsup stop"
        )
        error.exit_code = INTERRUPTED
        raise error from None
    finally:
        os.close(ready)
        if sys.stderr.isatty() and turn > 3:
            output.clear()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _report_death(process: "subprocess.Popen[bytes]", stderr_path: Path, heard: int) -> None:
    """It ended without a word on the pipe: pass on its exit code and what it said on stderr.

    ``heard``: so many bytes of the file are older.
    """
    code = process.wait()
    if code == 0:
        raise LlmsupError("llmsup was stopped before the model was ready")
    lines: list[str] = []
    with contextlib.suppress(OSError):
        data = stderr_path.read_bytes()
        if len(data) >= heard:  # else it was begun anew
            data = data[heard:]
        lines = data.decode(errors="replace").strip().splitlines()
    # A crash of the interpreter says what it is first, an error last.
    words = next(
        (line for line in lines if line.startswith("Fatal Python error")), lines[-1] if lines else ""
    )
    raise _died(
        words.removeprefix("llmsup: error: ") or f"the daemon ended with code {code} (see {stderr_path})",
        code,
    )


def _died(message: str, code: int) -> LlmsupError:
    error = LlmsupError(message)
    error.exit_code = code if 0 < code < 8 else 1
    return error
