"""llama-server and the model files: can they be used, together, on this machine?"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor.doctor.finding import Finding, fail, ok, warn
from supervisor.errors import BuildError, ConfigError
from supervisor.proc import binary, machine, modelfile
from supervisor.proc.command import ModelSpec
from supervisor.proc.fitting import Room, decide, need
from supervisor.proc.gguf import Header
from supervisor.proc.remedies import remedy
from supervisor.types import MIB

# Where this stands, the names of the architectures stand too (src/llama-arch.cpp beside llama-model.cpp).
LANDMARK = b"unknown model architecture"


def llama_server(setting: str) -> tuple[Finding, binary.Binary | None]:
    try:
        found = binary.probe(binary.locate(setting))
    except BuildError as exc:
        return fail("llama-server", exc.message, exc.hint), None
    except OSError as exc:
        return fail("llama-server", f"cannot be run just now: {exc}"), None
    return ok("llama-server", f"{found.path}, version {found.version}"), found


def knows(program: Path, architecture: str) -> bool | None:
    """Whether the program or a library beside it has the architecture's name; None: it cannot be told."""
    for path in (
        program,
        *sorted(program.parent.glob("*libllama*")),
        *sorted(program.parent.glob("../lib/libllama*")),
    ):
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(LANDMARK) >= 0:
                    return content.find(architecture.encode() + b"\0") >= 0
        except (OSError, ValueError):
            continue
    return None


class Models:
    """Looks at one model after the other; what earlier ones take counts."""

    def __init__(
        self,
        server: binary.Binary | None,
        *,
        limit_mb: int,
        min_free_mb: int,
        running: frozenset[str] = frozenset(),
        measure: Callable[[], machine.Memory | None] = machine.memory,
    ) -> None:
        """``running``: models whose memory is in use already."""
        self._server = server
        self._limit = limit_mb * MIB
        self._min_free = min_free_mb * MIB
        self._running = running
        self._measure = measure
        self._others = self._coming = 0

    def check(self, spec: ModelSpec) -> Iterator[Finding]:
        title = f"model {spec.name}"
        try:
            seen = modelfile.look(Path(spec.path))
        except OSError as exc:
            yield fail(title, f"cannot be looked at just now: {exc}")
            return
        if seen.cause is not None:
            yield fail(
                title, f"{seen.cause.name}: {seen.cause.detail}", remedy(seen.cause.name, spec.name).todo
            )
        elif seen.header is None:
            yield warn(
                title, f"{seen.doubt} (in llmsup's own reading)", "llama-server may know better: start it"
            )
        else:
            yield ok(title, f"{spec.path}: {seen.header}")
            yield from self._suits(title, spec, seen.header)
            yield from self._fits(title, spec, seen.header)

    def _suits(self, title: str, spec: ModelSpec, header: Header) -> Iterator[Finding]:
        name = header.architecture
        if not header.tensor_count or not name:
            yield fail(
                title,
                "it holds no weights or names no architecture",
                "is it a vocabulary only? take another file",
            )
        elif self._server is not None and knows(self._server.path, name) is False:
            newer = "build a newer llama-server, or take another conversion of the model"
            yield fail(title, f"{self._server.path} does not know the architecture {name!r}", newer)
        trained, each = header.context_length, spec.context_size // max(1, spec.parallel)
        if trained and each > trained:
            says = f"{each} tokens a slot (context_size {spec.context_size} / parallel {spec.parallel})"
            yield warn(
                title,
                f"{says}, but it was trained with {trained}",
                f"context_size {trained * spec.parallel} is the most that is useful",
            )
        if trained and not header.has_chat_template:
            yield warn(
                title,
                "it has no chat template",
                "llama-server takes a generic one; or --chat-template in args",
            )

    def _fits(self, title: str, spec: ModelSpec, header: Header) -> Iterator[Finding]:
        if not header.tensor_count:
            return
        try:
            wanted = need(spec, header)
        except ConfigError as exc:
            yield fail(title, exc.message, f"correct models.{spec.name}.args")
            return
        there, coming = self._measure(), self._coming + self._min_free
        cause = decide(
            spec,
            wanted,
            Room(
                limit=self._limit,
                others=self._others,
                total=there.total - self._min_free if there is not None else None,
                available=there.available - coming
                if there is not None and spec.name not in self._running
                else None,
            ),
        )
        self._others += wanted.certain_bytes
        self._coming += 0 if spec.name in self._running else wanted.at_once_bytes
        if cause is not None:
            yield fail(title, f"{cause.name}: {cause.detail}", remedy(cause.name, spec.name).todo)
        else:
            notes = "".join(f"; {note}" for note in wanted.estimate.notes)
            yield ok(title, f"takes {wanted.estimate}{notes}; memory.limit_mb is {self._limit // MIB}")
