"""The builds in the cache: `<cache>/llama.cpp/<key>/{bin/,build.json,build.log}`.

Invariant: a folder with a `build.json` is whole, because both arrive with one rename.
`build.json` is touched whenever its build is asked for, so the newest is the one wanted last.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from supervisor.proc import lifelock
from supervisor.proc.building import folders
from supervisor.proc.building.recipe import SERVER, Inputs

STALE_TREE_S = 14 * 24 * 3600  # an interrupted build that nobody continued for two weeks


@dataclass(frozen=True, slots=True)
class Record:
    """The content of `build.json`."""

    key: str
    version: str  # the line the binary prints
    backend: str
    flags: tuple[str, ...]
    source: str  # for people: "llama-cpp-python 0.3.36" or a path
    source_hash: str
    machine: str
    cpu: str
    compiler: str
    built_at: str  # ISO 8601, UTC
    seconds: float

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"flags": list(self.flags)}


@dataclass(frozen=True, slots=True)
class Published:
    record: Record
    folder: Path

    @property
    def server(self) -> Path:
        return self.folder / "bin" / SERVER


def from_json(content: object) -> Record | None:
    """The record, or None for anything else: another version's file, one edited by hand."""
    if not isinstance(content, dict):
        return None
    names = {field.name for field in fields(Record)}
    values = {name: value for name, value in content.items() if name in names}
    flags, seconds = values.pop("flags", None), values.pop("seconds", None)
    if not isinstance(flags, list) or not isinstance(seconds, int | float):
        return None
    if len(values) != len(names) - 2 or not all(isinstance(value, str) for value in values.values()):
        return None
    return Record(flags=tuple(str(flag) for flag in flags), seconds=float(seconds), **values)


def read(folder: Path) -> Published | None:
    """The build in `folder`, when its record and its binary are there."""
    record = from_json(folders.read_json(folder / "build.json"))
    if record is None or record.key != folder.name:
        return None
    found = Published(record, folder)
    return found if found.server.is_file() and os.access(found.server, os.X_OK) else None


def newest_first(builds: Path) -> list[Published]:
    """Every whole build, the one asked for last in front."""
    return sorted(_all(builds), key=_asked_ns, reverse=True)


def find(builds: Path, wanted: Inputs) -> Published | None:
    """The build made from `wanted`; without a compiler here, one that differs in the compiler alone."""
    if wanted.compiler:
        return read(builds / wanted.key())
    return next((item for item in newest_first(builds) if _alike(item.record, wanted)), None)


def touch(item: Published) -> None:
    """Make it the newest; a cache that cannot be written keeps its order."""
    try:
        os.utime(item.folder / "build.json")
    except OSError:
        return


def sweep(builds: Path, *, keep: str, now_s: float) -> None:
    """Remove the trees of interrupted builds that are old and that nobody works in. `now_s`: Unix time."""
    for tree in builds.glob(".building-*"):
        key = tree.name.removeprefix(".building-")
        if key == keep or lifelock.is_held(builds / f".lock-{key}"):
            continue
        if now_s - tree.stat().st_mtime > STALE_TREE_S:
            folders.discard(tree)


def _all(builds: Path) -> Iterator[Published]:
    try:
        names = sorted(os.listdir(builds))
    except OSError:
        return
    for name in names:
        if not name.startswith(".") and (found := read(builds / name)):
            yield found


def _asked_ns(item: Published) -> int:
    try:
        return (item.folder / "build.json").stat().st_mtime_ns
    except OSError:
        return 0


def _alike(record: Record, wanted: Inputs) -> bool:
    mine = (record.source_hash, record.backend, record.flags, record.machine, record.cpu)
    return mine == (wanted.source_hash, wanted.backend, wanted.flags, wanted.machine, wanted.cpu)
