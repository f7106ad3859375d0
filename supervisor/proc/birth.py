"""How a generation is to be started, and what stood in the way when it was not."""

import os
from collections.abc import Mapping

import structlog

from supervisor.errors import LlmsupError
from supervisor.events import Endpoint
from supervisor.proc import command, ports
from supervisor.proc.causes import Cause
from supervisor.proc.command import ModelSpec
from supervisor.proc.output import LogFile
from supervisor.proc.run import Launch, new_key
from supervisor.proc.spawn import SpawnFailed
from supervisor.proc.tools import Executable
from supervisor.types import MIB, Generation

log: structlog.stdlib.BoundLogger = structlog.get_logger("instance")


def compose(
    spec: ModelSpec,
    binary: Executable,
    environ: Mapping[str, str],
    port: int,
    generation: Generation,
    log_file: LogFile | None,
) -> Launch:
    """With a key of its own.

    Raises:
        ConfigError: the model's ``args`` set something that is llmsup's to set.
    """
    endpoint = Endpoint(ports.LOOPBACK, port, new_key())
    argv = command.argv(spec, binary, str(binary.path), host=endpoint.host, port=endpoint.port)
    marker = f"{os.getpid()}:{spec.holder}:{generation}"
    env = command.environment(spec, environ, api_key=endpoint.api_key, marker=marker)
    return Launch(
        argv, env, endpoint, log_file, secret_env=spec.secret_env, growth_bytes=spec.growth_mb * MIB
    )


def obstacle(error: Exception, model: str) -> Cause:
    """Why there is no process, from the error that the attempt ended with."""
    match error:
        case SpawnFailed():
            name = "spawn_failed" if error.transient else "not_executable"
            return Cause(name, str(error), permanent=not error.transient)
        case LlmsupError():
            return Cause("cannot_start", str(error), permanent=True)
        case OSError():  # out of descriptors or memory; a look that took too long
            return Cause("spawn_failed", f"not possible just now: {error!r}")
        case _:
            log.error("spawn failed", model=model, exc_info=error)
            return Cause("internal_error", repr(error))
