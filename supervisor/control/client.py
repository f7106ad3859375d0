"""How the command talks to the daemon: HTTP over the UNIX socket with the standard library alone
(httpx would cost 100 ms of import for one exchange, http.client 30).
"""

import json
import os
import re
import socket
import time
from http import HTTPStatus
from typing import Any

from supervisor.control.rundir import RunDir
from supervisor.errors import LlmsupError, NotRunning, PermissionDenied, TimedOut
from supervisor.unixsocket import SUN_PATH_MAX

TIMEOUT_S = 10.0
BLOCK = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |$)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*(?:\r|$)", re.IGNORECASE)
# How a daemon answers what it has no word for; those of other versions in their own way.
_NO_ROUTE = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
_NO_ROUTE_CODES = {"not_found", "method_not_allowed"}


class OutdatedDaemon(LlmsupError):
    """The daemon that runs is of another version than this command."""


class ControlClient:
    def __init__(self, run: RunDir, timeout_s: float = TIMEOUT_S) -> None:
        self._run = run
        self._timeout_s = timeout_s

    def get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path)

    def post(self, path: str) -> dict[str, Any]:
        return self._ask("POST", path)

    def _exchange(self, method: str, path: str) -> tuple[int, dict[str, Any] | None]:
        """Status and document; None: that is no JSON object. One deadline for all of it.

        Raises:
            ValueError: it is not a whole HTTP answer.
            OSError: of many kinds.
        """
        deadline = time.monotonic() + self._timeout_s
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(self._timeout_s)
            sock.connect(str(self._run.socket_path))
            sock.sendall(f"{method} {path} HTTP/1.1\r\nhost: llmsup\r\nconnection: close\r\n\r\n".encode())
            data = bytearray()
            while True:
                sock.settimeout(max(0.001, deadline - time.monotonic()))
                piece = sock.recv(BLOCK)
                if not piece:
                    break
                data += piece
        if not data:
            raise ConnectionResetError("it has closed the connection without an answer")
        return _answer(bytes(data))

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        if len(os.fsencode(self._run.socket_path)) > SUN_PATH_MAX:  # no daemon can have begun there
            raise NotRunning("llmsup is not running")
        try:
            status, body = self._exchange(method, path)
        except PermissionError as exc:
            raise PermissionDenied(
                f"{self._run.socket_path}: {exc.strerror}",
                hint="run the command as the user that runs llmsup",
            ) from exc
        except TimeoutError:
            raise TimedOut(
                f"llmsup (pid {self._run.pid()}) did not answer within {self._timeout_s:g} s",
                hint="is it frozen? then end it with kill -9; its llama-servers end with it",
            ) from None
        except (FileNotFoundError, NotADirectoryError, ConnectionError) as exc:
            if self._run.running():
                raise LlmsupError(
                    f"llmsup is running (pid {self._run.pid()}) but its control socket does not answer: {exc}",
                    hint="it may be starting or stopping: try again in ten seconds",
                ) from exc
            raise NotRunning("llmsup is not running") from None
        except (OSError, ValueError) as exc:
            raise LlmsupError(
                f"the daemon's answer makes no sense: {' '.join(str(exc).split())}",
                hint="see: llmsup logs --daemon --errors",
            ) from exc
        if body is None or (status in _NO_ROUTE and _code(body) in _NO_ROUTE_CODES):
            if status in _NO_ROUTE:
                raise OutdatedDaemon(
                    f"the llmsup that runs (pid {self._run.pid()}) does not know {path.partition('?')[0]}: it is of another version",
                    hint="restart it: llmsup stop && llmsup start",
                )
            raise LlmsupError(
                f"the daemon's answer makes no sense: status {status}, no JSON object",
                hint="see: llmsup logs --daemon --errors",
            )
        if "error" in body:
            error = LlmsupError(body["error"]["message"])
            error.exit_code = body["error"]["exit_code"]
            raise error
        return body


def _answer(data: bytes) -> tuple[int, dict[str, Any] | None]:
    """Of an answer that ends with its connection; every document of the control API has its length."""
    head, found, body = data.partition(b"\r\n\r\n")
    line = head.split(b"\r\n", 1)[0]
    began = _STATUS_LINE.match(line)
    if not found or began is None:
        raise ValueError(line[:80].decode("utf-8", "replace"))
    length = _LENGTH.search(head)
    if length is None or int(length[1]) != len(body):
        raise ValueError(
            f"{len(body)} bytes, where {'no length' if length is None else int(length[1])} was said"
        )
    return int(began[1]), _document(body)


def _document(data: bytes) -> dict[str, Any] | None:
    """None: it is no JSON object."""
    try:
        body = json.loads(data)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _code(body: dict[str, Any]) -> object:
    error = body.get("error")
    return error.get("code") if isinstance(error, dict) else None
