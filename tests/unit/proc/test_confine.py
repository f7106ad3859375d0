"""`proc.confine`: a process keeps what it has, may take a little more, and then its allocation fails."""

import subprocess
import sys

import pytest

from supervisor.proc.confine import confine
from supervisor.types import MIB

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit is Linux's")

# Says that it has 100 MiB, waits to be confined, and takes as much more as it is told.
TAKER = """
had = bytearray(100 << 20)
print("ready", flush=True)
try:
    more = bytearray(int(input()) << 20)
    print("taken", len(had), flush=True)
except MemoryError:
    print("refused", len(had), flush=True)
"""


@pytest.mark.parametrize(("asked_mb", "outcome"), [(32, "taken"), (256, "refused")])
def test_it_may_take_a_little_more_and_no_more(asked_mb, outcome):
    with subprocess.Popen(
        [sys.executable, "-c", TAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        limit = confine(process.pid, 64 * MIB)
        assert limit is not None
        assert limit > 164 * MIB
        process.stdin.write(f"{asked_mb}\n")
        process.stdin.flush()
        assert process.stdout.readline().split()[0] == outcome


def test_who_is_gone_has_no_limit():
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
        assert confine(process.pid, MIB) is None


@pytest.mark.parametrize(("wanted", "core"), [({}, "0"), ({"LLMSUP_CORE_DUMPS": "1"}, "7")])
def test_the_daemon_leaves_no_core_file_unless_it_is_wanted(wanted, core):
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (7, 7));"
        "from supervisor.proc.confine import forbid_core_dumps; forbid_core_dumps();"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=wanted, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [core]
