"""llmsup with a defect built in: ``python -P sabotage.py DEFECT [llmsup's arguments]``.

For faults that no operator can provoke at the right moment: each defect is one function that replaces a piece of the
program before it begins. What is run apart from that is the program itself.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

DEFECTS: dict[str, Callable[[], None]] = {}


def defect(build_in: Callable[[], None]) -> Callable[[], None]:
    DEFECTS[build_in.__name__.replace("_", "-")] = build_in
    return build_in


def program(name: str) -> list[str]:
    """What to run instead of ``python -m supervisor``."""
    assert name in DEFECTS, name
    return [sys.executable, "-P", __file__, name]


def _die(*_: object, **__: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def _without_death_signal() -> None:
    """As on systems that have none: what the daemon leaves lives on."""
    from supervisor.proc import spawn

    def nothing(_: int) -> tuple[str, ...]:
        return ()

    spawn.launcher = nothing  # type: ignore[assignment]  # a cached function


@defect
def dies_between_fork_and_record() -> None:
    from supervisor.proc import leftovers

    _without_death_signal()
    leftovers.dump = _die


@defect
def dies_while_it_records() -> None:
    """The new file is written in part, and the old one not yet replaced."""
    from supervisor.proc import leftovers

    _without_death_signal()

    def half(records: Any, path: Path) -> NoReturn:
        path.with_suffix(".new").write_text('{"schema": 1, "chil')
        _die()

    leftovers.dump = half


@defect
def fails_in_the_task_of_demo() -> None:
    """The first exit of that model's child is met by an exception."""
    from supervisor.proc.instance import Instance

    bury = Instance._bury
    failed: list[int] = []

    async def defective(self: Instance) -> Any:
        if self.name == "demo" and not failed:
            failed.append(1)
            raise RuntimeError("a defect of ours")
        return await bury(self)

    Instance._bury = defective  # type: ignore[method-assign]  # that is the defect


@defect
def fails_in_a_job() -> None:
    """The first look after the control socket ends in an exception that nobody has thought of."""
    from supervisor.control import server

    keep = server.ControlServer.keep
    server.CHECK_S = 0.2
    failed: list[int] = []

    async def defective(self: server.ControlServer, clock: Any) -> None:
        if not failed:
            failed.append(1)
            raise RuntimeError("a defect of ours")
        await keep(self, clock)

    server.ControlServer.keep = defective  # type: ignore[method-assign]  # that is the defect


@defect
def hurried_backoff() -> None:
    """No defect: delays of milliseconds, so that the fifth death comes soon."""
    from supervisor.proc import backoff

    backoff.BASE_S = 0.02


def main() -> None:
    DEFECTS[sys.argv.pop(1)]()
    from supervisor.__main__ import main as run

    run()


if __name__ == "__main__":
    main()
