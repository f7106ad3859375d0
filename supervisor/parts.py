"""The composition root: settings in, wired parts out. Only here things are constructed.

`app.Daemon` gives them life. They know each other through the few calls that are handed over here.
"""

import itertools
import os
import platform
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from supervisor.clock import Clock, SystemClock
from supervisor.keys import store
from supervisor.keys.ring import Keyring
from supervisor.proc import deaths
from supervisor.proc.budget import Budget
from supervisor.proc.cgroup import OomKills
from supervisor.proc.children import Children
from supervisor.proc.deaths import Deaths
from supervisor.proc.finder import BinaryFinder
from supervisor.proc.fleet import Fleet
from supervisor.proc.gpu import GpuMemory
from supervisor.proc.instance import Instance, Tools
from supervisor.proc.lineup import SECOND
from supervisor.proc.memory import MemoryWatch
from supervisor.proc.output import LogFile
from supervisor.proc.probe import Prober
from supervisor.proc.pss import PssMemory
from supervisor.proc.residents import Residents
from supervisor.proc.run import log_path
from supervisor.proxy.admission import Admission
from supervisor.proxy.counting import PromptCounter
from supervisor.proxy.inflight import InFlight
from supervisor.proxy.limits import Limits
from supervisor.proxy.pipeline import Pipeline, Wiring
from supervisor.proxy.ties import Ties
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import Limiter
from supervisor.ratelimit.store_redis import SharedLimiter
from supervisor.settings.schema import Settings
from supervisor.telemetry import Sources, Telemetry
from supervisor.translate import (
    aliases_of,
    bounds_of,
    console_rules,
    cors_rules,
    max_connections,
    pools_of,
    safe_spec_of,
    server_names,
    shared_of,
    shares_of,
    spec_of,
    terms_of,
)
from supervisor.types import ModelName
from supervisor.unixsocket import owners


def limits_of(settings: Settings, clock: Clock, counter: PromptCounter) -> Limits:
    """Raises ConfigError: the store cannot be used here."""
    pools, shared = pools_of(settings), shared_of(settings)
    limiter = Limiter(
        pools,
        shared=shared,
        max_age_ns=round(settings.cleanup.max_age_s * SECOND_NS),
        interval_ns=round(settings.cleanup.interval_s * SECOND_NS),
    )
    store = None
    if settings.limits.store != "memory":
        store = SharedLimiter(
            settings.limits.store,
            pools,
            shared=shared,
            local=limiter,
            on_failure=settings.limits.on_store_failure,
            clock=clock,
            name=f"{platform.node()}/{os.getpid()}",
        )
    return Limits(limiter, pools, clock, shared=shared, counter=counter, store=store)


