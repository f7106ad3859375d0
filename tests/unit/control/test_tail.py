"""The end of a log over its rotations, and what is added."""

from pathlib import Path

import pytest

from supervisor.control import tail
from supervisor.control.tail import Follower, last_lines
from supervisor.observe import logfolder


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def test_no_file_is_no_lines(log: Path) -> None:
    assert last_lines(log, 10) == []


def test_the_newest_lines_oldest_first(log: Path) -> None:
    log.write_text("one\ntwo\nthree\n")
    assert last_lines(log, 2) == ["two", "three"]
    assert last_lines(log, 0) == []


def test_a_line_that_is_not_over_yet_counts(log: Path) -> None:
    log.write_text("one\ntw")
    assert last_lines(log, 2) == ["one", "tw"]


def test_rotated_files_are_read_as_far_as_it_takes(log: Path) -> None:
    log.write_text("five\n")
    log.with_name("child.log.1").write_text("three\nfour\n")
    log.with_name("child.log.2").write_text("one\ntwo\n")
    assert last_lines(log, 4) == ["two", "three", "four", "five"]
    assert last_lines(log, 99) == ["one", "two", "three", "four", "five"]


def test_only_line_feeds_end_lines_and_bytes_that_are_no_text_do_not_hurt(log: Path) -> None:
    log.write_bytes(b"a\x0cb\x85\xff\r\nc\n")
    assert last_lines(log, 5) == ["a\x0cb\ufffd\ufffd\r", "c"]


def test_a_large_file_is_read_from_its_end_only(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    monkeypatch.setattr(tail, "BLOCK_BYTES", 1024)
    assert last_lines(log, 3) == ["line 99997", "line 99998", "line 99999"]


def test_no_answer_is_larger_than_it_may_be(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "BLOCK_BYTES", 16)
    log.write_text("0123456\n" * 100)
    found = last_lines(log, 100, most_bytes=32)
    assert 3 <= len(found) <= 5
    assert set(found) == {"0123456"}


# ---- following


def test_what_is_added_comes_in_whole_lines(log: Path) -> None:
    log.write_text("old\n")
    follower = Follower(log)
    assert follower.read() == []
    with log.open("a") as file:
        file.write("new\nha")
        file.flush()
        assert follower.read() == ["new"]
        file.write("lf\n\n")
        file.flush()
        assert follower.read() == ["half", ""]
    follower.close()


def test_across_a_rotation_nothing_is_lost(log: Path) -> None:
    log.write_text("old\n")
    follower = Follower(log)
    with log.open("a") as file:
        file.write("last words\n")
    logfolder.shift(log)
    log.write_text("first words\n")
    assert follower.read() == ["last words"]
    assert follower.read() == ["first words"]
    follower.close()


def test_a_file_that_comes_later_is_read_from_its_beginning(log: Path) -> None:
    follower = Follower(log)
    assert follower.read() == []
    log.write_text("born\n")
    assert follower.read() == ["born"]
    follower.close()


def test_a_file_that_is_removed_for_a_moment_is_waited_for(log: Path) -> None:
    log.write_text("old\n")
    follower = Follower(log)
    log.unlink()
    assert follower.read() == []
    log.write_text("again\n")
    assert follower.read() == ["again"]
    follower.close()


def test_a_line_without_end_is_passed_on_in_pieces(log: Path) -> None:
    log.write_text("")
    follower = Follower(log)
    with log.open("a") as file:
        file.write("x" * (2 * tail.BLOCK_BYTES))
    got = [line for _ in range(3) for line in follower.read()]
    assert "".join(got) == "x" * (2 * tail.BLOCK_BYTES)
    follower.close()


def test_closing_waits_for_no_read_and_the_read_closes(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_text("old\n")
    follower = Follower(log)
    file = follower._file
    assert file is not None
    read = follower._read

    def slowly() -> bytes:
        follower.close()  # as from another thread, while this one reads
        assert not file.closed
        return read()

    monkeypatch.setattr(follower, "_read", slowly)
    follower.read()
    assert file.closed
