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
        # A fresh connection each time: one kept alive would answer for a listener that has closed.
        self._http = httpx.AsyncClient(
            trust_env=False,
            verify=False,  # noqa: S501  loopback, plain HTTP
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def health(self, at: Endpoint) -> Health:
        try:
            answer = await self._http.get(f"http://{at.host}:{at.port}/health", timeout=HEALTH_TIMEOUT_S)
        except httpx.HTTPError as exc:
            return Health.REFUSED if _refused(exc) else Health.SILENT
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


def _refused(error: BaseException | None) -> bool:
    """Whether the child's side said no. Not having a descriptor left for asking is no word of the child's."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        error = error.__cause__ or error.__context__
    return False
