"""The daemon: does it run and answer, is its port to be had, did an earlier one leave anything behind?"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from supervisor.control.client import ControlClient
from supervisor.control.rundir import RunDir
from supervisor.doctor.finding import Finding, fail, ok, warn
from supervisor.errors import Conflict, LlmsupError, NotRunning
from supervisor.listen import Listener
from supervisor.proc import children, leftovers

CONTROL_TIMEOUT_S = 5.0
SLOW_S = 1.0  # `status` answers sooner, whatever else happens (FAULTS)
BAD = frozenset({"FAILED", "CRASHLOOP", "UNKILLABLE"})


def daemon(run: RunDir) -> tuple[list[Finding], dict[str, Any] | None]:
    """What it says of itself, and its status document; None: it does not run or does not answer."""
    began = time.monotonic()
    try:
        state = ControlClient(run, CONTROL_TIMEOUT_S).get("/status")
    except NotRunning:
        return [ok("daemon", f"does not run (state in {run.path.parent})")], None
    except (LlmsupError, OSError) as exc:
        hint = exc.hint if isinstance(exc, LlmsupError) else ""
        return [fail("daemon", exc.message if isinstance(exc, LlmsupError) else str(exc), hint)], None
    took = time.monotonic() - began
    words = f"pid {state['pid']} answers on {run.socket_path} in {took * 1000:.0f} ms"
    heard = warn("daemon", words, "what keeps the machine busy?") if took > SLOW_S else ok("daemon", words)
    return [heard, *_instances(state)], state


def _instances(state: dict[str, Any]) -> Iterator[Finding]:
    for one in state["models"]:
        title, death = f"instance {one['name']}", one["last_death"]
        if one["state"] in BAD:
            why = f": {death['cause']}: {death['detail']}" if death is not None else ""
            yield fail(title, f"{one['state']}{why}", f"llmsup why {one['name']}")
        else:
            yield ok(title, one["state"])
    if warning := state["memory"].get("warning"):
        yield warn("memory in use", warning, "raise memory.limit_mb, or lower context_size or parallel")


def port(host: str, number: int, state: dict[str, Any] | None) -> Finding:
    """Bound for a moment to find out; a daemon of ours that has it is as it should be."""
    if state is not None:
        return ok("port", f"{state['listen']} is llmsup's own")
    if number == 0:
        return ok("port", "a free one will be chosen")
    try:
        Listener(host, number).close()
    except LlmsupError as exc:
        return fail("port", exc.message, exc.hint)
    return ok("port", f"{number} on {host} is free")


def left_over(run: RunDir, state: dict[str, Any] | None) -> Finding:
    """llama-servers of a daemon of this state folder that is no more. (`proc.leftovers`: two marks at least.)"""
    if state is not None or _runs(run):
        return ok("left over", "not looked for while the daemon runs: it looked when it began")
    records = leftovers.recorded(run.path / leftovers.FILE_NAME)
    home = children.home_of(run.path)
    found = list(
        leftovers.left_over(leftovers.processes(frozenset()), records, boot_id=leftovers.boot_id(), home=home)
    )
    if not found:
        return ok("left over", "no llama-server of an earlier daemon")
    pids = ", ".join(str(seen.pid) for seen, _ in found)
    return warn(
        "left over", f"llama-servers of an earlier daemon: pid {pids}", "the next llmsup start ends them"
    )


def _runs(run: RunDir) -> bool:
    with contextlib.suppress(LlmsupError, Conflict, OSError):
        return run.running()
    return True
