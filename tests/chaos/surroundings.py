"""Faults of what daemon and child live on: disk, descriptors, files. (FAULTS 7, 22, 30, 32)"""

import contextlib
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.stage import Fault, Stage

BLOCK = b"\0" * (64 << 10)
SHORTAGE_S = 1.0
FOUND_S = 15.0  # until a file that was cut short has killed one child, and kept the next from starting


def _no_small_disk(stage: Stage) -> str:
    return "" if stage.small_disk else "needs the right to mount a small disk"


def disk_full(stage: Stage) -> None:
    """For the logs, the record of deaths and the control socket alike."""
    filler = stage.daemon.state_dir / "filler"
    try:
        _fill(filler)
        with stage.recovery():
            stage.await_next(stage.daemon.kill_child())
        _await_complaint(stage)
    finally:
        filler.unlink(missing_ok=True)
    _await_no_complaint(stage)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (len(BLOCK), 1):
            with contextlib.suppress(OSError):  # ENOSPC is what this is for
                while True:
                    file.write(BLOCK[:size])


def files_may_not_grow(stage: Stage) -> None:
    """The daemon's limit for the size of files is reached: its own stderr (a file here) too."""
    with _limited(stage, resource.RLIMIT_FSIZE, 1):
        with stage.recovery():
            stage.await_next(stage.daemon.kill_child())
        _await_complaint(stage)
    _await_no_complaint(stage)
    stage.step_in()  # that child has inherited the limit


def _await_complaint(stage: Stage) -> None:
    stage.await_status(lambda status: status["logs"]["error"] and status["deaths"]["error"], "a word of it")


def _await_no_complaint(stage: Stage) -> None:
    stage.await_status(
        lambda status: not (status["logs"]["error"] or status["deaths"]["error"]), "all written again"
    )


def logs_removed(stage: Stage) -> None:
    shutil.rmtree(stage.daemon.state_dir / "logs", ignore_errors=True)
    with stage.recovery():
        stage.await_next(stage.daemon.kill_child())
    folder = stage.daemon.state_dir / "logs"
    stage.await_status(lambda _: folder.is_dir() and any(folder.iterdir()), "the logs again")


def logs_barred(stage: Stage) -> None:
    """A file where the folder of the logs was."""
    folder = stage.daemon.state_dir / "logs"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.touch(exist_ok=False)
    except FileExistsError:  # it was made again in between; the rest holds nevertheless
        shutil.rmtree(folder, ignore_errors=True)
        folder.touch()
    try:
        with stage.recovery():
            stage.await_next(stage.daemon.kill_child())
        stage.await_status(lambda status: status["logs"]["error"], "a word of it")
    finally:
        folder.unlink()
    stage.await_status(lambda status: not status["logs"]["error"], "written again")


def no_descriptors(stage: Stage) -> None:
    """The daemon has none left for a second, and a child dies in it: nobody is held to account for that."""
    with stage.clients.excused("refused"):
        model = stage.model()
        with stage.recovery():
            with _limited(stage, resource.RLIMIT_NOFILE, 3):
                os.kill(model["pid"], 9)
                time.sleep(SHORTAGE_S)
            stage.await_next(model["generation"])
    stage.expect_cause("killed", "spawn_failed")


@contextlib.contextmanager
def _limited(stage: Stage, what: int, soft: int) -> Iterator[None]:
    """The daemon's own limit, lowered; its children inherit it."""
    pid = stage.process.pid
    old, hard = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, what, (old, hard))


# ---- files it is started from


def model_replaced(stage: Stage) -> None:
    """By another one (of the same content), while the old one is served: the next generation takes the new one."""
    fresh = stage.model_path.with_suffix(".new")
    shutil.copyfile(stage.model_path, fresh)
    fresh.replace(stage.model_path)
    with stage.recovery():
        stage.await_next(stage.daemon.kill_child())
    stage.expect_cause("killed")


def model_gone(stage: Stage) -> None:
    _without(stage, stage.model_path, "model_missing")


def binary_gone(stage: Stage) -> None:
    _without(stage, stage.binary_path, "cannot_start", "not_executable")


def _without(stage: Stage, path: Path, *causes: str) -> None:
    """It dies while a file that it needs is away: FAILED, and started by itself when the file is back."""
    away = path.with_suffix(".away")
    with stage.clients.excused("refused"):
        path.rename(away)
        try:
            generation = stage.daemon.kill_child()
            stage.await_state("FAILED")
            stage.expect_cause(*causes)
        finally:
            away.rename(path)
        with stage.recovery():
            stage.await_next(generation)


def model_cut_short(stage: Stage) -> None:
    """In place, while it is mapped: a bus error, then a file nobody can load, until a good one is put there."""
    good = stage.model_path.with_suffix(".good")
    shutil.copyfile(stage.model_path, good)
    with stage.clients.excused("refused"):
        model = stage.model()
        os.truncate(stage.model_path, stage.model_path.stat().st_size // 2)
        try:
            stage.await_state("FAILED", FOUND_S)
            stage.expect_cause("model_corrupt")
        finally:
            good.replace(stage.model_path)
        with stage.recovery():
            stage.await_next(model["generation"])


FAULTS = [
    Fault("disk full", (30,), disk_full, lacking=_no_small_disk),
    Fault("files may not grow", (29, 30), files_may_not_grow),
    Fault("log folder removed", (30,), logs_removed),
    Fault("log folder a file", (30,), logs_barred),
    Fault("no descriptors", (32,), no_descriptors),
    Fault("model file replaced", (38,), model_replaced),
    Fault("model file gone", (7,), model_gone),
    Fault("model file cut short", (1, 7), model_cut_short, limit=2),
    Fault("binary gone", (22,), binary_gone),
]
