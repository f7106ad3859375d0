"""What the operator wrote, in the words of each room: settings in, the rooms' own values out."""

import contextlib
import resource
import socket
from collections.abc import Mapping

from supervisor import handshakes
from supervisor.control import page
from supervisor.control.rundir import RunDir
from supervisor.proc import profile
from supervisor.proc.command import CACHE_RAM_SHARE, HTTP_THREADS_SPARE, ModelSpec
from supervisor.proc.lineup import Terms
from supervisor.proxy import places
from supervisor.proxy.bounds import Bounds, RetryBounds
from supervisor.proxy.breaker import BreakerBounds
from supervisor.proxy.console import ConsoleRules
from supervisor.proxy.cors import CorsRules
from supervisor.proxy.server_names import ServerNames
from supervisor.proxy.turns import Share
from supervisor.ratelimit.pools import OF_KEYS, Pool, pool
from supervisor.settings.schema import Memory, Model, Settings
from supervisor.settings.values import BUILT_IN_POOLS
from supervisor.types import ModelName

# Beyond `memory.limit_mb`, above which it is replaced anyway: the stacks of 60 more threads.
GROWTH_SPARE_MB = 2048
OWN_DESCRIPTORS = 64  # about 25 at rest, and 10 for each start of a child
MIN_CLIENTS, MAX_CLIENTS = 8, 16_384


def spec_of(name: str, model: Model, settings: Settings) -> ModelSpec:
    """What the child is told, from what the operator wrote."""
    return ModelSpec(
        name=name,
        path=str(model.path),
        context_size=model.context_size,
        threads=model.threads,
        batch_size=model.batch_size,
        parallel=model.parallel,
        gpu_layers=model.gpu_layers,
        args=tuple(model.args),
        env=dict(model.env),
        secret_env=model.secret_env,
        max_tokens=model.max_tokens,
        growth_mb=growth_mb_of(settings.memory),
        cache_ram_mb=max(1, settings.memory.limit_mb // CACHE_RAM_SHARE // len(settings.models)),
    )


def growth_mb_of(memory: Memory) -> int:
    """What one child may take beyond what it has when it serves; 0: whatever there is."""
    return memory.limit_mb + GROWTH_SPARE_MB if memory.growth_limit_mb is None else memory.growth_limit_mb


def safe_spec_of(name: str, model: Model, settings: Settings) -> ModelSpec | None:
    """What the child is told when it has run out of memory; None when that would be the same."""
    return profile.lowered(spec_of(name, model, settings), **model.safe_profile.model_dump())


def terms_of(settings: Settings) -> dict[ModelName, Terms]:
    """How long each model stays in memory."""
    return {
        ModelName(name): Terms(model.preload, model.ttl_s, model.standby)
        for name, model in settings.models.items()
    }


def aliases_of(settings: Settings) -> dict[str, ModelName]:
    return {alias: ModelName(name) for name, model in settings.models.items() for alias in model.aliases}


def bounds_of(settings: Settings) -> Bounds:
    """What the request path is held to."""
    return Bounds(
        concurrent=settings.proxy.max_concurrent_requests,
        queue_size=settings.proxy.queue_size,
        queue_timeout_s=settings.proxy.queue_timeout_s,
        silence_s=settings.proxy.request_timeout_s,
        retry=RetryBounds(
            max_retries=settings.retry.max_retries,
            delay_s=settings.retry.delay_ms / 1000,
            multiplier=settings.retry.backoff_multiplier,
            retryable=frozenset(settings.retry.retryable),
        ),
        breaker=BreakerBounds(**settings.circuit_breaker.model_dump()),
    )


def cors_rules(settings: Settings) -> CorsRules | None:
    """None: no page of another origin may ask, and no request costs a look at its own."""
    cors = settings.proxy.cors
    if not cors.allow_origins:
        return None
    return CorsRules(
        origins=tuple(cors.allow_origins),
        headers=tuple(cors.allow_headers),
        credentials=cors.allow_credentials,
        max_age_s=cors.max_age_s,
    )


def server_names(settings: Settings) -> ServerNames:
    """What this server may be called: as configured, as it listens, and as its machine is, in DNS or mDNS."""
    machine = socket.gethostname().lower()
    return ServerNames([*settings.proxy.server_names, settings.listen_host, machine, f"{machine}.local"])


def pools_of(settings: Settings) -> dict[str, Pool]:
    """What each client may, by the name of its pool; those of them with a key, where they share nothing with the others."""
    found = {}
    for name, values in settings.limits.pools.items():
        names = [name, name + OF_KEYS] if values.shared and name in BUILT_IN_POOLS else [name]
        for each in names:
            found[each] = pool(
                each, **values.model_dump(exclude={"priority", "shared"}), batch=values.priority == "batch"
            )
    return found


def shared_of(settings: Settings) -> dict[str, Pool]:
    """What all clients of a pool may together."""
    return {
        name: pool(name, **values.shared.model_dump(), shared=True)
        for name, values in settings.limits.pools.items()
        if values.shared is not None
    }


def shares_of(pools: Mapping[str, Pool]) -> dict[str, Share]:
    """Of those who wait."""
    return {name: Share(pool.weight, pool.batch) for name, pool in pools.items()}


def console_rules(settings: Settings) -> ConsoleRules:
    dashboard = settings.dashboard
    return ConsoleRules(
        socket=str(RunDir(settings.state_dir).socket_path),
        dashboard=dashboard.enabled,
        open_on_loopback=dashboard.open_on_loopback,
        page=page.static_files(),
    )


def max_connections(settings: Settings) -> int:
    """As many clients as descriptors allow, less what children, logs, control and connections to them need, and who is not
    counted among clients: the last to be let in, and those who are still shaking hands.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS does not take its own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    slots = sum(model.parallel for model in settings.models.values())
    upstream = min(slots, settings.proxy.max_concurrent_requests) + HTTP_THREADS_SPARE
    outside = places.SPARE + (handshakes.MOST if settings.tls.cert_file is not None else 0)
    return max(MIN_CLIENTS, min(MAX_CLIENTS, limit - OWN_DESCRIPTORS - upstream - outside))
