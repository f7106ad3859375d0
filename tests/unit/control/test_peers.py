"""`control.peers`: this user and root are served, and nobody else is even read."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from supervisor.control import peers
from supervisor.unixsocket import bind

REQUEST = b"POST /stop HTTP/1.1\r\nHost: llmsup\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Program:
    """What the control API would be."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


@contextlib.asynccontextmanager
async def served(program: Program, path: Path) -> AsyncIterator[None]:
    config = uvicorn.Config(
        program, http=peers.OwnersOnly, lifespan="off", log_config=None, access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # pytest's are not ours
    job = asyncio.create_task(server.serve(sockets=[bind(path, mode=0o600, backlog=5)]))
    yield
    server.should_exit = True
    await job


@pytest.mark.fault(53)
@pytest.mark.parametrize(("uid", "status"), [(None, 403), (65534, 403), ("own", 200), (0, 200)])
def test_only_this_user_and_root_are_heard(
    uid: int | str | None, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "peer_uid", lambda _: os.geteuid() if uid == "own" else uid)
    program = Program()

    async def main() -> bytes:
        async with served(program, Path("s")):
            reader, writer = await asyncio.open_unix_connection("s")
            writer.write(REQUEST)
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        return answer

    answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert program.asked == (["/stop"] if status == 200 else [])
    if status == 403:
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["exit_code"]) == ("permission_denied", 4)


def test_who_is_refused_and_stays_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "peer_uid", lambda _: 65534)
    monkeypatch.setattr(peers, "LINGER_S", 0.01)

    async def main() -> None:
        async with served(Program(), Path("s")):
            reader, writer = await asyncio.open_unix_connection("s")
            await asyncio.wait_for(reader.read(), 10)
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 20))
