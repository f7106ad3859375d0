"""What `exposure` must know and the configuration does not say: the keys there are, and whose the socket's folder is."""

import contextlib
import grp
from datetime import UTC, datetime

from supervisor.doctor.exposure import Facts
from supervisor.errors import LlmsupError
from supervisor.keys import store
from supervisor.settings.schema import Settings


def facts(settings: Settings) -> Facts:
    """Looked up now; what cannot be told is left open."""
    usable, mode, group = None, None, ""
    with contextlib.suppress(LlmsupError, OSError):
        keys = store.read(settings.state_dir / store.FILE_NAME).keys
        usable = sum(not key.expired(datetime.now(UTC)) for key in keys)
    if settings.listen_unix is not None:
        with contextlib.suppress(OSError):
            there = settings.listen_unix.parent.stat()
            mode, group = there.st_mode, str(there.st_gid)
            with contextlib.suppress(KeyError):
                group = grp.getgrgid(there.st_gid).gr_name
    return Facts(usable, mode, group)
