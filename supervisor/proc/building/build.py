"""Building llama-server into the cache: decide, find, fetch, compile, publish.

Invariant: killed at any moment, the next run completes. A build happens in `.building-<key>`, which
is kept for the next run to continue in, and is published by one rename; the lock of the key, which
the compilers inherit, keeps two from one folder.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor import secure_path
from supervisor.clock import Clock
from supervisor.errors import BuildError
from supervisor.proc import binary
from supervisor.proc.building import checkout, compilation, folders, published, recipe, source, toolchain
from supervisor.proc.building.progress import Progress
from supervisor.proc.building.published import Published, Record
from supervisor.proc.building.recipe import FIT_PARAMS, SERVER, Inputs
from supervisor.proc.building.source import Fetch, Sdist
from supervisor.proc.building.toolchain import Backend, Survey


@dataclass(frozen=True, slots=True)
class Request:
    backend: Backend
    source: Path | None = None  # None: the pinned archive
    jobs: int | None = None  # None: as many as processors and memory allow
    force: bool = False  # compile anew even when it is there


@dataclass(frozen=True, slots=True)
class Built:
    item: Published
    fresh: bool  # False: it was there already


@dataclass(frozen=True, slots=True)
class _Job:
    """A build, decided: nothing was fetched or written for it yet."""

    inputs: Inputs
    label: str  # the source, for people
    source: Path | None  # None: the pinned archive, perhaps still to be fetched
    survey: Survey
    builds: Path

    @property
    def key(self) -> str:
        return self.inputs.key()

    @property
    def tree(self) -> Path:
        return self.builds / f".building-{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """What a build reaches out with, handed in so that tests can replace it."""

    clock: Clock
    progress: Progress
    fetch: Fetch
    pin: Sdist
    cache: Path
    root: Path | None  # the checkout whose vendor folder gets the source; None: the cache
    environ: Mapping[str, str]

    def build(self, request: Request) -> Built:
        """The build `request` asks for: at once when it is there, else made.

        Raises:
            BuildError: something is missing or failed.
            PermissionDenied: the cache or the checkout cannot be written.
        """
        if (weak := secure_path.weakness(folders.builds_dir(self.cache))) is not None:
            raise BuildError(
                f"nothing is built where others could change it: {weak}",
                hint=f"{weak.remedy}; or set LLMSUP_CACHE_DIR to a folder of your own",
            )
        try:
            job = self._decide(request)
            return self._at_hand(job, request) or self._make(job, request)
        except OSError as error:
            raise folders.from_os_error(error) from error

    def _decide(self, request: Request) -> _Job:
        """Name the source, look at the machine and compose the key."""
        if request.source:
            named = checkout.identify(request.source)
            label, digest, path, commit = named.label, named.digest, named.path, ""
        else:
            pin = self.pin
            label, digest, path, commit = f"{pin.project} {pin.version}", pin.sha256, None, pin.commit
        host = toolchain.host()
        flags = recipe.flags(request.backend, macos=host.macos, commit=commit, environ=self.environ)
        survey = toolchain.survey(request.backend, environ=self.environ)
        inputs = recipe.inputs(digest, request.backend, flags, host, survey.tools)
        return _Job(inputs, label, path, survey, folders.builds_dir(self.cache))

    def _at_hand(self, job: _Job, request: Request) -> Built | None:
        found = None if request.force else published.find(job.builds, job.inputs)
        if found is None:
            return None
        if (weak := binary.weakness(found.server)) is not None:
            self.progress.say(f"building it again, as others could have written it: {weak}")
            return None
        try:
            binary.version(found.server)
        except BuildError as error:
            self.progress.say(f"building it again: {error.message}")
            return None
        published.touch(found)
        return Built(found, fresh=False)

    def _make(self, job: _Job, request: Request) -> Built:
        tools = job.survey.tools
        if tools is None:
            raise missing(job.survey)
        waiting = f"waiting for another build of {job.key}, or for the compilers a killed one left behind"
        with folders.exclusive(job.builds / f".lock-{job.key}", lambda: self.progress.say(waiting)) as lock:
            if at_hand := self._at_hand(job, request):  # made by the one we waited for
                return at_hand
            started_s = self.clock.now()
            path = job.source or source.vendored(self.pin, self.cache, self.root, self.progress, self.fetch)
            if request.force or secure_path.weakness(job.tree) is not None:
                folders.discard(job.tree)
            work = compilation.Compilation(
                source=path,
                tree=job.tree,
                tools=tools,
                flags=job.inputs.flags,
                targets=_targets(path),
                jobs=request.jobs or _jobs(),
                need_bytes=recipe.NEED_BYTES[request.backend],
                lock=lock,
            )
            self.progress.say(f"building {job.label} for {request.backend} ({tools.compiler})")
            compilation.run(work, self.progress, self.environ)
            item = _publish(job, self._record(job, self.clock.now() - started_s), work.targets)
            published.sweep(job.builds, keep=job.key, now_s=time.time())
            return Built(item, fresh=True)

    def _record(self, job: _Job, seconds: float) -> Record:
        """Raises BuildError when what was compiled does not run."""
        made = job.inputs
        return Record(
            key=job.key,
            version=binary.version(job.tree / "bin" / SERVER),
            backend=made.backend,
            flags=made.flags,
            source=job.label,
            source_hash=made.source_hash,
            machine=made.machine,
            cpu=made.cpu,
            compiler=made.compiler,
            built_at=self.clock.wall().isoformat(timespec="seconds"),
            seconds=round(seconds, 1),
        )


def missing(survey: Survey) -> BuildError:
    """All that has to be installed in one error: a line each in the detail, one command in the hint."""
    each = [f"{item.why}: {toolchain.advice_here([item.tool])}" for item in survey.missing]
    return BuildError(
        f"cannot build llama-server: {', '.join(item.why for item in survey.missing)}",
        hint=toolchain.advice_here(item.tool for item in survey.missing),
        detail="\n".join(each),
    )


def _jobs() -> int:
    import psutil

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return recipe.default_jobs(cpus, psutil.virtual_memory().available)


def _targets(path: Path) -> tuple[str, ...]:
    """Older sources have no llama-fit-params."""
    return (SERVER, FIT_PARAMS) if (path / "tools" / "fit-params").is_dir() else (SERVER,)


def _publish(job: _Job, record: Record, targets: tuple[str, ...]) -> Published:
    """Lay the programs beside their record and give the folder its name; then the tree can go."""
    fresh, target = job.builds / f".publishing-{job.key}", job.builds / job.key
    folders.discard(fresh)
    (fresh / "bin").mkdir(parents=True)
    for name in targets:
        shutil.copy2(job.tree / "bin" / name, fresh / "bin" / name)
    shutil.copy2(job.tree / compilation.LOG, fresh / compilation.LOG)
    folders.write_atomic(fresh / "build.json", json.dumps(record.to_json(), indent=2) + "\n")
    folders.replace_folder(fresh, target)
    folders.discard(job.tree)
    return Published(record, target)
