import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.proc import leftovers
from supervisor.proc.leftovers import Record, Seen

BOOT, HOME = "boot-1", "0123456789abcdef"
RECORD = Record(BOOT, 4711, 1000, f"{HOME}:1:demo:1", "8:99", "demo", 1)
OURS = Seen(4711, 1000, f"{HOME}:1:demo:1", "8:99", True)
STRANGER = Seen(4711, 2000, "", "8:1", False)

WRONG_KIND = (
    b'{"schema": 1, "children": [{"boot_id": "b", "pid": "1", "started": 1, "marker": "m", "exe": "e",'
    b' "model": "d", "generation": 1}]}'
)


def ended(seen: Seen, records=(RECORD,), boot_id: str = BOOT) -> bool:
    return bool(list(leftovers.left_over([seen], records, boot_id=boot_id, home=HOME)))


# ---- the decision


def test_a_child_of_ours_has_all_marks():
    assert leftovers.marks(OURS, [RECORD], boot_id=BOOT, home=HOME) == ("record", "marker", "program", "lock")


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("seen", "enough"),
    [
        (STRANGER, False),  # only the pid is the same: it is no mark at all
        (Seen(4711, 1000, "", "", False), False),  # pid and start time, nothing else
        (Seen(9, 9, "", "8:99", False), False),  # somebody's own llama-server, from the same file
        (Seen(9, 9, OURS.marker, "8:1", False), False),  # a copied environment
        (Seen(9, 9, "", "8:1", True), False),  # somebody looks at the lock file
        (Seen(9, 9, "ffff:1:demo:1", "8:99", False), False),  # another llmsup's, from the same file
        (Seen(4711, 1000, OURS.marker, "", False), True),
        (Seen(4711, 1000, "", "8:99", False), True),
        (Seen(9, 9, OURS.marker, "8:99", False), True),
        (Seen(9, 9, OURS.marker, "8:1", True), True),  # not recorded: we were killed before that
    ],
)
def test_two_marks_are_needed(seen, enough):
    assert ended(seen) is enough


@pytest.mark.fault(25)
def test_after_another_boot_pid_and_start_time_say_nothing():
    assert not ended(Seen(4711, 1000, "", "8:99", False), boot_id="boot-2")
    assert not ended(
        Seen(4711, 1000, "", "8:99", False), (Record("", *[4711, 1000, "", "8:99", "d", 1]),), ""
    )


def test_a_home_that_begins_like_ours_is_another():
    assert leftovers.marks(Seen(9, 9, f"{HOME}0:1:demo:1", "", False), [], boot_id=BOOT, home=HOME) == ()


# ---- the record


def test_what_is_written_is_read(tmp_path: Path):
    path = tmp_path / "children.json"
    assert leftovers.recorded(path) == ()
    leftovers.dump([RECORD], path)
    assert leftovers.recorded(path) == (RECORD,)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["children.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"schema": 1, "children": [{"boot_id": "b", "pi',
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema": 2, "children": []}',
        b'{"schema": 1, "children": [{"pid": 1}]}',
        WRONG_KIND,
        b"[" * 100_000,
    ],
)
def test_a_broken_record_is_no_record(tmp_path: Path, content: bytes):
    path = tmp_path / "children.json"
    path.write_bytes(content)
    assert leftovers.recorded(path) == ()


def test_a_planted_symlink_is_not_followed(tmp_path: Path):
    target = tmp_path / "target"
    leftovers.dump([RECORD], target)
    (tmp_path / "children.json").symlink_to(target)
    assert leftovers.recorded(tmp_path / "children.json") == ()
    (tmp_path / "children.new").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        leftovers.dump([], tmp_path / "children.json")
    assert leftovers.recorded(target) == (RECORD,)


# ---- the machine


@pytest.fixture
def sleeper(tmp_path: Path):
    """A process with a marker, a session of its own, and a file open."""
    held = (tmp_path / "held").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
        env={"LLMSUP_INSTANCE": f"{HOME}:1:demo:1"},
        stdout=subprocess.PIPE,
        pass_fds=(held.fileno(),),
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    held.close()


def test_a_process_is_seen_with_its_marks(sleeper, tmp_path: Path):
    locks = frozenset({leftovers.file_id(tmp_path / "held")})
    (seen,) = [one for one in leftovers.processes(locks) if one.pid == sleeper.pid]
    assert seen.marker == f"{HOME}:1:demo:1"
    assert seen.exe == leftovers.file_id(Path(sys.executable))
    assert seen.lock
    assert seen.started == leftovers.started(sleeper.pid)
    other = leftovers.look(sleeper.pid, frozenset({"1:1"}))
    assert other is not None
    assert not other.lock


def test_we_do_not_see_ourselves():
    assert os.getpid() not in {seen.pid for seen in leftovers.processes(frozenset())}


def test_a_stopped_process_is_ended(sleeper):
    seen = leftovers.look(sleeper.pid, frozenset())
    assert seen is not None
    os.kill(sleeper.pid, signal.SIGSTOP)
    leftovers.end(seen)
    assert leftovers.await_gone([seen]) == []
    assert sleeper.wait() == -signal.SIGKILL
    assert leftovers.look(sleeper.pid, frozenset()) is None
    leftovers.end(seen)  # nothing to end, no error


@pytest.mark.fault(25)
def test_a_stranger_with_the_same_pid_gets_no_signal(sleeper):
    seen = leftovers.look(sleeper.pid, frozenset())
    assert seen is not None
    leftovers.end(Seen(seen.pid, seen.started - 1, seen.marker, seen.exe, lock=True))
    assert leftovers.await_gone([seen], within_s=0.05) == [seen]
