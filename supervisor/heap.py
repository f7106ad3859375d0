"""Memory that large bodies took goes back to the system when they are gone.

glibc's malloc learns: once a large block has been freed, blocks of that size come from the heap from then on, where one
small block above them keeps them all (mallopt(3), M_MMAP_THRESHOLD). Two bursts of bodies of 31 MiB left the daemon 60 MiB
larger for good. A threshold that is set holds still. Where there is no glibc, nothing is done.
"""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MMAP_THRESHOLD_BYTES = 32 << 10  # pieces of bodies are 64 KiB and more; other blocks of that size are rare
TRIM_THRESHOLD_BYTES = 1 << 20  # not each time that a few answers have gone out


def give_back_what_is_freed() -> bool:
    """Of this process, from now on. Whether it could be said."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        large = mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        return bool(large and mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
    return False
