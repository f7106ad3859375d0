"""Reading the configuration again while everything runs: on save, on SIGHUP, by `llmsup reload`.

Invariant: a broken configuration changes nothing, and a good one never ends a process. All is prepared before
anything is applied: whatever refuses, refuses for all.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from supervisor import secure_path
from supervisor.clock import Clock, SystemClock
from supervisor.errors import ConfigError
from supervisor.observe.systemd import Notifier
from supervisor.settings.changes import NEXT_START, Change, diff
from supervisor.settings.load import Loaded, load
from supervisor.settings.notices import UNSAFE, Notice, notices
from supervisor.settings.schema import Settings
from supervisor.tls import ServerTls, certificate_files, read_pair

log: structlog.stdlib.BoundLogger = structlog.get_logger("reload")

Commit = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Applier:
    """How a living daemon takes up some of the keys.

    ``keys``: theirs, or the sections they are in. ``prepare`` is called when one of them has changed, in a thread,
    with the new settings: it may block, raises ConfigError to refuse the whole reading, and must change nothing. What
    it returns is called in the loop once everybody has agreed, and must not fail; None: not while llmsup runs.
    ``always``: also called when no key has changed, as what they name may have; then the return value of what it
    returned says whether it had.
    """

    keys: tuple[str, ...]
    prepare: Callable[[Settings], Commit | None]
    always: bool = False


def log_level(set_level: Callable[[str], None]) -> Applier:
    return Applier(("log.level",), lambda settings: lambda: set_level(settings.log.level))


def certificates(tls: ServerTls) -> Applier:
    """A new one may lie under the old name. Switching TLS off waits."""

    def prepare(settings: Settings) -> Commit | None:
        files = certificate_files(settings)
        if files is None:
            return None
        pair = read_pair(files)
        return lambda: tls.take(pair)

    return Applier(("tls",), prepare, always=True)


@dataclass(frozen=True, slots=True)
class Refused:
    """The newest reading that was wrong; ``since``: when the file began to be."""

    error: str
    since: str

    def as_dict(self) -> dict[str, str]:
        return {"message": self.error, "since": self.since}


@dataclass(frozen=True, slots=True)
class _Step:
    """What one applier is about to do."""

    applier: Applier
    commit: Commit
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A good reading of the file, ready to be taken up."""

    fresh: Loaded
    steps: tuple[_Step, ...]
    waiting: tuple[Change, ...]
    notices: tuple[Notice, ...]


def _postponed(changes: Iterable[Change]) -> list[Change]:
    return [replace(one, effect=NEXT_START) for one in changes]


def _nobody(_: object) -> None:
    """Who is told where nobody wants to know."""


