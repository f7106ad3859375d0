"""A client that leaves frees what it holds, wherever its request is (FAULTS 39)."""

import random
import threading

import pytest

from supervisor.proxy import wire
from tests.support import rawhttp
from tests.support.proxyrig import until

GONE_S = 2.0


@pytest.fixture(autouse=True)
def _brief_probe(monkeypatch):
    monkeypatch.setattr(wire, "PROBE_EVERY_S", 0.1)


def freed(rig) -> None:
    rig.check_nothing_left(GONE_S)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("path", ["/slow?s=9", "/stream?events=900&s=0.01"])
def test_leaving_ends_the_work_at_the_upstream(rig, upstream, path, how):
    client = rig.connect()
    client.post(path)
    until(lambda: upstream.begun, "the upstream has it")
    if "stream" in path:
        client.reader.head()
    getattr(client, how)()
    until(lambda: upstream.left == [path.partition("?")[0]], "the upstream is told", GONE_S)
    freed(rig)


def test_leaving_in_the_middle_of_an_upload(rig, upstream):
    client = rig.connect()
    client.send(rawhttp.request("POST", "/echo", None, {"Content-Length": "1000000"}) + bytes(200_000))
    until(lambda: rig.call(lambda: rig.pipeline.budget.used_bytes), "it is being received")
    client.close()
    freed(rig)
    assert upstream.begun == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_leaving_while_queued(make_rig, upstream, how):
    rig = make_rig(slots=1)
    first, second, third = (rig.connect() for _ in range(3))
    first.post("/gated")
    until(lambda: upstream.begun, "the slot is taken")
    second.post("/echo?second")
    until(lambda: rig.waiting() == 1, "it waits")
    third.post("/echo?third")
    getattr(second, how)()
    until(lambda: rig.waiting() == 1 and rig.in_flight() == 2, "it waits no more", GONE_S)
    upstream.go_on.set()
    assert third.answer().status == 200
    assert upstream.targets() == ["/gated", "/echo?third"]


def test_leaving_while_the_model_loads(rig):
    rig.state("LOADING")
    client = rig.connect()
    client.post("/echo")
    until(lambda: rig.waiting() == 1, "it waits")
    client.close()
    freed(rig)


def test_leaving_with_a_full_pipeline(rig, upstream):
    """More requests than are read ahead: the proxy has stopped reading, and sees no end."""
    client = rig.connect()
    client.send(rawhttp.request("POST", "/slow?s=9", b"{}") * 20)
    until(lambda: upstream.begun, "the first is at the upstream")
    client.close()
    until(lambda: upstream.left == ["/slow"], "the upstream is told", GONE_S)
    freed(rig)
    assert len(upstream.begun) == 1


def test_leaving_while_the_connection_to_the_upstream_is_made(rig, upstream):
    for _ in range(30):
        client = rig.connect()
        client.post("/slow?s=9")
        client.reset()
    freed(rig)


def test_a_freed_slot_serves_the_next(make_rig, upstream):
    rig = make_rig(slots=1)
    leaving, staying = rig.connect(), rig.connect()
    leaving.post("/slow?s=9")
    until(lambda: upstream.begun, "the slot is taken")
    staying.post("/echo")
    until(lambda: rig.waiting() == 1, "the other waits")
    leaving.close()
    assert staying.answer().status == 200


def test_three_hundred_random_aborts_leave_nothing_behind(rig, upstream):
    paths = ["/stream?events=50&s=0.003", "/slow?s=0.1", "/echo", "/cut_in_chunk", "/download?bytes=3000000"]

    def abuse(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(50):
            path = chance.choice(paths)
            raw = rawhttp.request("POST", path, b"{}")
            whole = chance.random() < 0.5
            try:
                client = rig.connect()
                client.send(raw if whole else raw[: chance.randrange(len(raw))])
                if whole and chance.random() < 0.5 and "slow" not in path:
                    client.sock.recv(chance.choice([1, 1000, 100_000]))
                client.reset() if chance.random() < 0.3 else client.close()
            except OSError:
                pass

    threads = [threading.Thread(target=abuse, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    freed(rig)
    until(lambda: rig.connections() == 0, "no client is left")
    until(lambda: len(upstream.open) == rig.idle(), "only idle connections are open")
    assert rig.ask("/echo").status == 200
