"""A connection that is over is freed at once: the garbage collector is set to come late, and would find them in heaps."""

import gc

import pytest

from supervisor.proxy.upstream import Upstream
from supervisor.proxy.wire import ClientConnection
from tests.support.proxyrig import until


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living(kind):
    return [one for one in gc.get_objects() if isinstance(one, kind)]


@pytest.mark.parametrize("path", ["/echo", "/stream?events=3", "/cut_in_chunk"])
def test_nothing_waits_for_the_collector(no_collector, rig, path):
    client = rig.connect()
    client.post(path)
    if path.startswith("/cut"):
        client.rest()
    else:
        client.answer()
        assert {ClientConnection, Upstream} <= {type(one) for one in gc.get_objects()}
    client.close()
    rig.abort(1)
    until(lambda: not living(ClientConnection), "the client's connection is freed")
    until(lambda: not living(Upstream), "the connection to the upstream is freed")


def test_not_even_a_connection_that_never_came_to_be(no_collector, rig, upstream):
    upstream.close()
    client = rig.connect()
    client.post("/echo")
    until(lambda: rig.pokes, "the upstream has refused")
    client.reset()
    until(lambda: not living(Upstream), "it is freed")
