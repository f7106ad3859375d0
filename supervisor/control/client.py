"""How the command talks to the daemon: HTTP over the UNIX socket with the standard library alone
(httpx would cost 100 ms of import for one exchange).
"""

import http.client
import json
import os
import socket
from http import HTTPStatus
from typing import Any

from supervisor.control.rundir import RunDir
from supervisor.errors import LlmsupError, NotRunning, PermissionDenied, TimedOut
from supervisor.unixsocket import SUN_PATH_MAX

TIMEOUT_S = 10.0
# How a daemon answers what it has no word for; those of other versions in their own way.
_NO_ROUTE = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
_NO_ROUTE_CODES = {"not_found", "method_not_allowed"}


class OutdatedDaemon(LlmsupError):
    """The daemon that runs is of another version than this command."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("llmsup", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ControlClient:
    def __init__(self, run: RunDir, timeout_s: float = TIMEOUT_S) -> None:
        self._run = run
        self._timeout_s = timeout_s

    def get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path)

    def post(self, path: str) -> dict[str, Any]:
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        if len(os.fsencode(self._run.socket_path)) > SUN_PATH_MAX:  # no daemon can have begun there
            raise NotRunning("llmsup is not running")
        connection = _UnixConnection(str(self._run.socket_path), self._timeout_s)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = _document(answer.read())
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
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise LlmsupError(
                f"the daemon's answer makes no sense: {exc}", hint="see: llmsup logs --daemon --errors"
            ) from exc
        finally:
            connection.close()
        if body is None or (answer.status in _NO_ROUTE and _code(body) in _NO_ROUTE_CODES):
            if answer.status in _NO_ROUTE:
                raise OutdatedDaemon(
                    f"the llmsup that runs (pid {self._run.pid()}) does not know {path.partition('?')[0]}: it is of another version",
                    hint="restart it: llmsup stop && llmsup start",
                )
            raise LlmsupError(
                f"the daemon's answer makes no sense: status {answer.status}, no JSON object",
                hint="see: llmsup logs --daemon --errors",
            )
        if "error" in body:
            error = LlmsupError(body["error"]["message"])
            error.exit_code = body["error"]["exit_code"]
            raise error
        return body


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
