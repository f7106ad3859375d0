import errno
import socket
from itertools import islice

import pytest

from supervisor.proc import ports


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind((ports.LOOPBACK, 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_a_listening_port_is_not_free_and_is_once_closed(taken):
    assert not ports.is_free(taken)
    assert ports.is_free(ports.ephemeral())


def test_a_port_bound_without_listening_is_not_free():
    with socket.socket() as holder:
        holder.bind((ports.LOOPBACK, 0))
        assert not ports.is_free(holder.getsockname()[1])


def test_an_address_that_is_not_ours_is_not_free():
    assert not ports.is_free(ports.ephemeral(), "192.0.2.1")


def test_running_out_of_descriptors_is_said_not_guessed(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(OSError, match="Too many"):
        ports.is_free(9000)


def test_the_configured_port_comes_first_then_the_next_free_then_the_kernels_choice():
    found = ports.candidates(9000, free=lambda port: port not in {9001, 9002}, any_free=lambda: 40000)
    assert list(islice(found, 3)) == [9000, 9003, 9004]
    none = ports.candidates(9000, free=lambda _: False, any_free=lambda: 40000)
    assert list(islice(none, 2)) == [40000, 40000]


def test_the_search_stops_at_the_last_port():
    found = ports.candidates(65534, free=lambda _: True, any_free=lambda: 1)
    assert list(islice(found, 3)) == [65534, 65535, 1]


def test_zero_means_any():
    assert next(ports.candidates(0, free=lambda _: False, any_free=lambda: 40000)) == 40000


def test_a_generation_gets_the_configured_port_again_unless_it_clashed():
    port = ports.ephemeral()
    assert [ports.pick(port), ports.pick(port)] == [port, port]
    assert ports.pick(port, clashes=1) > port


def test_a_taken_port_is_passed_over(taken):
    assert ports.pick(taken) != taken
