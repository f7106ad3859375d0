import asyncio
import errno
import gc

import httpx
import pytest

from supervisor.events import Endpoint
from supervisor.proc import ports, probe
from supervisor.proc.hang import Counters
from supervisor.proc.probe import Health, Prober

AT = Endpoint("127.0.0.1", 9000, "key")
pytestmark = pytest.mark.anyio


def prober(answer):
    it = Prober()
    it._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return it


def raising(error, cause=None):
    def answer(_):
        raise error from cause

    return answer


@pytest.mark.parametrize(
    ("status", "health"), [(200, Health.READY), (503, Health.LOADING), (404, Health.LOADING)]
)
async def test_health_by_status(status, health):
    assert await prober(lambda _: httpx.Response(status)).health(AT) is health


async def test_a_closed_port_refuses():
    it = Prober()
    assert await it.health(Endpoint("127.0.0.1", ports.ephemeral(), "key")) is Health.REFUSED
    await it.aclose()


async def test_our_own_lack_of_descriptors_is_no_refusal():
    error = httpx.ConnectError("no"), OSError(errno.EMFILE, "Too many open files")
    assert await prober(raising(*error)).health(AT) is Health.SILENT


@pytest.mark.parametrize("error", [httpx.ReadTimeout("late"), httpx.RemoteProtocolError("odd")])
async def test_silence_is_not_refusal(error):
    assert await prober(raising(error)).health(AT) is Health.SILENT


@pytest.mark.parametrize("status", [200, 400, 404, 501])
async def test_warm_up_is_satisfied_by_a_token_or_a_server_without_completions(status):
    seen = []

    def answer(request):
        seen.append(request.headers["authorization"])
        return httpx.Response(status)

    assert await prober(answer).warm_up(AT) is None
    assert seen == ["Bearer key"]


async def test_warm_up_says_what_was_wrong():
    assert "answered 500: broken GPU" in await prober(
        lambda _: httpx.Response(500, text="broken GPU")
    ).warm_up(AT)
    assert "no answer" in await prober(raising(httpx.ReadTimeout("late"))).warm_up(AT)


METRICS = """# HELP llamacpp:n_decode_total x
llamacpp:n_decode_total 7
llamacpp:prompt_tokens_total 12
llamacpp:tokens_predicted_total 3.5
llamacpp:requests_processing 1
"""


async def test_the_counters_of_metrics():
    assert await prober(lambda _: httpx.Response(200, text=METRICS)).counters(AT) == Counters(7, 12, 3.5)


@pytest.mark.parametrize(
    "answer",
    [lambda _: httpx.Response(501), lambda _: httpx.Response(200, text="?"), raising(httpx.ReadTimeout(""))],
)
async def test_no_counters(answer):
    assert await prober(answer).counters(AT) is None


@pytest.mark.parametrize("status", [200, 404, 500, 503])
async def test_any_answer_to_a_canary_is_a_sign_of_life(status):
    assert await prober(lambda _: httpx.Response(status)).canary(AT)


async def test_a_canary_whose_connection_breaks_is_sent_again(monkeypatch):
    monkeypatch.setattr(probe, "RETRY_S", 0.0)
    answers = iter([httpx.ReadError("reset"), httpx.ReadError("reset"), None])

    def answer(_):
        if (error := next(answers)) is not None:
            raise error
        return httpx.Response(200)

    assert await prober(answer).canary(AT)


async def test_a_canary_that_we_cannot_send_says_so():
    error = httpx.ConnectError("no"), OSError(errno.EMFILE, "Too many open files")
    assert not await prober(raising(*error)).canary(AT)


async def test_a_probe_leaves_nothing_for_the_garbage_collector():
    it = prober(lambda _: httpx.Response(200))
    gc.collect()
    gc.disable()
    try:
        await it.health(AT)
        await it.warm_up(AT)
        await it.counters(AT)
        assert not [one for one in gc.get_objects() if isinstance(one, httpx.Response)]
    finally:
        gc.enable()


class Endless(httpx.AsyncByteStream):
    """Megabytes without an end, or a byte now and then."""

    def __init__(self, block, pause_s=0.0):
        self.block, self.pause_s, self.sent = block, pause_s, 0

    async def __aiter__(self):
        while True:
            await asyncio.sleep(self.pause_s)
            self.sent += len(self.block)
            yield self.block


async def everything(it):
    return [
        await it.health(AT),
        await it.metrics(AT, 1.0),
        await it.counters(AT),
        await it.post(AT, "/tokenize", b"{}"),
        (await it.warm_up(AT) or "")[:12],
    ]


NOTHING = [Health.SILENT, None, None, None, "no answer to"]


async def test_no_more_is_read_of_an_answer_than_one_can_be():
    streams = []

    def answer(_):
        streams.append(Endless(b"x" * 65_536))
        return httpx.Response(200, stream=streams[-1])

    assert await everything(prober(answer)) == NOTHING
    assert all(stream.sent <= probe.MAX_ANSWER_BYTES + 65_536 for stream in streams)


async def test_a_packed_answer_is_not_unpacked():
    assert (
        await everything(prober(lambda _: httpx.Response(200, headers={"Content-Encoding": "br"}))) == NOTHING
    )


async def test_who_dribbles_does_not_hold_us(monkeypatch):
    for name in ("HEALTH_TIMEOUT_S", "COUNTERS_TIMEOUT_S", "POST_TIMEOUT_S", "WARM_UP_TIMEOUT_S"):
        monkeypatch.setattr(probe, name, 0.05)
    it = prober(lambda _: httpx.Response(200, stream=Endless(b"x", 0.01)))
    assert (await it.health(AT), await it.counters(AT), await it.post(AT, "/x", b"{}")) == (
        Health.SILENT,
        None,
        None,
    )


async def test_deeply_nested_answers_are_none():
    assert await prober(lambda _: httpx.Response(200, content=b"[" * 500_000)).post(AT, "/x", b"{}") is None
