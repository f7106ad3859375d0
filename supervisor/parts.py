"""The composition root: settings in, wired parts out. Only here things are constructed.

`app.Daemon` gives them life. They know each other through the few calls that are handed over here.
"""

import contextlib
import random
import resource
from typing import Any

from supervisor.clock import SystemClock
from supervisor.keys import store
from supervisor.keys.ring import Keyring
from supervisor.proc import deaths, profile
from supervisor.proc.budget import Budget
from supervisor.proc.cgroup import OomKills
from supervisor.proc.children import Children
from supervisor.proc.command import CACHE_RAM_SHARE, HTTP_THREADS_SPARE, ModelSpec
from supervisor.proc.deaths import Deaths
from supervisor.proc.finder import BinaryFinder
from supervisor.proc.fleet import Fleet
from supervisor.proc.gpu import GpuMemory
from supervisor.proc.instance import Instance, Tools
from supervisor.proc.memory import MemoryWatch
from supervisor.proc.output import LogFile
from supervisor.proc.probe import Prober
from supervisor.proc.pss import PssMemory
from supervisor.proc.run import log_path
from supervisor.proxy.admission import Admission
from supervisor.proxy.bounds import Bounds, RetryBounds
from supervisor.proxy.breaker import BreakerBounds
from supervisor.proxy.cors import CorsRules
from supervisor.proxy.inflight import InFlight
from supervisor.proxy.pipeline import Pipeline, Wiring
from supervisor.proxy.ties import Ties
from supervisor.ratelimit.policy import Unlimited
from supervisor.settings.schema import Model, Settings
from supervisor.types import ModelName

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
        max_tokens=model.max_tokens,
        cache_ram_mb=max(1, settings.memory.limit_mb // CACHE_RAM_SHARE // len(settings.models)),
    )


def safe_spec_of(name: str, model: Model, settings: Settings) -> ModelSpec | None:
    """What the child is told when it has run out of memory; None when that would be the same."""
    return profile.lowered(spec_of(name, model, settings), **model.safe_profile.model_dump())


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


def max_connections(settings: Settings) -> int:
    """As many clients as descriptors allow, less what children, logs, control and connections to them need."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):  # macOS does not take its own "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    slots = sum(model.parallel for model in settings.models.values())
    upstream = min(slots, settings.proxy.max_concurrent_requests) + HTTP_THREADS_SPARE
    return max(MIN_CLIENTS, min(MAX_CLIENTS, limit - OWN_DESCRIPTORS - upstream))


class Parts:
    """Of one daemon; none of them does anything yet."""

    def __init__(self, settings: Settings, children: Children) -> None:
        self.clock = SystemClock()
        self.model_logs = {
            ModelName(name): LogFile(log_path(settings.log_dir, name)) for name in settings.models
        }
        self.in_flight = InFlight()
        self.fleet = Fleet(self.clock)
        self.deaths = Deaths(settings.state_dir / deaths.FILE_NAME)
        self.keyring = Keyring(settings.state_dir / store.FILE_NAME, self.clock.wall)
        self.prober = Prober()
        self.budget = Budget(
            limit_mb=settings.memory.limit_mb,
            min_free_mb=settings.memory.min_free_mb,
            views=self.fleet.views,
        )
        self.admission = Admission(
            bounds_of(settings),
            self.clock,
        )
        self.memory = MemoryWatch(
            limit_bytes=settings.memory.limit_mb << 20,
            views=self.fleet.views,
            in_flight=lambda name: self.admission.gates[name].leases,
            recycle=self.fleet.recycle,
            gpu=GpuMemory() if any(model.gpu_layers for model in settings.models.values()) else None,
            pss=PssMemory(self._pids),
            clock=self.clock,
        )
        self._add_instances(settings, children)
        self.admission.open(
            self.fleet.views.values(),
            ties=Ties(poke=self.fleet.poke, reject=self._reject, canary=self.prober.canary),
            send=self._send,
        )
        self.fleet.subscribe(self.admission.on_view)
        self.fleet.subscribe(self.memory.on_view)
        self.pipeline = Pipeline(self._wiring(settings), self.admission, self.in_flight)

    def _wiring(self, settings: Settings) -> Wiring:
        return Wiring(
            views=self.fleet.views,
            default=ModelName(settings.default_model),
            trusted_proxies=tuple(settings.proxy.trusted_proxies),
            policy=Unlimited(),
            max_body_bytes=settings.proxy.max_body_bytes,
            max_connections=max_connections(settings),
            clock=self.clock,
            cors=cors_rules(settings),
            continuing=settings.proxy.continue_after_crash,
            keyring=self.keyring,
            ipv6_prefix=settings.proxy.ipv6_prefix,
            require_key=settings.proxy.require_key,
        )

    def _pids(self) -> list[int]:
        """Of the children there are; asked by threads."""
        return [view.pid for view in list(self.fleet.views.values()) if view.pid is not None]

    def _add_instances(self, settings: Settings, children: Children) -> None:
        finder = BinaryFinder(settings.llama_server.binary)
        tools = Tools(
            clock=self.clock,
            launcher=children,
            prober=self.prober,
            traffic=self.admission,
            chance=random.random,
            find_binary=finder,
            check_model=children.checked(self.budget.check),
            stamps=finder.stamps,
            record_death=self.deaths.add,
            oom_kills=OomKills(),
        )
        self.fleet.add(
            Instance(
                spec_of(name, model, settings),
                tools,
                self.fleet.publish,
                port=model.port,
                startup_stall_s=model.startup_stall_s,
                drain_s=settings.proxy.drain_timeout_s,
                silence_s=settings.proxy.request_timeout_s,
                log_file=self.model_logs[ModelName(name)],
                safe=safe_spec_of(name, model, settings),
            )
            for name, model in settings.models.items()
        )

    # The pipeline and the gates need each other; these two close the ring.
    def _reject(self, *args: Any) -> None:
        self.pipeline.reject(*args)

    def _send(self, *args: Any) -> None:
        self.pipeline.send(*args)
