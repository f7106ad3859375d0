"""Who may: another local user neither commands the daemon nor gets round its queue. (FAULTS 53)"""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import rawhttp
from tests.support.daemon import chat_body, running

# The interpreter may lie where only root can read, so it starts as root and then becomes somebody else.
CONNECT_AS_NOBODY = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except OSError as exc:
    print(type(exc).__name__)
else:
    print("connected")
"""


def connected_as_nobody(path: Path) -> str:
    command = [sys.executable, "-I", "-c", CONNECT_AS_NOBODY, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@pytest.mark.fault(53)
def test_the_control_socket_is_its_owners() -> None:
    with running() as daemon:
        path = daemon.run_dir.socket_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        if os.geteuid() == 0:  # nobody else can become somebody else
            for folder in (daemon.folder, daemon.state_dir):  # what keeps others out must be the daemon's own
                folder.chmod(0o755)
            assert connected_as_nobody(path) == "PermissionError"
            path.parent.chmod(0o755)
            assert connected_as_nobody(path) == "PermissionError"
            path.chmod(0o666)
            assert connected_as_nobody(path) == "connected"  # so it was the mode
            path.chmod(0o600)
            path.parent.chmod(0o700)


@pytest.mark.fault(53)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_the_childs_port_wants_the_childs_key(headers: dict[str, str]) -> None:
    with running() as daemon:
        port = daemon.model()["port"]
        answer = rawhttp.ask(port, "POST", "/v1/chat/completions", chat_body("Hello"), headers)
        assert answer.status == 401
        assert daemon.chat().status == 200
