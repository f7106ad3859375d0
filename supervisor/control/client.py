"""How the command talks to the daemon: HTTP over the UNIX socket with the standard library alone
(httpx would cost 100 ms of import for one exchange).
"""

import http.client
import json
import os
import socket
from typing import Any

from supervisor.control.rundir import SUN_PATH_MAX, RunDir
from supervisor.errors import LlmsupError, NotRunning, PermissionDenied, TimedOut

TIMEOUT_S = 10.0


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
            body: dict[str, Any] = json.loads(answer.read())
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
            raise LlmsupError(f"the daemon's answer makes no sense: {exc}") from exc
        finally:
            connection.close()
        if "error" in body:
            error = LlmsupError(body["error"]["message"])
            error.exit_code = body["error"]["exit_code"]
            raise error
        return body
