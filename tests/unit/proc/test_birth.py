import errno
import os

import pytest

from supervisor.errors import BuildError, ConfigError
from supervisor.proc.birth import compose, obstacle
from supervisor.proc.spawn import SpawnFailed
from supervisor.types import Generation
from tests.support.proc import FakeBinary, spec


def test_a_start_has_a_key_of_its_own_and_the_port_it_was_given():
    first, second = (
        compose(spec(), FakeBinary(), {"HOME": "/root"}, 40001, Generation(n), None) for n in (1, 2)
    )
    assert (first.endpoint.port, first.argv[0]) == (40001, "/opt/llama-server")
    assert first.endpoint.api_key != second.endpoint.api_key
    assert first.env["LLAMA_API_KEY"] == first.endpoint.api_key
    assert first.endpoint.api_key not in " ".join(first.argv)
    assert second.env["LLMSUP_INSTANCE"] == f"{os.getpid()}:demo:2"


@pytest.mark.parametrize(
    ("error", "name", "permanent"),
    [
        (SpawnFailed("no process", transient=True), "spawn_failed", False),
        (SpawnFailed("Exec format error", transient=False), "not_executable", True),
        (BuildError("there is no llama-server"), "cannot_start", True),
        (ConfigError("args"), "cannot_start", True),
        (OSError(errno.EMFILE, "Too many open files"), "spawn_failed", False),
        (TimeoutError(), "spawn_failed", False),
        (ValueError("embedded null byte"), "internal_error", False),
    ],
)
def test_every_obstacle_has_a_cause(error, name, permanent):
    cause = obstacle(error, "demo")
    assert (cause.name, cause.permanent) == (name, permanent)
