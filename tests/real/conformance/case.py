"""One request of the set, as data, and its bytes on the wire."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support import rawhttp

CHUNK_BYTES = 7  # of a chunked request: small, so that names and numbers are split

# Which llama-server a case is for: the arguments that its model has in the configuration.
PLAIN, RERANK, TOOLS, THINKING = "plain", "rerank", "tools", "thinking"
EMBEDDING = TOOLS  # one server for both


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``status`` is llama-server's own: it shows that the request asks what its name says.

    A ``body`` of bytes goes out as it is, anything else as JSON; ``differs`` names a row of `differences`.
    """

    id: str
    path: str
    body: Any = None
    method: str = "POST"
    status: int = 200
    server: str = PLAIN
    headers: Sequence[tuple[str, str]] = ()
    chunked: bool = False
    http10: bool = False
    differs: str | None = None

    def wire(self, key: str) -> bytes:
        """The whole request, with the child's key, of which llmsup must make nothing."""
        body = self.body
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = [*self.headers, ("Authorization", f"Bearer {key}")]
        if body is not None and not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/json"))
        if self.chunked and body is not None:
            headers.append(("Transfer-Encoding", "chunked"))
            body = _chunked(body)
        request = rawhttp.request(self.method, self.path, body, headers)
        return request.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1) if self.http10 else request


def _chunked(body: bytes) -> bytes:
    pieces = (body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def both(
    id_: str, path: str, body: Mapping[str, Any], *, stream_status: int | None = None, **more: Any
) -> Iterator[Case]:
    """The same request twice: answered whole, and as a stream, whose status may be another."""
    yield Case(id=id_, path=path, body=body, **more)
    if stream_status is not None:
        more["status"] = stream_status
    yield Case(id=f"{id_}-stream", path=path, body={**body, "stream": True}, **more)


def each(
    prefix: str, path: str, base: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], **more: Any
) -> Iterator[Case]:
    """`both` for every row of options over the same base; an option of ``...`` is left out."""
    for name, options in rows.items():
        body = {key: value for key, value in {**base, **options}.items() if value is not ...}
        yield from both(f"{prefix}/{name}", path, body, **more)
