"""Being another local user, for tests that run as root: `as_nobody("ask", path, method, target)`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# The interpreter may lie where only root can read, so it starts as root and then becomes somebody else.
_PROGRAM = """
import http.client, os, socket, sys
os.setgroups([]); os.setgid(65533); os.setuid(65534)  # two numbers, so that no test takes one for the other
what, path, *rest = sys.argv[1:]
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(15)
try:
    sock.connect(path)
except OSError as exc:
    print(type(exc).__name__)
else:
    if what == "connect":
        print("connected")
    else:
        method, target, *headers = rest
        connection = http.client.HTTPConnection("localhost")
        connection.sock = sock
        connection.request(method, target, headers=dict(header.split(": ", 1) for header in headers))
        answer = connection.getresponse()
        print(answer.status, answer.headers["x-llmsup-client"])
        print(answer.read().decode())
"""


def as_nobody(what: str, path: Path | str, *rest: str) -> str:
    """What a process of the user `nobody` gets at a UNIX socket, in folders that are open to everybody.

    ``what``: `connect` (the word ``connected``, or the error's name) or `ask` METHOD TARGET HEADER... (status, client's
    name and body).
    """
    command = [sys.executable, "-I", "-c", _PROGRAM, what, str(path), *rest]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
