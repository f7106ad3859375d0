"""`proxy.stillness`: what counts as a sign of life in an answer, and for how long there was none."""

import pytest

from supervisor.proc import vitals
from supervisor.proc.hang import Standing
from supervisor.proc.vitals import Vitals
from supervisor.proxy.stillness import Stillness, Swept, is_ping


@pytest.mark.parametrize(
    "block",
    [
        b":\n\n",
        b"3\r\n:\n\n\r\n",
        b"3\r\n:\n\n\r\n3\r\n:\n\n\r\n",
        b": ping 12\n\n",
        b"a\r\n: still..\n\r\n",
        b":\r\n\r\n",
    ],
)
def test_comment_lines_are_pings(block):
    assert is_ping(block)


@pytest.mark.parametrize(
    "block",
    [
        b"data: {}\n\n",
        b"a\r\ndata: {}\n\n\r\n",
        b"3\r\n:\n\n\r\na\r\ndata: {}\n\n\r\n",
        b"event: x\n\n",
        b":\n\ndata: :\n\n",
        b":" + b"x" * 300 + b"\n\n",
    ],
)
def test_anything_else_is_not(block):
    assert not is_ping(block)


def test_quiet_begins_when_something_is_there_and_anew_when_it_moves():
    it = Stillness()
    for now in (1.0, 2.0, 3.0):
        it.note(Swept(0, moved=False), now)
    assert it.standing(3.5) == Standing(0, 0.5)
    it.note(Swept(2, moved=False), 4.0)
    it.note(Swept(2, moved=False), 5.0)
    assert it.standing(6.0) == Standing(2, 2.0)
    it.note(Swept(3, moved=True), 6.0)
    assert it.standing(6.5) == Standing(3, 0.5)


def test_idle_is_since_the_processor_was_last_used(monkeypatch):
    signs = Vitals(0, 10.0, 0, "S")
    monkeypatch.setattr(vitals, "read", lambda _: signs)
    it = Stillness()
    assert it.idle_s(1, 1000.0) == 0.0  # nothing is known yet
    assert it.idle_s(1, 1001.0) == 1.0
    assert it.idle_s(1, 1001.0) == 1.0
    signs = Vitals(0, 10.5, 0, "S")
    assert it.idle_s(1, 1002.0) == 0.0
    assert it.idle_s(1, 1004.0) == 2.0
    assert it.idle_s(1, 1064.0) == 0.0  # we were away


def test_all_answers_of_one_sweep_share_one_look(monkeypatch):
    looks = []
    monkeypatch.setattr(vitals, "read", lambda pid: looks.append(pid) or Vitals(0, 10.0, 0, "S"))
    it = Stillness()
    it.idle_s(7, 1000.0)
    for sweep in range(1, 4):
        idle = [it.idle_s(7, 1000.0 + sweep + answer * 0.001) for answer in range(50)]
        assert idle == pytest.approx([sweep] * 50, abs=0.06)
    assert looks == [7] * 4
