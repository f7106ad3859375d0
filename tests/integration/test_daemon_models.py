"""Several models on a whole daemon: loaded by requests, unloaded, replaced without a pause, with a standby."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from supervisor.proc import lifelock
from tests.support import rawhttp
from tests.support.daemon import CHAT, DaemonUnderTest, answer_of, chat_body, running, until
from tests.support.gguf import model as gguf_model

LIMIT_MB = 80  # one model of two takes some 45 MiB, its prompt cache included


def ask(daemon: DaemonUnderTest, model: str, **body: object) -> rawhttp.Response:
    return daemon.chat(model=model, **body)


def second_of(daemon: DaemonUnderTest, model: str | None = None) -> dict[str, Any]:
    second: dict[str, Any] = daemon.model(model)["second"] or {"role": None, "state": None, "pid": None}
    return second


class Askers:
    """Clients that ask all the time; ``said``: status and seconds of each request."""

    def __init__(self, daemon: DaemonUnderTest, count: int, *, streamed: bool = False) -> None:
        self.said: list[tuple[int, float, bool]] = []
        self._daemon = daemon
        self._streamed = streamed
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(count)]

    def _work(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            reply = self._daemon.chat("Hello", stream=self._streamed, max_tokens=5)
            whole = (
                reply.body.rstrip().endswith(b"data: [DONE]") if self._streamed else bool(answer_of(reply))
            )
            self.said.append((reply.status, time.monotonic() - begun, whole))

    def __enter__(self) -> "Askers":
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.said) >= 2 * len(self._threads), "they ask")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        assert {(status, whole) for status, _, whole in self.said} == {(200, True)}


# ---- on demand


def test_a_model_is_loaded_by_its_first_request_and_unloaded_when_nobody_asks() -> None:
    models = {"demo": {}, "other": {"preload": False, "ttl_s": 4, "aliases": ["also"]}}
    with running(models=models, fake={"load_s": 0.2}) as daemon:
        assert daemon.model("other")["state"] == "STOPPED"
        assert ask(daemon, "also").json()["model"] == "other"
        assert daemon.model("other")["state"] == "READY"
        unloaded = daemon.wait_for(lambda one: one["state"] == "STOPPED", "unloaded", "other")
        assert unloaded["last_unload"]["reason"] == "ttl"
        assert ask(daemon, "other").status == 200
        assert (daemon.starts("other"), daemon.starts("demo")) == (2, 1)
        assert ask(daemon, "nobody").status == 404


def test_a_default_model_that_is_not_preloaded_is_no_reason_to_wait_at_the_start() -> None:
    with DaemonUnderTest(models={"demo": {"preload": False}}) as daemon:
        done = daemon.cli("start", "--timeout", "20")
        assert done.returncode == 0, done.stderr
        assert daemon.model()["state"] == "STOPPED"
        health = daemon.ask("GET", "/health")
        assert (health.status, health.json()["state"]) == (200, "STOPPED")
        assert daemon.chat().status == 200


def test_many_first_requests_at_once_load_it_once() -> None:
    with running(models={"demo": {}, "other": {"preload": False}}, fake={"load_s": 0.5}) as daemon:
        replies: list[int] = []
        threads = [
            threading.Thread(target=lambda: replies.append(ask(daemon, "other").status)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert replies == [200] * 8
        assert daemon.starts("other") == 1


def test_load_and_unload_by_hand() -> None:
    with running(models={"demo": {}, "other": {"preload": False}}) as daemon:
        done = daemon.cli("load", "other")
        assert (done.returncode, done.stdout.startswith("other is READY (pid ")) == (0, True), done.stderr
        done = daemon.cli("unload", "other")
        assert (done.returncode, done.stdout) == (0, "other is unloaded\n"), done.stderr
        assert daemon.model("other")["last_unload"]["reason"] == "operator"
        assert ask(daemon, "other").status == 200
        done = daemon.cli("load", "nobody")
        assert (done.returncode, "there is no model named 'nobody'" in done.stderr) == (1, True)


def test_unload_lets_an_answer_end_first() -> None:
    with running(models={"demo": {}}, fake={"token_delay_s": 0.02}) as daemon:
        with daemon.streaming(max_tokens=60) as reader:
            unloading = daemon.popen("unload", "demo")
            while reader.chunk():
                pass
        assert unloading.wait(20) == 0


def test_what_cannot_be_loaded_says_why() -> None:
    with running(models={"demo": {}, "other": {"preload": False, "path": "/nowhere/m.gguf"}}) as daemon:
        done = daemon.cli("load", "other")
        assert (done.returncode, "/nowhere/m.gguf" in done.stderr) == (1, True)
        refused = ask(daemon, "other")
        assert (refused.status, refused.json()["error"]["code"]) == (503, "model_unavailable")


def test_models_are_listed_with_and_without_a_daemon() -> None:
    with DaemonUnderTest(models={"demo": {"aliases": ["a"]}, "other": {"preload": False}}) as daemon:
        rows = json.loads(daemon.cli("models", "--json").stdout)
        assert [(row["name"], row["state"]) for row in rows] == [("demo", None), ("other", None)]
        assert rows[0]["file_bytes"] == daemon.model_path.stat().st_size
        daemon.run()
        daemon.wait_ready()
        rows = json.loads(daemon.cli("models", "--json").stdout)
        assert [(row["state"], row["aliases"]) for row in rows] == [("READY", ["a"]), ("STOPPED", [])]
        text = daemon.cli("models").stdout
        assert any(line.split()[:3] == ["demo", "yes", "READY"] for line in text.splitlines())
        assert "also called a" in text
        assert "loaded by its first request" in text


# ---- in each other's place


@contextmanager
def crowded(**models: dict[str, Any]) -> Iterator[DaemonUnderTest]:
    """Models of a file with a size, where memory is for one of them."""
    with DaemonUnderTest(models=models, memory={"limit_mb": LIMIT_MB, "min_free_mb": 0}) as daemon:
        daemon.model_path.write_bytes(gguf_model())
        daemon.run()
        daemon.wait_ready()
        yield daemon


def test_the_idle_one_makes_room_for_the_one_that_is_asked_for() -> None:
    with crowded(demo={}, other={"preload": False}) as daemon:
        for name, away in (("other", "demo"), ("demo", "other"), ("other", "demo")):
            assert ask(daemon, name).json()["model"] == name
            gone = daemon.model(away)
            assert (gone["state"], gone["last_unload"]["reason"]) == ("STOPPED", "evicted")
        assert daemon.ask("GET", "/health").status == 200


def test_one_that_is_in_use_is_not_unloaded_and_the_other_waits() -> None:
    with crowded(demo={}, other={"preload": False}) as daemon:
        daemon.behave(token_delay_s=0.05)
        with daemon.streaming(model="demo", max_tokens=60) as reader:
            replies: list[int] = []
            asking = threading.Thread(target=lambda: replies.append(ask(daemon, "other").status))
            asking.start()
            daemon.wait_for(lambda one: one["state"] == "BACKOFF", "refused its place", "other")
            daemon.behave()
            assert daemon.model("demo")["state"] == "READY"
            while reader.chunk():
                pass
        asking.join()
        assert replies == [200]
        assert daemon.model("demo")["last_unload"]["reason"] == "evicted"


# ---- replaced without a pause


@pytest.mark.parametrize("streamed", [False, True])
def test_a_restart_under_load_fails_nothing(streamed: bool) -> None:
    fake = {"token_delay_s": 0.01, "load_s": 0.3}
    with running(fake=fake) as daemon, Askers(daemon, 6, streamed=streamed) as askers:
        for _ in range(3):
            done = daemon.cli("restart")
            assert done.returncode == 0, done.stderr
    askers.check()


def test_while_the_next_one_loads_the_old_one_answers() -> None:
    with running() as daemon:
        daemon.behave(load_s=6.0)
        old = daemon.child_pid
        restarting = daemon.popen("restart")
        daemon.wait_for(
            lambda one: one["second"] and one["second"]["state"] == "LOADING", "the next one loads"
        )
        assert second_of(daemon)["role"] == "next"
        begun = time.monotonic()
        assert daemon.chat().status == 200
        assert time.monotonic() - begun < 4.0
        assert daemon.child_pid == old
        assert restarting.wait(20) == 0
        assert daemon.child_pid != old
        daemon.wait_for(lambda one: one["second"] is None, "the old one is gone")
        assert daemon.model()["restarts"] == 0


def test_a_stream_that_is_under_way_is_finished_by_the_one_that_began_it() -> None:
    with running(fake={"token_delay_s": 0.05}) as daemon:
        with daemon.streaming(max_tokens=60) as reader:
            daemon.behave()
            assert daemon.cli("restart").returncode == 0
            assert second_of(daemon)["role"] == "leaving"
            assert daemon.chat().status == 200
            said = b""
            while chunk := reader.chunk():
                said += chunk
        assert b"llmsup-continued" not in said
        assert said.rstrip().endswith(b"data: [DONE]")


def test_a_new_one_that_cannot_start_leaves_the_old_one_and_restart_says_so() -> None:
    with running() as daemon:
        daemon.behave(load_exit=1)
        done = daemon.cli("restart")
        assert (done.returncode, "the old one goes on" in done.stderr) == (1, True), done.stderr
        assert daemon.chat().status == 200
        assert "the old one goes on" in daemon.cli("status").stdout
        daemon.behave()
        assert daemon.cli("restart").returncode == 0
        assert daemon.model()["not_replaced"] is None


def test_where_two_do_not_fit_requests_wait_for_the_next_one() -> None:
    with crowded(demo={}) as daemon, Askers(daemon, 3) as askers:
        assert daemon.cli("restart").returncode == 0
        assert daemon.model()["generation"] == 2
    askers.check()


def test_a_daemon_killed_with_two_of_a_model_leaves_none() -> None:
    with running(models={"demo": {"standby": True}}) as daemon:
        daemon.expected_exit = None
        daemon.wait_for(lambda one: one["second"] and one["second"]["state"] == "READY", "the standby")
        assert sum(map(lifelock.is_held, lifelock.paths(daemon.run_dir.path))) == 2
        os.kill(daemon.pid, signal.SIGKILL)
        until(lambda: not daemon.children_alive(), "both are gone")
        assert daemon.process is not None
        daemon.process.wait()
        daemon.run()
        daemon.wait_ready()
        daemon.expected_exit = 0


# ---- the standby


def standby_ready(daemon: DaemonUnderTest) -> dict[str, Any]:
    return daemon.wait_for(
        lambda one: one["state"] == "READY" and one["second"] and one["second"]["state"] == "READY",
        "one serves and one stands by",
    )


def test_a_standby_takes_over_while_the_first_loads_again() -> None:
    with running(models={"demo": {"standby": True}}) as daemon:
        standby = standby_ready(daemon)["second"]
        daemon.behave(load_s=8.0)
        with Askers(daemon, 3) as askers:
            daemon.kill_child()
            until(lambda: daemon.child_pid == standby["pid"], "it has taken over", 4.0)
        askers.check()
        assert max(seconds for _, seconds, _ in askers.said) < 5.0, "nobody waits for a load"
        assert daemon.model()["last_death"]["cause"] == "killed"
        daemon.behave()
        standby_ready(daemon)
        assert "standby: READY" in daemon.cli("status").stdout


def test_streams_go_on_with_the_standby() -> None:
    with running(models={"demo": {"standby": True}}, fake={"token_delay_s": 0.02}) as daemon:
        standby_ready(daemon)
        with daemon.streaming(max_tokens=60) as reader:
            daemon.kill_child()
            said = b""
            while chunk := reader.chunk():
                said += chunk
        assert b": llmsup-continued" in said
        assert said.rstrip().endswith(b"data: [DONE]")


def test_a_request_that_kills_is_recognised_and_does_not_bring_down_more_than_two() -> None:
    with running(models={"demo": {"standby": True}}) as daemon:
        standby_ready(daemon)
        reply = daemon.ask("POST", CHAT, chat_body("POISON", fake={"crash_signal": "SIGSEGV"}))
        assert (reply.status, reply.json()["error"]["code"]) == (422, "request_quarantined")
        assert daemon.starts() <= 4
        standby_ready(daemon)
        assert daemon.chat().status == 200


# ---- configured anew


def reconfigure(daemon: DaemonUnderTest, **models: dict[str, Any]) -> None:
    """Edit the file and have it read, by whoever is first."""
    daemon._models = models
    daemon.configure()
    done = daemon.cli("reload")
    assert done.returncode == 0, done.stderr


def test_a_model_that_is_configured_anew_is_replaced_under_load_and_no_other() -> None:
    with running(models={"demo": {"parallel": 2}, "other": {}}, fake={"load_s": 0.3}) as daemon:
        other = daemon.wait_ready("other")
        with Askers(daemon, 4) as askers:
            reconfigure(daemon, demo={"parallel": 3, "aliases": ["new"]}, other={"ttl_s": 3600})
            renewed = daemon.wait_for(lambda one: one["slots"]["total"] == 3, "its new llama-server serves")
        askers.check()
        assert (renewed["generation"], renewed["state"], renewed["restarts"]) == (2, "READY", 0)
        assert daemon.model("other")["pid"] == other["pid"]
        assert ask(daemon, "new").json()["model"] == "demo"
        rows = {row["name"]: row for row in json.loads(daemon.cli("models", "--json").stdout)}
        assert rows["other"]["ttl_s"] == 3600
        assert daemon.status()["config_pending"] == []


def test_what_cannot_start_as_configured_now_leaves_the_old_one_serving_until_it_is_mended() -> None:
    with running() as daemon:
        reconfigure(daemon, demo={"path": "/nowhere/m.gguf"})
        daemon.wait_for(lambda one: one["not_replaced"], "the old one goes on")
        assert daemon.chat().status == 200
        assert "/nowhere/m.gguf" in daemon.model()["not_replaced"]
        reconfigure(daemon, demo={"parallel": 2})
        daemon.wait_for(lambda one: one["slots"]["total"] == 2, "mended")
        assert daemon.model()["not_replaced"] is None


def test_a_standby_comes_and_goes_with_its_key() -> None:
    with running() as daemon:
        reconfigure(daemon, demo={"standby": True})
        standby_ready(daemon)
        reconfigure(daemon, demo={})
        daemon.wait_for(lambda one: one["second"] is None, "no standby any more")
        assert (daemon.model()["generation"], daemon.model()["state"]) == (1, "READY")


def test_what_is_not_loaded_is_not_loaded_by_an_edit() -> None:
    with running(models={"demo": {}, "other": {"preload": False}}) as daemon:
        reconfigure(daemon, demo={}, other={"preload": False, "parallel": 2})
        assert daemon.model("other")["state"] == "STOPPED"
        assert ask(daemon, "other").status == 200
        assert daemon.model("other")["slots"]["total"] == 2


# ---- added, removed, renamed


def listed(daemon: DaemonUnderTest) -> list[str]:
    return [one["id"] for one in daemon.ask("GET", "/v1/models").json()["data"]]


def named(daemon: DaemonUnderTest) -> list[str]:
    return [one["name"] for one in daemon.status()["models"]]


def edit(daemon: DaemonUnderTest, **sections: Any) -> None:
    daemon.configure(**sections)
    done = daemon.cli("reload")
    assert done.returncode == 0, done.stderr


def test_a_model_is_added_under_load_and_no_other_is_touched() -> None:
    with running(models={"demo": {"parallel": 2}}, fake={"load_s": 0.3}) as daemon:
        before = daemon.model()
        with Askers(daemon, 4) as askers:
            daemon._models = {"demo": {"parallel": 2}, "fresh": {"aliases": ["new"]}}
            daemon.configure()
            dry = daemon.cli("reload", "--dry-run").stdout
            assert "models.fresh" in dry
            assert "at once" in dry
            assert "next start" not in dry
            assert named(daemon) == ["demo"]
            edit(daemon)
            assert ask(daemon, "new").json()["model"] == "fresh"
        askers.check()
        assert listed(daemon) == named(daemon) == ["demo", "fresh"]
        assert (daemon.model()["pid"], daemon.model()["generation"]) == (before["pid"], 1)
        rows = {row["name"]: row for row in json.loads(daemon.cli("models", "--json").stdout)}
        assert (rows["fresh"]["preload"], rows["fresh"]["aliases"]) == (True, ["new"])
        assert daemon.status()["config_pending"] == []
        assert 'llmsup_instance_state{model="fresh",state="READY"} 1.0' in scrape(daemon)
        assert ask(daemon, "nobody").status == 404, "with two of them, the name counts"
        old = daemon.model("fresh")["pid"]
        daemon.kill_child(model="fresh")
        daemon.wait_for(lambda one: one["state"] == "READY" and one["pid"] != old, "watched", "fresh")


def scrape(daemon: DaemonUnderTest) -> str:
    return daemon.ask("GET", "/metrics").body.decode()


def test_a_model_that_is_removed_finishes_its_stream_and_is_gone() -> None:
    models = {"demo": {}, "other": {"parallel": 1}}
    with running(models=models, fake={"token_delay_s": 0.05}) as daemon:
        daemon.wait_ready("other")
        demo, pid = daemon.child_pid, daemon.model("other")["pid"]
        with daemon.streaming(model="other", max_tokens=60) as reader:
            assert reader.chunk()
            waiting: list[int] = []
            asking = threading.Thread(target=lambda: waiting.append(ask(daemon, "other").status))
            asking.start()
            until(lambda: daemon.status()["requests"]["queued"] == 1, "it waits")
            daemon._models = {"demo": {}}
            edit(daemon)
            asking.join()
            assert waiting == [503]
            assert daemon.model("other")["state"] == "DRAINING"
            assert listed(daemon) == ["demo"]
            assert ask(daemon, "nobody-knows").status == 200, "with one of them, no name counts"
            assert "there is no model named 'other'" in daemon.cli("load", "other").stderr
            said = b""
            while chunk := reader.chunk():
                said += chunk
        assert said.rstrip().endswith(b"data: [DONE]")
        until(lambda: named(daemon) == ["demo"], "gone")
        assert [process.pid for process in daemon.children_alive()] == [demo]
        assert pid != demo
        assert 'model="other"' not in scrape(daemon)
        assert daemon.status()["config_pending"] == []


def test_of_several_the_removed_one_is_unknown_at_once() -> None:
    models = {"demo": {}, "other": {}, "third": {"preload": False}}
    with running(models=models, fake={"token_delay_s": 0.05}) as daemon:
        daemon.wait_ready("other")
        with daemon.streaming(model="other", max_tokens=40) as reader:
            assert reader.chunk()
            daemon._models = {"demo": {}, "third": {"preload": False}}
            edit(daemon)
            refused = ask(daemon, "other")
            assert (refused.status, refused.json()["error"]["code"]) == (404, "model_not_found")
            while reader.chunk():
                pass
        until(lambda: named(daemon) == ["demo", "third"], "gone")


def test_one_that_comes_back_while_it_leaves_begins_anew() -> None:
    with running(models={"demo": {}, "other": {}}, fake={"token_delay_s": 0.05}) as daemon:
        old = daemon.wait_ready("other")["pid"]
        with daemon.streaming(model="other", max_tokens=60) as reader:
            assert reader.chunk()
            daemon._models = {"demo": {}}
            edit(daemon)
            daemon._models = {"demo": {}, "other": {"parallel": 3}}
            edit(daemon)
            said = b""
            while chunk := reader.chunk():
                said += chunk
        assert said.rstrip().endswith(b"data: [DONE]")
        back = daemon.wait_for(lambda one: one["pid"] not in {None, old}, "anew", "other")
        assert back["slots"]["total"] == 3
        assert ask(daemon, "other").json()["model"] == "other"
        assert listed(daemon) == ["demo", "other"]


def test_a_default_model_that_is_not_there_is_refused_and_another_is_taken_at_once() -> None:
    with running(models={"demo": {}, "other": {}}) as daemon:
        daemon.wait_ready("other")
        daemon._models = {"other": {}}
        daemon.configure(default_model="demo")
        done = daemon.cli("reload")
        assert (done.returncode, "default_model" in done.stderr) == (6, True), done.stderr
        assert daemon.chat().json()["model"] == "demo"
        daemon._models = {"demo": {}, "other": {}}
        edit(daemon, default_model="other")
        assert daemon.health().json()["model"] == "other"
        assert daemon.chat().json()["model"] == "other"
        daemon._models = {"other": {}}
        edit(daemon)
        until(lambda: named(daemon) == ["other"], "the old default is gone")
        assert daemon.health().json()["model"] == "other"


def test_a_model_is_renamed_and_its_alias_fails_nobody() -> None:
    with running(models={"demo": {}, "old": {"aliases": ["known"]}}) as daemon:
        daemon.wait_ready("old")
        daemon._models = {"demo": {}, "new": {"aliases": ["known"]}}
        edit(daemon)
        assert ask(daemon, "known").json()["model"] == "new"
        until(lambda: named(daemon) == ["demo", "new"], "renamed")
        assert ask(daemon, "old").status == 404


def test_twenty_that_come_and_go_leave_nothing() -> None:
    with running() as daemon:

        def cycle(name: str) -> None:
            daemon._models = {"demo": {}, name: {}}
            edit(daemon)
            assert ask(daemon, name).json()["model"] == name
            daemon._models = {"demo": {}}
            edit(daemon)
            until(lambda: named(daemon) == ["demo"], "gone")

        process = psutil.Process(daemon.pid)
        pool = (os.cpu_count() or 1) + 4  # threads that asyncio begins as it needs them, and keeps

        cycle("first")
        descriptors, threads = process.num_fds(), process.num_threads()
        for number in range(20):
            cycle(f"m{number}")
        until(lambda: process.num_fds() <= descriptors, f"no more than {descriptors} descriptors")
        assert process.num_threads() < threads + min(20, pool)
        page = scrape(daemon)
        assert not [line for line in page.splitlines() if 'model="m' in line]
        assert len(daemon.children_alive()) == 1


def test_where_there_is_no_room_for_both_the_new_name_waits_for_the_old_ones_end() -> None:
    with crowded(old={"aliases": ["known"]}) as daemon:
        daemon.behave(token_delay_s=0.05)
        with daemon.streaming(model="old", max_tokens=40) as reader:
            assert reader.chunk()
            daemon._models = {"new": {**daemon._models["old"]}}
            edit(daemon, memory={"limit_mb": LIMIT_MB})
            replies: list[Any] = []
            asking = threading.Thread(target=lambda: replies.append(ask(daemon, "known")))
            asking.start()
            said = b""
            while chunk := reader.chunk():
                said += chunk
        asking.join()
        assert said.rstrip().endswith(b"data: [DONE]")
        assert (replies[0].status, replies[0].json()["model"]) == (200, "new")
        assert daemon.model("new")["degraded"] is None
