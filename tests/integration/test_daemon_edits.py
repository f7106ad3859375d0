"""The configuration edited while the daemon works: taken up on save, refused when wrong, and no request notices."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.broken_edits import BASE, EDITS
from tests.support.daemon import DaemonUnderTest, until

AWAY_S = 4.0  # a file that stays away is given two seconds


@contextmanager
def watching() -> Iterator[tuple[DaemonUnderTest, str]]:
    """A READY daemon that takes up what is saved, and what stands above `BASE` in its file."""
    with DaemonUnderTest() as daemon:
        daemon.configure(reload={"watch": True}, proxy=None)
        head = daemon.config.read_text()
        daemon.config.write_text(head + BASE)
        daemon.run()
        daemon.wait_ready()
        yield daemon, head


class Load:
    """Clients that ask one after the other until told to stop."""

    def __init__(self, daemon: DaemonUnderTest, clients: int = 2) -> None:
        self._daemon = daemon
        self._enough = threading.Event()
        self.answers: list[int | str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._enough.is_set():
            try:
                self.answers.append(self._daemon.chat().status)
            except Exception as exc:  # whatever it is, it is a failed request
                self.answers.append(repr(exc))
            self._enough.wait(0.02)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    """As vim, sed -i and most editors do."""
    fresh = path.with_name(".llmsup.yaml.swp")
    fresh.write_text(text)
    fresh.replace(path)


def deleted_first(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


STYLES: tuple[Callable[[Path, str], None], ...] = (in_place, by_rename, deleted_first)


def refused(daemon: DaemonUnderTest) -> Any:
    return daemon.status()["config_error"]


@pytest.mark.timeout(300)
def test_broken_edits_under_load_are_refused_where_they_are_wrong_and_good_ones_between_them_applied() -> (
    None
):
    with watching() as (daemon, head), Load(daemon) as load:
        above, pid = len(head.splitlines()), daemon.pid
        before = daemon.model()
        for number, edit in enumerate(EDITS):
            save = STYLES[number % len(STYLES)]
            save(daemon.config, head + edit.change(BASE))
            place = f"{daemon.config}:{above + edit.line}:{edit.column}: "
            message = until(lambda: (refused(daemon) or {}).get("message"), f"{edit.name} is refused")
            assert any(line.startswith(place) and edit.said in line for line in message.splitlines()), message
            level = ("debug", "info")[number % 2]
            STYLES[(number + 1) % len(STYLES)](daemon.config, head + BASE.replace("info", level))
            until(lambda: refused(daemon) is None, f"the edit after {edit.name} is taken up")
            assert daemon.status()["config_pending"] == []
        assert daemon.log().count('"applied": ["log.level"]') == len(EDITS)
        answer = daemon.cli("reload").stdout
        assert "nothing has changed" in answer
        assert "log.level" in answer  # the newest good edit
        after = daemon.model()
        unchanged = ("pid", "generation", "state", "restarts")
        assert {key: after[key] for key in unchanged} == {key: before[key] for key in unchanged}
        assert daemon.pid == pid
    assert len(load.answers) > len(EDITS)
    assert set(load.answers) == {200}


def test_a_refused_edit_is_in_status_until_it_is_mended() -> None:
    with watching() as (daemon, head):
        by_rename(daemon.config, head + BASE.replace("queue_size", "queue_sise"))
        until(lambda: refused(daemon), "it is refused")
        said = daemon.cli("status").stdout
        assert "the configuration was edited and is wrong" in said
        assert "unknown key (did you mean 'queue_size'?)" in said
        since = refused(daemon)["since"]
        by_rename(daemon.config, head + BASE.replace("max_retries: 3", "max_retries: -3"))
        until(lambda: "max_retries" in refused(daemon)["message"], "the next mistake")
        assert refused(daemon)["since"] == since
        by_rename(daemon.config, head + BASE)
        until(lambda: refused(daemon) is None, "it is mended")
        assert "wrong" not in daemon.cli("status").stdout


def test_a_file_that_is_deleted_is_refused_when_it_stays_away() -> None:
    with watching() as (daemon, head):
        daemon.config.unlink()
        message = until(lambda: (refused(daemon) or {}).get("message"), "it is missed", AWAY_S + 6)
        assert "no such file" in message
        assert daemon.chat().status == 200
        daemon.config.write_text(head + BASE)
        until(lambda: refused(daemon) is None, "it is back")


def test_a_link_swapped_as_kubernetes_does_it() -> None:
    with watching() as (daemon, head):
        daemon.stop()
        mount = daemon.folder / "mount"
        for name, level in (("..1", "info"), ("..2", "debug"), ("..3", "warn")):
            (mount / name).mkdir(parents=True)
            (mount / name / "llmsup.yaml").write_text(head + BASE.replace("info", level))
        (mount / "..data").symlink_to("..1")
        (mount / "llmsup.yaml").symlink_to("..data/llmsup.yaml")
        daemon.config = mount / "llmsup.yaml"
        daemon.run()
        daemon.wait_ready()

        def swap(name: str) -> None:
            os.symlink(name, mount / "..new")
            os.replace(mount / "..new", mount / "..data")

        swap("..3")
        until(lambda: refused(daemon), "the wrong one is refused")
        swap("..2")
        until(lambda: refused(daemon) is None, "the right one is taken up")
        assert "log.level" in daemon.cli("reload").stdout


def test_secrets_are_not_told_when_they_change() -> None:
    with DaemonUnderTest(proxy=None) as daemon:
        head = daemon.config.read_text()
        daemon.run()
        daemon.wait_ready()
        secret = daemon.folder / "secret"
        secret.touch(0o600)
        with_secret = head.replace("env:\n", f"env:\n      HF: file:{secret}\n", 1)
        assert with_secret != head
        daemon.config.write_text(with_secret + BASE)
        for content in ("one-long-secret\n", "two-long-secret\n"):
            secret.write_text(content)
            said = daemon.cli("reload").stdout
            assert f"+ models.demo.env.HF: file:{secret}" in said
        assert "long-secret" not in said + daemon.log()


def test_a_secret_that_llama_server_says_is_masked_in_its_log_whatever_its_name() -> None:
    with DaemonUnderTest() as daemon:
        (daemon.folder / "secret").write_text("a-long-secret\n")
        (daemon.folder / "secret").chmod(0o600)
        daemon.configure()
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace("env:\n", "env:\n      FAKE_LOAD_MESSAGE: file:secret\n", 1))
        daemon.run()
        daemon.wait_ready()
        said = daemon.cli("logs").stdout
        assert "***" in said
        assert "a-long-secret" not in said
        assert "a-long-secret" not in daemon.cli("why").stdout + daemon.log()


def test_with_the_watch_off_a_save_is_not_taken_up() -> None:
    with DaemonUnderTest() as daemon:
        daemon.run()
        daemon.wait_ready()
        daemon.configure(log={"level": "debug"})
        dry = daemon.cli("reload", "--dry-run")
        assert "nothing was taken up" in dry.stdout
        answer = daemon.cli("reload")
        assert answer.stdout.splitlines() == ["at once:", "- log.level: info", "+ log.level: debug"]
