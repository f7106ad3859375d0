"""The two doors to one llama-server: its own port with its key, and llmsup's port."""

from dataclasses import dataclass
from typing import Self

import psutil

from tests.support.daemon import DaemonUnderTest


@dataclass(frozen=True, slots=True)
class Doors:
    """Of the default model's present generation: a restart makes the child's half void."""

    daemon: DaemonUnderTest
    child_port: int
    child_key: str

    @classmethod
    def of(cls, daemon: DaemonUnderTest) -> Self:
        """The key is in the child's environment, which this user may read."""
        one = daemon.model()
        return cls(daemon, one["port"], psutil.Process(one["pid"]).environ()["LLAMA_API_KEY"])
