"""Reading the configuration again while everything runs: SIGHUP and `llmsup reload`.

Invariant: a broken configuration changes nothing, and a good one never ends a process.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from supervisor.errors import ConfigError
from supervisor.observe.systemd import Notifier
from supervisor.settings.changes import AT_ONCE, TLS_FILES, changed
from supervisor.settings.load import Loaded, load
from supervisor.tls import Pair, ServerTls, certificate_files, read_pair

log: structlog.stdlib.BoundLogger = structlog.get_logger("reload")


class Reloader:
    """``running``: what the daemon was built from, with which every new reading is compared."""

    def __init__(
        self,
        running: Loaded,
        environ: Mapping[str, str],
        *,
        notifier: Notifier,
        set_level: Callable[[str], None],
        tls: ServerTls | None = None,
    ) -> None:
        self._running = running
        self._level = running.settings.log.level
        self._environ = environ
        self._notifier = notifier
        self._set_level = set_level
        self._tls = tls
        self._turn = asyncio.Lock()
        self._hangup: asyncio.Task[None] | None = None

    async def reload(self) -> dict[str, object]:
        """What has been taken up (``applied``), and what the next start of llmsup will (``at_next_start``).

        Raises:
            ConfigError: the file is wrong; all is as it was.
        """
        async with self._turn:
            self._notifier.reloading()
            try:
                # In a thread: a file server that hangs must not hold up the requests.
                fresh, pair = await asyncio.to_thread(self._read)
            except ConfigError as exc:
                log.error("configuration refused; going on with the old one", error=str(exc))
                raise
            finally:
                self._notifier.ready()
            return self._take_up(fresh, pair)

    def _read(self) -> tuple[Loaded, Pair | None]:
        """The file, and the certificate it names: a new one may lie under the old name."""
        fresh = load(self._running.path, self._environ)
        files = certificate_files(fresh.settings)
        return fresh, read_pair(files) if files is not None and self._tls is not None else None

    def _take_up(self, fresh: Loaded, pair: Pair | None) -> dict[str, object]:
        applied = []
        level = fresh.settings.log.level
        if level != self._level:  # compared with the level in force, which may come from an earlier reload
            self._set_level(level)
            self._level = level
            applied.append("log.level")
        at_once = AT_ONCE
        if self._tls is not None and pair is not None:
            at_once |= TLS_FILES
            if self._tls.take(pair):
                applied.append("tls")
        later = [key for key in changed(self._running.settings, fresh.settings) if key not in at_once]
        log.warning("configuration read again", applied=applied, at_next_start=later)
        return {"config": str(self._running.path), "applied": applied, "at_next_start": later}

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
