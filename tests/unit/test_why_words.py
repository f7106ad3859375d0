"""What `llmsup why` says, from entries; that it finds them is tested on a daemon."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from supervisor.cli import output, why
from supervisor.events import Death
from supervisor.proc.deaths import Entry, boot_id
from supervisor.types import MIB, Generation

NOW = datetime(2030, 1, 2, tzinfo=UTC)
RUNNING = {
    "models": [{"name": "demo", "state": "BACKOFF", "next_try_s": 3.2, "degraded": None}],
    "deaths": {"error": None},
}


def entry(cause="killed", ago_s=60.0, *, boot="", **changes):
    facts = {
        "at": NOW - timedelta(seconds=ago_s),
        "generation": Generation(3),
        "cause": cause,
        "signal": None,
        "exit_code": None,
        "uptime_s": 12.0,
        "detail": "ended by SIGKILL",
        "model": "demo",
        "phase": "ready",
        "then": "started it again at once",
    }
    return Entry(Death(**{**facts, **changes}), boot)


def report(*entries, number=5, state=None, model=None):
    return output.unstyled("\n".join(why._report(entries, number, NOW, state, model)))


def test_one_death_in_full():
    said = report(entry(rss_bytes=512 * MIB, lines=("first", "", "last words"), degraded="safe profile (x)"))
    for part in (
        "killed  demo",
        "(1 min 0 s ago)",
        "  what: ended by SIGKILL\n",
        "  when: generation 3, while ready, 12.0 s after its start, holding 512 MiB\n",
        "  with: the safe profile (x)\n",
        "  said: last words\n",
        "  then: llmsup started it again at once\n",
        "  do:   Nobody did that?",
    ):
        assert part in said


def test_a_cause_is_explained_once():
    said = report(entry(), entry(ago_s=90), entry("segfault"))
    assert said.count("It was ended by SIGKILL from outside") == 1
    assert said.count("  do:   ") == 2


def test_how_often():
    said = report(entry(), entry(), entry("segfault", 2 * 3600), entry("aborted", 25 * 3600))
    assert "Last hour: 2 x killed. Last day: 2 x killed, 1 x segfault." in said


def test_what_it_is_doing_now():
    assert "demo is BACKOFF now, next try in 3 s" in report(entry(), state=RUNNING)
    assert "demo is" not in report(entry(), state=RUNNING, model="other")
    assert "not running" in report(entry())


def test_a_wish_is_one_line():
    assert report(entry("stopped")).splitlines()[-1].endswith("(1 min 0 s ago), after 12.0 s")


def test_older_ones_are_mentioned():
    assert "2 older ones: llmsup why -n 3" in report(entry(), entry(), entry(), number=1)


def test_nothing():
    assert "No deaths are on record." in report()
    assert "No deaths are on record of demo." in report(model="demo")


@pytest.mark.skipif(not boot_id(), reason="this machine's boots have no names")
def test_another_boot_is_told():
    assert "before the machine was last started" in report(entry(boot="another"))
    assert "before the machine" not in report(entry(boot=boot_id()))


def test_a_clock_that_was_set():
    assert "in the future: the clock was set" in report(entry(ago_s=-500))


def test_the_childs_words_cannot_command_the_terminal():
    said = "\n".join(
        why._report([entry(detail="\x1b]0;title\x07", lines=("\x1b[2Jgone\r",))], 5, NOW, None, None)
    )
    assert "\x1b]" not in said
    assert "\x1b[2J" not in said
    assert "\x07" not in said


def test_evidence_instead_of_last_words_and_not_twice():
    assert "said: GGML_ASSERT" in report(entry(evidence="GGML_ASSERT(x)", lines=("other",)))
    assert "said:" not in report(entry(detail="again: no memory", evidence="no memory", lines=("other",)))


def test_for_machines():
    document = json.loads(json.dumps(why._document([entry(), entry("segfault", 7200)], 1, NOW, "")))
    (death,) = document["deaths"]
    assert (death["cause"], death["age_s"], death["model"]) == ("killed", 60.0, "demo")
    assert death["meaning"]
    assert death["todo"]
    assert (document["last_hour"], document["last_day"]) == ({"killed": 1}, {"killed": 1, "segfault": 1})
    assert document["note"] is None
