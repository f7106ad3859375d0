"""`llmsup reload` for people: what changes, as a diff, under the words that say when."""

from typing import Any

from supervisor.cli import output
from supervisor.cli.reload import page


def change(key: str, old: str | None, new: str | None, effect: str = "at once") -> dict[str, Any]:
    return {"key": key, "old": old, "new": new, "effect": effect}


def lines(*changes: dict[str, Any], applied: list[str] | None = None, last: Any = None) -> list[str]:
    later = [one["key"] for one in changes if one["effect"].startswith("next start")]
    told = applied if applied is not None else [one["key"] for one in changes if one["key"] not in later]
    answer = {"applied": told, "at_next_start": later, "changes": list(changes), "last": last}
    return output.unstyled("\n".join(page(answer))).splitlines()


def test_changes_are_grouped_by_their_effect() -> None:
    assert lines(
        change("log.level", "info", "debug"),
        change("listen", "a:1", "a:2", "next start of llmsup"),
        change("models.new", None, "{path: /m}"),
        change("models.old", "{path: /n}", None),
    ) == [
        "at once:",
        "- log.level: info",
        "+ log.level: debug",
        "+ models.new: {path: /m}",
        "- models.old: {path: /n}",
        "next start of llmsup:",
        "- listen: a:1",
        "+ listen: a:2",
        "for what waits: llmsup stop && llmsup start",
    ]


def test_nothing() -> None:
    assert lines() == ["nothing has changed"]


def test_new_files_under_the_old_names() -> None:
    assert lines(applied=["tls"]) == ["read again: tls"]


def test_what_a_save_has_done_already_is_said() -> None:
    last = {"at": "2030-01-01T00:00:00+00:00", "applied": ["log.level"]}
    assert lines(last=last) == [
        "nothing has changed",
        "taken up before, at 2030-01-01T00:00:00+00:00: log.level",
    ]


def test_a_dry_run_says_so() -> None:
    answer = {
        "applied": [],
        "at_next_start": ["listen"],
        "changes": [change("listen", "a:1", "a:2", "next start of llmsup")],
        "last": None,
    }
    assert output.unstyled("\n".join(page(answer, dry_run=True))).splitlines() == [
        "next start of llmsup:",
        "- listen: a:1",
        "+ listen: a:2",
        "nothing was taken up (--dry-run)",
    ]
    assert [*page(answer | {"at_next_start": [], "changes": []}, dry_run=True)] == ["nothing would change"]
