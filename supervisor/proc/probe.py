"""Asking a child how it is, over HTTP, with httpx (nothing here is fast-path).

``/health`` 200 means that the model is loaded and says nothing about inference, so readiness is a
one-token completion on top (LLAMA_SERVER 0.3).
"""

from enum import Enum, auto

import httpx

from supervisor.events import Endpoint

HEALTH_TIMEOUT_S = 2.0
WARM_UP_TIMEOUT_S = 60.0
NO_COMPLETION_HERE = frozenset({400, 404, 501})  # an embedding or reranking server answers so, and lives


class Health(Enum):
    READY = auto()
    LOADING = auto()
    REFUSED = auto()  # nobody listens
    SILENT = auto()  # somebody listens and does not answer, or not in HTTP


class Prober:
    """One connection pool for all probes; closed by the daemon."""

    def __init__(self) -> None:
        # trust_env: HTTP_PROXY must not hijack loopback. verify: no TLS here, and loading the
        # certificate store costs 30 ms.
        self._http = httpx.AsyncClient(trust_env=False, verify=False)  # noqa: S501  loopback, plain HTTP

    async def aclose(self) -> None:
        await self._http.aclose()

    async def health(self, at: Endpoint) -> Health:
        try:
            answer = await self._http.get(f"http://{at.host}:{at.port}/health", timeout=HEALTH_TIMEOUT_S)
        except httpx.ConnectError:
            return Health.REFUSED
        except httpx.HTTPError:
            return Health.SILENT
        return Health.READY if answer.status_code == httpx.codes.OK else Health.LOADING

    async def warm_up(self, at: Endpoint) -> str | None:
        """Have one token made. None: well; else what was wrong, in words."""
        try:
            answer = await self._http.post(
                f"http://{at.host}:{at.port}/completion",
                json={"prompt": "a", "n_predict": 1, "cache_prompt": False},
                headers={"Authorization": f"Bearer {at.api_key}"},
                timeout=WARM_UP_TIMEOUT_S,
            )
        except httpx.HTTPError as exc:
            return f"no answer to a one-token completion: {exc!r}"
        if answer.status_code == httpx.codes.OK or answer.status_code in NO_COMPLETION_HERE:
            return None
        return f"a one-token completion was answered {answer.status_code}: {answer.text[:200]}"