class Parts:
    """Of one daemon; none of them does anything yet."""

    def __init__(self, settings: Settings, children: Children) -> None:
        self.settings = settings  # those it was built from
        self.clock = SystemClock()
        self.model_logs = {ModelName(name): self.log_of(name) for name in settings.models}
        self.aliases = aliases_of(settings)
        self.in_flight = InFlight()
        self.fleet = Fleet(self.clock)
        self.deaths = Deaths(settings.state_dir / deaths.FILE_NAME)
        self.keyring = Keyring(settings.state_dir / store.FILE_NAME, self.clock.wall)
        self.prober = Prober()
        self.budget = Budget(
            limit_mb=settings.memory.limit_mb,
            min_free_mb=settings.memory.min_free_mb,
            views=self.fleet.holders,
        )
        self.admission = Admission(
            bounds_of(settings),
            self.clock,
        )
        self.memory = MemoryWatch(
            limit_bytes=settings.memory.limit_mb << 20,
            views=self.fleet.holders,
            in_flight=lambda name: self.admission.gates[name].leases,
            recycle=self.fleet.recycle,
            gpu=GpuMemory() if any(model.gpu_layers for model in settings.models.values()) else None,
            pss=PssMemory(self._pids),
            clock=self.clock,
        )
        self.residents = Residents(
            self.fleet,
            self.budget,
            self.clock,
            usage=self.admission.usage,
            default=ModelName(settings.default_model),
        )
        self._tools = self._tools_of(settings, children)
        self.fleet.add(
            (
                one
                for name in self.model_logs
                for one in self.instances_of(name, settings, self.model_logs[name])
            ),
            terms_of(settings),
        )
        self.admission.shares = shares_of(pools_of(settings))
        self.admission.open(
            self.fleet.views.values(),
            ties=Ties(
                poke=self.fleet.poke,
                reject=self._reject,
                canary=self.prober.canary,
                wanted=self.residents.wanted,
            ),
            send=self._send,
        )
        self.fleet.subscribe(self.admission.on_view)
        self.fleet.subscribe(self.memory.on_view)
        self.limits = limits_of(settings, self.clock, PromptCounter(self.prober.post))
        self.telemetry = self._telemetry(settings)
        self.fleet.subscribe(self.telemetry.on_view)
        self.pipeline = self.telemetry.pipeline = Pipeline(
            self._wiring(settings), self.admission, self.in_flight
        )
        for forget in (
            self.admission.remove,
            self.memory.forget,
            self.budget.forget,
            self.residents.forget,
            self.telemetry.forget,
            self._forget,
        ):
            self.fleet.when_gone(forget)

    def _telemetry(self, settings: Settings) -> Telemetry:
        return Telemetry(
            Sources(
                views=self.fleet.views,
                holders=self.fleet.holders,
                admission=self.admission,
                limits=self.limits,
                memory=self.memory,
                memory_limit_mb=settings.memory.limit_mb,
                ask=self.prober.metrics,
                clock=self.clock,
            )
        )

    def _wiring(self, settings: Settings) -> Wiring:
        return Wiring(
            views=self.fleet.views,
            default=ModelName(settings.default_model),
            aliases=self.aliases,
            trusted_proxies=tuple(settings.proxy.trusted_proxies),
            limits=self.limits,
            max_body_bytes=settings.proxy.max_body_bytes,
            max_connections=max_connections(settings),
            clock=self.clock,
            cors=cors_rules(settings),
            names=server_names(settings),
            continuing=settings.proxy.continue_after_crash,
            keyring=self.keyring,
            ipv6_prefix=settings.proxy.ipv6_prefix,
            require_key=settings.proxy.require_key,
            console=console_rules(settings),
            gather=self.telemetry.gather,
            metrics_on_loopback=settings.metrics.open_on_loopback,
            trusted_uids=owners().union(settings.proxy.trusted_uids),
        )

    def _pids(self) -> list[int]:
        """Of the children there are; asked by threads."""
        return [view.pid for view in list(self.fleet.holders.values()) if view.pid is not None]

    def _forget(self, name: ModelName) -> None:
        del self.model_logs[name]

    def log_of(self, name: str) -> LogFile:
        """With a thread of its own, from now on."""
        return LogFile(log_path(self.settings.log_dir, name))

    def _tools_of(self, settings: Settings, children: Children) -> Tools:
        finder = BinaryFinder(settings.llama_server.binary)
        return Tools(
            clock=self.clock,
            launcher=children,
            prober=self.prober,
            traffic=self.admission,
            chance=random.random,
            find_binary=finder,
            check_model=children.checked(self.residents.check),
            stamps=finder.stamps,
            record_death=self.deaths.add,
            oom_kills=OomKills(),
        )

    def instances_of(self, name: ModelName, settings: Settings, log_file: LogFile) -> Iterator[Instance]:
        """The instance in service, and one at rest for when a second is needed (`proc.lineup`)."""
        model, numbers = settings.models[name], itertools.count(1)
        spec, safe = spec_of(name, model, settings), safe_spec_of(name, model, settings)
        for seat in ("", SECOND):
            yield Instance(
                replace(spec, seat=seat),
                self._tools,
                self.fleet.publish,
                port=model.port,
                startup_stall_s=model.startup_stall_s,
                drain_s=settings.proxy.drain_timeout_s,
                silence_s=settings.proxy.request_timeout_s,
                log_file=log_file,
                safe=None if safe is None else replace(safe, seat=seat),
                numbers=numbers,
            )

    # The pipeline and the gates need each other; these two close the ring.
    def _reject(self, *args: Any) -> None:
        self.pipeline.reject(*args)

    def _send(self, *args: Any) -> None:
        self.pipeline.send(*args)
