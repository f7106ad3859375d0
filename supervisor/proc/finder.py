"""Which llama-server is to be started now: found, probed, and looked at again only when its file has changed."""

import asyncio
from pathlib import Path

import structlog

from supervisor.errors import BuildError
from supervisor.proc import binary
from supervisor.proc.filewatch import Stamps, stamp

log: structlog.stdlib.BoundLogger = structlog.get_logger("binary")


class BinaryFinder:
    """Locates and probes llama-server in a thread, again only when the file has changed."""

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._found: binary.Binary | None = None
        self._stamp: tuple[int, int] | None = None

    async def __call__(self) -> binary.Binary:
        return await asyncio.to_thread(self._find)

    def _find(self) -> binary.Binary:
        path = binary.locate(self._setting)
        try:
            facts = path.stat()
        except FileNotFoundError:  # other errors are the machine's, and pass
            raise BuildError(f"{path} has just been removed", hint=binary.HINT) from None
        stamp = (facts.st_mtime_ns, facts.st_size)
        if self._found is None or self._found.path != path or self._stamp != stamp:
            if (weak := binary.weakness(path)) is not None:  # named in the configuration; said, and used
                log.warning(
                    "others could have written llama-server", path=str(path), why=str(weak), do=weak.remedy
                )
            self._found, self._stamp = binary.probe(path), stamp
        return self._found

    async def stamps(self, model: Path) -> Stamps:
        """Of the model's file and of the binary, as `filewatch` compares them."""
        return await asyncio.to_thread(self._stamps, model)

    def _stamps(self, model: Path) -> Stamps:
        try:
            path = binary.locate(self._setting)
        except (BuildError, OSError):
            return stamp(model), None
        return stamp(model), stamp(path)
