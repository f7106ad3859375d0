"""What large bodies took is given back, by a process of its own: the setting cannot be taken back."""

import platform
import subprocess
import sys

import pytest

MIB = 1 << 20
# The first block teaches malloc that such are small; the small ones pin what lies below them.
PROGRAM = """
import sys
from supervisor.heap import give_back_what_is_freed
if sys.argv[1] == "yes":
    assert give_back_what_is_freed()
lesson = b"x" * (31 << 20)
del lesson
blocks, pins = [], []
for n in range(1, 5):
    blocks.append(bytes([n]) * (20 << 20))
    pins.append(bytes([n]) * 100_000)
del blocks
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS:")))
"""


def rss_bytes(said: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, said], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout) << 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc learns")
def test_freed_blocks_go_back_to_the_system() -> None:
    assert rss_bytes("yes") < 60 * MIB
    assert rss_bytes("no") > 80 * MIB  # what this is for
