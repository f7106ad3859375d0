"""Asking a child how it is, over HTTP, with httpx (nothing here is fast-path).

``/health`` 200 means that the model is loaded and says nothing about inference, so readiness is a
one-token completion on top (LLAMA_SERVER 0.3).
"""

import asyncio
import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import httpx

from supervisor.events import Endpoint
from supervisor.proc.hang import Counters
from supervisor.types import MIB

HEALTH_TIMEOUT_S = 2.0
WARM_UP_TIMEOUT_S = 60.0
COUNTERS_TIMEOUT_S = 1.5  # it is asked between two looks, which are a second apart
POST_TIMEOUT_S = 2.0
RETRY_S = 0.5
MAX_ANSWER_BYTES = (
    1 * MIB
)  # /metrics and a token are a few KiB; a child that somebody has got hold of may say anything
ONE_TOKEN = b'{"prompt":"a","n_predict":1,"cache_prompt":false}'
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
NO_COMPLETION_HERE = frozenset({400, 404, 501})  # an embedding or reranking server answers so, and lives


class Health(Enum):
    READY = auto()
    LOADING = auto()
    REFUSED = auto()  # nobody listens
    SILENT = auto()  # somebody listens and does not answer, or not in HTTP


class TooLong(httpx.HTTPError):
    """What was asked is answered without an end."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class Prober:
    """One connection pool for all probes; closed by the daemon."""

    def __init__(self) -> None:
        # trust_env: HTTP_PROXY must not hijack loopback. verify: no TLS here, and loading the
        # certificate store costs 30 ms.
        # A fresh connection each time: one kept alive would answer for a listener that has closed.
        self._http = httpx.AsyncClient(
            trust_env=False,
            verify=False,  # noqa: S501  loopback, plain HTTP
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(
        self,
        at: Endpoint,
        path: str,
        timeout_s: float | None,
        *,
        key: bool = True,
        content: bytes | None = None,
    ) -> Answer:
        """GET, or POST where there is content. ``timeout_s``: for all of it; a child that dribbles does not hold us.

        Raises:
            httpx.HTTPError: no answer, or none that may be so long.
        """
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {at.api_key}"} if key else {})
        if content is not None:
            headers["Content-Type"] = "application/json"
        method = "GET" if content is None else "POST"
        url = f"http://{at.host}:{at.port}{path}"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.stream(method, url, content=content, headers=headers, timeout=timeout_s) as stream,
            ):
                body = b""
                if "content-encoding" in stream.headers:
                    raise TooLong(f"a packed answer to {path}, which nobody asked for")  # it could be a bomb
                async for block in stream.aiter_bytes():
                    body += block
                    if len(body) > MAX_ANSWER_BYTES:
                        raise TooLong(f"an answer of more than {MAX_ANSWER_BYTES} bytes to {path}")
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer to {path} within {timeout_s} s") from None
        status = stream.status_code
        _untie(stream)
        return Answer(status, body)

    async def health(self, at: Endpoint) -> Health:
        try:
            answer = await self._ask(at, "/health", HEALTH_TIMEOUT_S, key=False)
        except httpx.HTTPError as exc:
            return Health.REFUSED if _refused(exc) else Health.SILENT
        return Health.READY if answer.status == httpx.codes.OK else Health.LOADING

    async def warm_up(self, at: Endpoint) -> str | None:
        """Have one token made. None: well; else what was wrong, in words."""
        try:
            answer = await self._one_token(at, WARM_UP_TIMEOUT_S)
        except httpx.HTTPError as exc:
            return f"no answer to a one-token completion: {exc!r}"
        if answer.status == httpx.codes.OK or answer.status in NO_COMPLETION_HERE:
            return None
        return f"a one-token completion was answered {answer.status}: {answer.text[:200]}"

    async def _one_token(self, at: Endpoint, timeout_s: float | None) -> Answer:
        return await self._ask(at, "/completion", timeout_s, content=ONE_TOKEN)

    async def canary(self, at: Endpoint) -> bool:
        """Have one token made, whatever it takes (whoever asks ends it). True: an answer of any kind; False: never sent.

        A connection that breaks is no answer, and is tried again: whether the process is gone, others see.
        """
        while True:
            try:
                await self._one_token(at, None)
            except httpx.HTTPError as exc:
                if any(isinstance(one, OSError) and one.errno in OURS for one in _chain(exc)):
                    return False
                await asyncio.sleep(RETRY_S)
            else:
                return True

    async def post(self, at: Endpoint, path: str, body: bytes) -> Any:
        """What the child answers to a body, as JSON; None: nothing in time, or nothing that can be read."""
        try:
            answer = await self._ask(at, path, POST_TIMEOUT_S, content=body)
            return json.loads(answer.body) if answer.status == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError, RecursionError):
            return None

    async def metrics(self, at: Endpoint, timeout_s: float) -> str | None:
        """What ``/metrics`` says; None: nothing in time, or that it will not."""
        try:
            answer = await self._ask(at, "/metrics", timeout_s)
        except httpx.HTTPError:
            return None
        return answer.text if answer.status == httpx.codes.OK else None

    async def counters(self, at: Endpoint) -> Counters | None:
        """What ``/metrics`` counts; None: no answer, or none that can be read."""
        try:
            answer = await self._ask(at, "/metrics", COUNTERS_TIMEOUT_S)
            rows = (line.split() for line in answer.text.splitlines() if line.startswith(_PREFIX))
            values = {row[0].removeprefix(_PREFIX): float(row[1]) for row in rows if len(row) == 2}
            return Counters(
                values["n_decode_total"], values["prompt_tokens_total"], values["tokens_predicted_total"]
            )
        except (httpx.HTTPError, KeyError, ValueError):
            return None


_PREFIX = "llamacpp:"


def _untie(answer: httpx.Response) -> None:
    """An answer that was read whole gives up its stream, which refers back to it: each probe would leave a ring with a
    whole connection in it for the collector, which comes late.
    """
    del answer.stream


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(error: BaseException) -> bool:
    """Whether the child's side said no. Not having a descriptor left for asking is no word of the child's."""
    return any(isinstance(one, ConnectionRefusedError) for one in _chain(error))