class Reloader:
    """``running``: what the daemon was built from; keys without an applier are compared with it for ever."""

    def __init__(
        self,
        running: Loaded,
        environ: Mapping[str, str],
        *,
        notifier: Notifier,
        appliers: Iterable[Applier] = (),
        clock: Clock | None = None,
        on_reload: Callable[[Mapping[str, Any]], None] = _nobody,
        on_refusal: Callable[[str], None] = _nobody,
    ) -> None:
        self.current = running  # the newest good reading, keys that wait for the next start included
        self.refused: Refused | None = None
        self.pending: tuple[str, ...] = ()  # keys that wait for the next start
        self._running = running
        self._environ = environ
        self._notifier = notifier
        self._taken: dict[Applier, Loaded] = {}  # what of the file each has in force
        self._clock = clock or SystemClock()
        self._on_reload, self._on_refusal = on_reload, on_refusal
        self._last: dict[str, object] | None = None  # the newest reading that changed something
        self._turn = asyncio.Lock()
        self._hangup: asyncio.Task[None] | None = None
        for applier in appliers:
            self.add(applier)

    def add(self, applier: Applier) -> None:
        """From now on its keys are taken up at once; no other applier may have one of them."""
        self._taken[applier] = self._running

    async def reload(self, *, saved: bool = False) -> dict[str, object]:
        """What has been taken up (``applied``), and what the next start of llmsup will (``at_next_start``).

        ``changes``: each with its old and new value; ``last``: where nothing has changed, what the reading before
        did, which may have been on save, a moment ago. ``saved``: nobody waits for the answer, so the same mistake
        is not logged again.

        Raises:
            ConfigError: the file is wrong; all is as it was.
        """
        async with self._turn:
            self._notifier.reloading()
            try:
                # In a thread: a file server that hangs must not hold up the requests.
                reading = await asyncio.to_thread(self._read)
            except ConfigError as exc:
                self._refuse(str(exc), quietly=saved)
                raise
            finally:
                self._notifier.ready()
            return self._take_up(reading)

    async def catch_up(self) -> None:
        """For whoever begins to watch the file: it may have been saved since the daemon read it."""
        try:
            if (await self.preview())["changes"]:
                await self.reload(saved=True)
        except ConfigError:
            with contextlib.suppress(ConfigError):  # once more, to be kept and said
                await self.reload(saved=True)

    async def preview(self) -> dict[str, object]:
        """What `reload` would answer, with nothing taken up. Raises ConfigError as it does."""
        async with self._turn:
            reading = await asyncio.to_thread(self._read)
        changes = [*(one for step in reading.steps for one in step.changes), *reading.waiting]
        return self._answer([], [one.key for one in reading.waiting], changes) | {"last": None}

    def _read(self) -> _Reading:
        fresh = load(self._running.path, self._environ)
        self._refuse_weak(fresh)
        live = [key for applier in self._taken for key in applier.keys]
        waiting = [one for one in diff(self._running, fresh, live) if one.effect == NEXT_START]
        steps = []
        for applier, taken in list(self._taken.items()):
            changes = tuple(one for one in diff(taken, fresh, applier.keys) if one.effect != NEXT_START)
            if not changes and not applier.always:
                continue
            commit = applier.prepare(fresh.settings)
            if commit is None:
                waiting += _postponed(changes)
            else:
                steps.append(_Step(applier, commit, changes))
        return _Reading(fresh, tuple(steps), tuple(waiting), tuple(notices(fresh)))

    def _refuse_weak(self, fresh: Loaded) -> None:
        """What others could have written is not taken up while llmsup runs, even where it was begun with it."""
        weak = secure_path.weakness(fresh.path)
        if weak is not None and fresh.settings.model_dump() != self.current.settings.model_dump():
            raise ConfigError(
                f"{fresh.path} has changed and is not taken up, as others could have written it: {weak}",
                hint=f"{weak.remedy}; then look at it and: llmsup reload",
            )

    def _refuse(self, error: str, *, quietly: bool) -> None:
        was = self.refused
        self.refused = Refused(error, was.since if was is not None else self._now())
        if was is None or was.error != error or not quietly:
            log.error("configuration refused; going on with the old one", error=error)
            self._on_refusal(error)

    def _take_up(self, reading: _Reading) -> dict[str, object]:
        """In one go: nothing is awaited between two of them."""
        taken: list[Change] = []
        renewed: list[str] = []
        waiting = list(reading.waiting)
        for step in reading.steps:
            try:
                different = step.commit()
            except Exception:  # it must not; what is in force stays so, and it is said what is not
                log.exception("not taken up", keys=step.applier.keys)
                waiting += _postponed(step.changes)
                continue
            self._taken[step.applier] = reading.fresh
            taken += step.changes
            if not step.changes and different is True:
                renewed += step.applier.keys
        for notice in reading.notices:
            say = log.warning if notice.key == UNSAFE else log.info
            say("configuration", key=notice.key, note=notice.message)
        self.current, self.refused = reading.fresh, None
        self.pending = tuple(one.key for one in waiting)
        return self._told([*(one.key for one in taken), *renewed], [*taken, *waiting])

    def _told(self, applied: list[str], changes: list[Change]) -> dict[str, object]:
        """The answer, the line in the log and the event."""
        diff_lines = [line for one in changes for line in one.lines()]
        say = log.warning if changes or applied else log.info
        say("configuration read again", applied=applied, at_next_start=list(self.pending), diff=diff_lines)
        outcome = self._answer(applied, list(self.pending), changes)
        if applied:
            self._last = {"at": self._now(), "applied": applied}
        self._on_reload(outcome)
        return outcome

    def _answer(self, applied: list[str], waiting: list[str], changes: list[Change]) -> dict[str, object]:
        return {
            "config": str(self._running.path),
            "applied": applied,
            "at_next_start": waiting,
            "changes": [one.as_dict() for one in changes],
            "last": None if applied else self._last,
        }

    def _now(self) -> str:
        return self._clock.wall().isoformat(timespec="seconds")

    def hang_up(self) -> None:
        """SIGHUP. What is wrong is in the log; nobody waits for an answer."""
        log.info("SIGHUP: reading the configuration again")
        self._hangup = asyncio.create_task(self._quietly(), name="reload")

    async def _quietly(self) -> None:
        try:
            await self.reload()
        except ConfigError:
            pass  # said already
        except Exception:
            log.exception("reload failed")
