"""Who may: another local user neither commands the daemon nor gets round its queue. (FAULTS 53)"""

import os
import stat

import pytest

from tests.support import rawhttp
from tests.support.daemon import chat_body, running
from tests.support.otheruser import as_nobody


@pytest.mark.fault(53)
def test_the_control_socket_is_its_owners() -> None:
    with running() as daemon:
        path = daemon.run_dir.socket_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        if os.geteuid() == 0:  # nobody else can become somebody else
            for folder in (daemon.folder, daemon.state_dir):  # what keeps others out must be the daemon's own
                folder.chmod(0o755)
            assert as_nobody("connect", path) == "PermissionError"
            path.parent.chmod(0o755)
            assert as_nobody("connect", path) == "PermissionError"
            path.chmod(0o666)
            assert as_nobody("connect", path) == "connected"  # so it was the mode
            answer = as_nobody("ask", path, "POST", "/stop")  # and behind the mode, the kernel's word
            assert answer.startswith("403 ")
            assert "permission_denied" in answer
            assert daemon.status()["stopping"] is False
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
