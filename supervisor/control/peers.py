"""The second lock on the control socket: whose process it is, by the kernel's word. The first, its mode and that of its
folder, falls with one careless `chmod`. (FAULTS 53)
"""

import asyncio
import json

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from supervisor.errors import PermissionDenied
from supervisor.unixsocket import owners, peer_uid

log: structlog.stdlib.BoundLogger = structlog.get_logger("control")

LINGER_S = 1.0  # to read the answer: closed at once, the peer's request would break on it


class OwnersOnly(H11Protocol):
    """Serves this user and root; whoever else connects is told so, whatever they ask, and nothing of theirs is read."""

    _refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own does so
        super().connection_made(transport)
        uid = peer_uid(transport.get_extra_info("socket"))
        if uid in owners():
            return
        self._refused = True
        log.warning("control refused to another user", uid=uid)
        transport.write(_refusal())
        transport.write_eof()
        self.loop.call_later(LINGER_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)


def _refusal() -> bytes:
    error = PermissionDenied("the control socket is for the user that runs llmsup, and for root")
    said = {"message": str(error), "code": error.code, "exit_code": error.exit_code}
    body = json.dumps({"error": said}).encode()
    head = f"HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncache-control: no-store\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode("ascii") + body
