"""The official ``openai`` package, asked to talk to llmsup and to llama-server itself: it gets the same."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.chaos.continuity import EXACT
from tests.real.conformance.compare import normalised
from tests.support.daemon import DaemonUnderTest, running, until
from tests.support.doors import Doors

pytestmark = pytest.mark.real

TEMPLATE = Path(__file__).parents[1] / "support" / "tools.jinja"
ARGS = ["--no-cache-prompt", "--embeddings", "--pooling", "mean", "--chat-template-file", str(TEMPLATE)]
TURN: ChatCompletionMessageParam = {"role": "user", "content": "Hello!"}
GREEDY: dict[str, Any] = {"model": "demo", "temperature": 0, "seed": 7, "max_tokens": 16}
# The demo model neither begins a call by itself nor ends after one.
BEGUN: list[ChatCompletionMessageParam] = [TURN, {"role": "assistant", "content": "<tool_call>\n"}]
CALLED: dict[str, Any] = {**GREEDY, "max_tokens": 300, "stop": ["</tool_call>"]}


class Trip(BaseModel):
    city: Literal["Rome", "Oslo"]
    days: Literal[1, 2, 3]


TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "book", "description": "A trip.", "parameters": Trip.model_json_schema()},
}


@pytest.fixture(scope="module")
def doors(llama_server_binary: Path, demo_model: Path) -> Iterator[Doors]:
    with running(
        binary=llama_server_binary, model_path=demo_model, models={"demo": {"args": ARGS}}
    ) as daemon:
        yield Doors.of(daemon)


@pytest.fixture
def ours(doors: Doors) -> Iterator[OpenAI]:
    with to(doors.daemon.port) as client:
        yield client


@pytest.fixture
def direct(doors: Doors) -> Iterator[OpenAI]:
    with to(doors.child_port, doors.child_key) as client:
        yield client


def to(port: int, key: str = "unused", *, retries: int = 0, **options: Any) -> OpenAI:
    """Never asking twice, unless told to: what comes is what was said."""
    return OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=retries, timeout=20, **options
    )


def shown(value: BaseModel) -> str:
    """All that the package has understood, less what differs from one asking to the next."""
    return normalised(json.dumps(value.model_dump(mode="json", warnings=False), separators=(",", ":")))


Ask = Callable[[OpenAI], BaseModel]
ASKED: dict[str, Ask] = {
    "chat": lambda c: c.chat.completions.create(messages=[TURN], **GREEDY),
    "several": lambda c: c.chat.completions.create(messages=[TURN], n=2, **GREEDY),
    "logprobs": lambda c: c.chat.completions.create(messages=[TURN], logprobs=True, top_logprobs=2, **GREEDY),
    "tools": lambda c: c.chat.completions.create(
        messages=BEGUN, tools=[TOOL], tool_choice="required", **CALLED
    ),
    "schema": lambda c: c.chat.completions.parse(
        messages=[TURN], response_format=Trip, **{**GREEDY, "max_tokens": 200}
    ),
    "object": lambda c: c.chat.completions.create(
        messages=[TURN], response_format={"type": "json_object"}, **GREEDY
    ),
    "text": lambda c: c.completions.create(prompt="Once upon", logprobs=2, **GREEDY),
    "response": lambda c: c.responses.create(
        model="demo", input="Hello!", temperature=0, max_output_tokens=16
    ),
    "vector": lambda c: c.embeddings.create(model="demo", input="the cat"),
    "vectors": lambda c: c.embeddings.create(model="demo", input=["the cat", "a dog"]),
    "vector as numbers": lambda c: c.embeddings.create(
        model="demo", input="the cat", encoding_format="float"
    ),
}
Stream = Callable[[OpenAI], Iterator[BaseModel]]
STREAMED: dict[str, Stream] = {
    "chat": lambda c: iter(c.chat.completions.create(messages=[TURN], stream=True, **GREEDY)),
    "usage": lambda c: iter(
        c.chat.completions.create(
            messages=[TURN], stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    ),
    "tools": lambda c: iter(
        c.chat.completions.create(messages=BEGUN, tools=[TOOL], tool_choice="required", stream=True, **CALLED)
    ),
    "text": lambda c: iter(c.completions.create(prompt="Once upon", stream=True, **GREEDY)),
    "response": lambda c: iter(
        c.responses.create(model="demo", input="Hello!", temperature=0, max_output_tokens=16, stream=True)
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_is_as_it_is_directly(ours: OpenAI, direct: OpenAI, name: str) -> None:
    assert shown(ASKED[name](ours)) == shown(ASKED[name](direct))


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_is_as_it_is_directly(ours: OpenAI, direct: OpenAI, name: str) -> None:
    ours_events, direct_events = ([shown(event) for event in STREAMED[name](c)] for c in (ours, direct))
    assert ours_events == direct_events
    assert len(ours_events) > 5


# ---- what the package makes of it


def test_tools_are_called(ours: OpenAI) -> None:
    """Whole, and put together from a stream by the package itself."""
    options: dict[str, Any] = {"messages": BEGUN, "tools": [TOOL], "tool_choice": "required", **CALLED}
    whole = ours.chat.completions.create(**options)
    with ours.chat.completions.stream(**options) as stream:
        streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.tool_calls
        call = answer.choices[0].message.tool_calls[0]
        assert call.type == "function"
        assert call.function.name == "book"
        assert Trip.model_validate_json(call.function.arguments)


def test_structured_output_is_parsed(ours: OpenAI) -> None:
    options: dict[str, Any] = {**GREEDY, "messages": [TURN], "response_format": Trip, "max_tokens": 200}
    whole = ours.chat.completions.parse(**options)
    with ours.chat.completions.stream(**options) as stream:
        streamed = stream.get_final_completion()
    assert isinstance(whole.choices[0].message.parsed, Trip)
    assert streamed.choices[0].message.parsed == whole.choices[0].message.parsed
    with pytest.raises(openai.LengthFinishReasonError):
        ours.chat.completions.parse(**{**options, "max_tokens": 3})


def test_vectors_are_numbers(ours: OpenAI) -> None:
    """The package asks for base64 and decodes it."""
    in_base64 = ours.embeddings.create(model="demo", input="the cat").data[0].embedding
    in_json = ours.embeddings.create(model="demo", input="the cat", encoding_format="float").data[0].embedding
    assert in_base64 == pytest.approx(in_json, abs=1e-6)
    assert sum(number * number for number in in_json) == pytest.approx(1.0, abs=1e-3)


def test_models_are_listed(ours: OpenAI) -> None:
    assert [one.id for one in ours.models.list()] == ["demo"]


def test_a_stream_left_early_frees_its_slot(doors: Doors, ours: OpenAI) -> None:
    options: dict[str, Any] = {**GREEDY, "max_tokens": 900, "extra_body": {"ignore_eos": True}}
    with ours.chat.completions.create(messages=[TURN], stream=True, **options) as stream:
        assert next(iter(stream)).choices
        assert doors.daemon.model()["slots"]["busy"] == 1
    until(lambda: doors.daemon.model()["slots"]["busy"] == 0, "no slot is busy", 2.0)


def test_headers_can_be_read(ours: OpenAI) -> None:
    answer = ours.chat.completions.with_raw_response.create(
        messages=[TURN], extra_headers={"x-request-id": "mine-1"}, **GREEDY
    )
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-llmsup-client"] == "ip:127.0.0.1"
    assert answer.headers["x-llmsup-retries"] == "0"
    assert int(answer.headers["x-llmsup-queue-ms"]) >= 0
    assert answer.parse().choices
    with ours.chat.completions.with_streaming_response.create(
        messages=[TURN], stream=True, **GREEDY
    ) as streamed:
        assert streamed.headers["content-type"] == "text/event-stream"
        assert streamed.headers["x-request-id"]
        assert list(streamed.iter_lines())[-2:] == ["data: [DONE]", ""]


# ---- errors


def _bad(client: OpenAI) -> object:
    return client.chat.completions.create(messages=5, **GREEDY)  # type: ignore[call-overload]  # that is the mistake


def _too_long(client: OpenAI) -> object:
    return client.chat.completions.create(
        messages=[{"role": "user", "content": "word " * 5000}], stream=True, **GREEDY
    )


ERRORS: dict[str, tuple[Callable[[OpenAI], object], type[openai.APIStatusError]]] = {
    "bad": (_bad, openai.BadRequestError),
    "too long, streamed": (_too_long, openai.BadRequestError),
    "no such route": (lambda c: c.get("/nonesuch", cast_to=object), openai.NotFoundError),
    "no such model": (lambda c: c.models.retrieve("nonesuch"), openai.NotFoundError),
    "switched off": (
        lambda c: c.audio.transcriptions.create(model="demo", file=b"RIFF"),
        openai.InternalServerError,
    ),
    "vector too long": (
        lambda c: c.embeddings.create(model="demo", input="word " * 1500),
        openai.InternalServerError,
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_the_one_it_is_directly(ours: OpenAI, direct: OpenAI, name: str) -> None:
    ask, kind = ERRORS[name]
    said = []
    for client in (direct, ours):
        with pytest.raises(kind) as caught:
            ask(client)
        error = caught.value
        said.append((error.status_code, error.code, error.type, error.message))
    assert said[1] == said[0]
    assert error.request_id  # ours, the last one


def test_errors_of_our_own_have_their_classes(doors: Doors, ours: OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        ours.get(f"http://127.0.0.1:{doors.daemon.port}/slots", cast_to=object)
    assert (forbidden.value.code, forbidden.value.type) == ("forbidden", "permission_error")
    with pytest.raises(openai.BadRequestError) as bad:
        ours.post("/chat/completions", cast_to=object, content=b"{")
    assert (bad.value.code, bad.value.param) == ("bad_request", None)
    with pytest.raises(openai.APIStatusError) as large:
        ours.post("/chat/completions", cast_to=object, content=b" " * (33 << 20))
    assert (large.value.status_code, large.value.code) == (413, "body_too_large")


def test_statuses_of_llama_server_have_their_classes() -> None:
    kinds = {
        401: openai.AuthenticationError,
        403: openai.PermissionDeniedError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
    }
    with running() as daemon, to(daemon.port) as client:
        for status, kind in kinds.items():
            daemon.behave(status=status)
            with pytest.raises(kind):
                client.chat.completions.create(messages=[TURN], **GREEDY)


def test_a_client_out_of_patience_sees_a_timeout_and_frees_its_slot() -> None:
    with running() as daemon, to(daemon.port) as client:
        daemon.behave(hang="request")
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).chat.completions.create(messages=[TURN], **GREEDY)
        until(lambda: daemon.status()["requests"]["in_flight"] == 0, "nothing is in flight", 2.0)


def test_without_a_daemon_there_is_no_connection() -> None:
    daemon = DaemonUnderTest()
    with daemon, to(daemon.port) as client, pytest.raises(openai.APIConnectionError):
        client.models.list()


# ---- when something fails


def test_a_killed_child_is_latency_only(llama_server_binary: Path, demo_model: Path) -> None:
    """No client asks again here: whole answers and a stream, each with a kill while it is made."""
    with (
        running(
            binary=llama_server_binary, model_path=demo_model, models={"demo": {"args": EXACT}}
        ) as daemon,
        to(daemon.port) as client,
    ):
        options: dict[str, Any] = {**GREEDY, "max_tokens": 200, "extra_body": {"ignore_eos": True}}
        undisturbed = client.chat.completions.create(messages=[TURN], **options).choices[0].message.content
        generation = daemon.kill_child()
        again = client.chat.completions.with_raw_response.create(messages=[TURN], **options)
        assert again.parse().choices[0].message.content == undisturbed
        assert daemon.model()["generation"] > generation
        pieces: list[str] = []
        for chunk in client.chat.completions.create(messages=[TURN], stream=True, **options):
            if len(pieces) == 5:
                daemon.kill_child()
            pieces += [choice.delta.content or "" for choice in chunk.choices]
        assert "".join(pieces) == undisturbed


def test_a_refusal_is_obeyed_and_then_forgotten() -> None:
    """503 with retry-after-ms: the package waits as long as it is told, asks again, and its caller knows nothing."""
    answers: list[tuple[int, float]] = []  # status, and the wait asked for in seconds
    asked_at: list[float] = []

    def note_request(_: object) -> None:
        asked_at.append(time.monotonic())

    def note_answer(answer: Any) -> None:
        answers.append((answer.status_code, int(answer.headers.get("retry-after-ms", 0)) / 1000))
        holder.close()  # the slot becomes free for one of the next tries

    hooks: dict[str, list[Callable[..., Any]]] = {"request": [note_request], "response": [note_answer]}
    with (
        running(models={"demo": {"parallel": 1}}, proxy={"queue_size": 0}) as daemon,
        contextlib.ExitStack() as holder,
        to(
            daemon.port, retries=8, http_client=openai.DefaultHttpxClient(event_hooks=hooks, timeout=20)
        ) as client,
    ):
        holder.enter_context(daemon.streaming(fake={"hang": "health_ok_tokens_hang", "hang_after": 1}))
        assert client.chat.completions.create(messages=[TURN], **GREEDY).choices
    *refused, (status, _) = answers
    assert status == 200
    assert {status for status, _ in refused} == {503}
    for (_, wait_s), begun, again in zip(refused, asked_at, asked_at[1:], strict=False):
        assert again - begun >= wait_s > 0


def test_the_asynchronous_client(doors: Doors) -> None:
    async def ask() -> tuple[list[str | None], str]:
        url = f"http://127.0.0.1:{doors.daemon.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0, timeout=20) as client:
            chats = [client.chat.completions.create(messages=[TURN], **GREEDY) for _ in range(12)]
            whole = [chat.choices[0].message.content for chat in await asyncio.gather(*chats)]
            stream = await client.chat.completions.create(messages=[TURN], stream=True, **GREEDY)
            return whole, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    whole, streamed = asyncio.run(ask())
    assert set(whole) == {streamed}
    assert len(streamed) > 20
