"""`proxy.trace`: made trace contexts are valid, and no two alike."""

import pytest

from supervisor.proxy.headers import read_request
from supervisor.proxy.trace import Traces


@pytest.mark.parametrize("seed", [b"", bytes(16), b"\xff" * 16, bytes(8) + b"\x01" * 8])
def test_what_is_made_is_valid_for_whoever_reads_it(seed: bytes) -> None:
    traces = Traces(seed)
    for _ in range(100):
        made = traces.new()
        assert read_request(((b"traceparent", made),), small=False).trace == made


def test_no_two_are_alike() -> None:
    traces = Traces()
    assert len({traces.new() for _ in range(10_000)}) == 10_000
    assert Traces().new() != Traces().new()


def test_a_number_of_zero_is_left_out() -> None:
    step = 0x9E3779B97F4A7C15
    traces = Traces(b"\1" * 8 + ((1 << 64) - step).to_bytes(8))
    first, second = traces.new(), traces.new()
    assert first != second
    assert first.endswith(b"-%016x-00" % step)


def test_low_bits_are_evenly_spread() -> None:
    """A sampler that takes ids below a quarter of the range takes about a quarter of them."""
    traces = Traces(b"\7" * 16)
    taken = sum(int(traces.new()[27:35], 16) < 1 << 30 for _ in range(4000))
    assert 900 < taken < 1100
