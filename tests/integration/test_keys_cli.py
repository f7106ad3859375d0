"""`llmsup keys`: with and without a daemon; at once in force; the secret nowhere but where it was shown."""

import json
import stat
from collections.abc import Iterator

import pytest

from supervisor.keys import store
from tests.support import rawhttp
from tests.support.daemon import DaemonUnderTest, running, until


@pytest.fixture(scope="module")
def living() -> Iterator[DaemonUnderTest]:
    with running(proxy={"require_key": True}) as daemon:
        yield daemon


@pytest.fixture
def idle() -> Iterator[DaemonUnderTest]:
    """Configured, not started."""
    with DaemonUnderTest() as daemon:
        yield daemon


def create(daemon: DaemonUnderTest, *arguments: str) -> str:
    done = daemon.cli("keys", "create", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def asked(daemon: DaemonUnderTest, key: str | None, path: str = "/v1/models") -> rawhttp.Response:
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return rawhttp.ask(daemon.port, "GET", path, None, headers)


def listed(daemon: DaemonUnderTest) -> dict[str, dict[str, object]]:
    return {key["name"]: key for key in json.loads(daemon.cli("keys", "list", "--json").stdout)["keys"]}


def test_a_key_is_in_force_when_the_command_returns_and_out_of_force_likewise(living):
    key = create(living, "ci")
    assert asked(living, key).header("x-llmsup-client") == "key:ci"
    assert living.cli("keys", "revoke", "ci").returncode == 0
    assert asked(living, key).status == 401


def test_require_key_shuts_everybody_else_out_and_chat_takes_its_key_from_the_environment(living):
    assert asked(living, None).status == 401
    assert asked(living, None, "/health").status == 200
    refused = living.cli("chat", "Hello")
    assert refused.returncode == 1
    assert "an API key is required" in refused.stderr
    key = create(living, "talker")
    done = living.cli("chat", "Hello", env=living.environ | {"LLMSUP_API_KEY": key})
    assert done.returncode == 0, done.stderr


def test_a_file_changed_without_a_word_is_taken_up_too(living):
    key = create(living, "quiet")
    store.revoke(living.state_dir / store.FILE_NAME, "quiet")
    until(lambda: asked(living, key).status == 401, "the key is refused")


def test_a_broken_file_refuses_every_key_and_status_says_so(living):
    key = create(living, "hurt")
    path = living.state_dir / store.FILE_NAME
    good = path.read_bytes()
    path.write_bytes(b"{")
    try:
        until(lambda: asked(living, key).status == 401, "the key is refused")
        assert "no API key is accepted" in living.cli("status").stdout
        assert living.status()["keys"]["error"]
        done = living.cli("keys", "list")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    finally:
        path.write_bytes(good)
    until(lambda: asked(living, key).status == 200, "the key is good again")
    assert living.status()["keys"]["error"] is None


@pytest.mark.fault(55)
def test_the_secret_is_nowhere_but_where_it_was_shown(living):
    key = create(living, "secret")
    secret = key.split("_", 2)[2]
    assert asked(living, key).status == 200
    answers = [asked(living, key[:-1] + ("a" if key[-1] != "a" else "b")).body, asked(living, key).body]
    told = [living.cli(*verb).stdout for verb in (["keys", "list"], ["keys", "list", "--json"])]
    told += [living.cli("status", "--json").stdout, living.cli("requests", "--json").stdout]
    files = [path for path in living.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("llmsup.log" in path.name for path in files)
    kept = [path.read_bytes() for path in files]
    for each in [*answers, *kept, *(text.encode() for text in told)]:
        assert secret.encode() not in each
        assert secret[:-1].encode() not in each


def test_without_a_daemon_keys_are_made_listed_and_revoked(idle):
    first = create(idle, "a", "--scope", "admin", "--scope", "inference", "--expires", "90d")
    second = create(idle, "b", "--pool", "user", "--models", "demo")
    assert first.startswith("llmsup_")
    assert first != second
    keys = listed(idle)
    assert keys["a"]["scopes"] == ["admin", "inference"]
    assert keys["a"]["expires"] is not None
    assert (keys["b"]["pool"], keys["b"]["models"], keys["b"]["expires"]) == ("user", ["demo"], None)
    assert not any("sha256" in key for key in keys.values())
    assert stat.S_IMODE((idle.state_dir / store.FILE_NAME).stat().st_mode) == 0o600
    table = idle.cli("keys", "list").stdout.splitlines()
    assert [line.split()[1] for line in table] == ["NAME", "a", "b"]
    assert idle.cli("keys", "revoke", str(keys["a"]["id"])).returncode == 0
    assert list(listed(idle)) == ["b"]


def test_without_any_key_the_list_says_so(idle):
    assert idle.cli("keys", "list").stdout == "there are no keys\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["create", "bad name"], 2, "expected a letter or digit"),
        (["create", "x", "--expires", "soon"], 2, "for example 90d"),
        (["create", "x", "--scope", "all"], 2, "inference"),
        (["create", "x", "--pool", "nonesuch"], 1, "there is no pool 'nonesuch'"),
        (["create", "x", "--models", "demo,nonesuch"], 1, "there is no model 'nonesuch'"),
        (["revoke", "nonesuch"], 1, "see: llmsup keys list"),
    ],
)
def test_what_makes_no_sense_makes_no_key(idle, arguments, code, says):
    done = idle.cli("keys", *arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (idle.state_dir / store.FILE_NAME).exists()


def test_a_second_key_of_one_name_is_a_conflict(idle):
    create(idle, "a")
    done = idle.cli("keys", "create", "a")
    assert done.returncode == 7
    assert done.stdout == ""


@pytest.mark.fault(54)
def test_a_link_planted_at_the_list_is_not_followed(idle):
    idle.state_dir.mkdir()
    victim = idle.folder / "victim"
    victim.write_text("untouched")
    (idle.state_dir / store.FILE_NAME).symlink_to(victim)
    done = idle.cli("keys", "create", "a")
    assert done.returncode == 1
    assert "symbolic link" in done.stderr
    assert done.stdout == ""
    assert victim.read_text() == "untouched"
