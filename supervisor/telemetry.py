"""`/metrics`: a snapshot of all parts, taken when somebody asks.

The children are asked for their own metrics then, all at once, each at most once a scrape and for half a second at most:
one that is stuck costs its own figures and nobody's else. Everything else is at hand. Nothing here is on the way of a request.
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog
from prometheus_client.metrics_core import Metric

from supervisor import __version__
from supervisor.clock import Clock
from supervisor.events import Endpoint, InstanceView
from supervisor.observe import metrics_child
from supervisor.observe.logfile import LogView
from supervisor.observe.metrics_instances import Recoveries
from supervisor.observe.metrics_page import Page, Renderer
from supervisor.proc.memory import MemoryWatch
from supervisor.proc.state import State
from supervisor.proxy.admission import Admission
from supervisor.proxy.limits import Limits
from supervisor.proxy.pipeline import Pipeline
from supervisor.types import MIB, ModelName

log: structlog.stdlib.BoundLogger = structlog.get_logger("metrics")

CHILD_S = 0.5
# Of restarts there are series from the start: the first of a series that begins with 1 would be no increase.
CAUSES = (
    "killed",
    "signalled",
    "out_of_memory",
    "segfault",
    "aborted",
    "hung",
    "unreachable",
    "recycled",
    "exited",
)
_BYTES = "_bytes"

Ask = Callable[[Endpoint, float], Awaitable[str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures come from. ``ask``: a child for its own, for so many seconds; ``logs``: how log files fare."""

    views: Mapping[ModelName, InstanceView]
    holders: Mapping[str, InstanceView]
    admission: Admission
    limits: Limits
    memory: MemoryWatch
    memory_limit_mb: int
    ask: Ask
    clock: Clock


class Telemetry:
    """``pipeline`` and ``logs`` are set once they exist."""

    def __init__(self, sources: Sources) -> None:
        self.pipeline: Pipeline | None = None
        self.logs: Callable[[], Iterable[LogView]] = tuple
        self._from = sources
        self._recoveries = Recoveries()
        self._failures: dict[ModelName, int] = dict.fromkeys(sources.views, 0)
        self._asking: asyncio.Task[list[Metric]] | None = None

    def on_view(self, view: InstanceView) -> None:
        """For the fleet: something about a model has changed."""
        self._recoveries.on_view(view, self._from.clock.now())

    def forget(self, name: ModelName) -> None:
        """It has been removed: its series end."""
        self._failures.pop(name, None)
        self._recoveries.forget(name)
        if self.pipeline is not None:
            self.pipeline.meters.forget(name)

    async def gather(self, accept: str) -> tuple[bytes, str]:
        """The text, and its Content-Type, for who accepts that (`Accept`)."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._children(), name="scrape.children")
        page, renderer = self._page(await asyncio.shield(self._asking)), Renderer(accept)
        text = []
        for piece in renderer.pieces(page):
            text.append(piece)
            await asyncio.sleep(0)  # others first
        return b"".join(text), renderer.kind

    # ---- the children

    async def _children(self) -> list[Metric]:
        ready = [view for view in self._from.views.values() if view.ready and view.endpoint is not None]
        return [one for some in await asyncio.gather(*map(self._child, ready)) for one in some]

    async def _child(self, view: InstanceView) -> list[Metric]:
        assert view.endpoint is not None  # noqa: S101  its caller has looked
        try:
            async with asyncio.timeout(CHILD_S):
                text = await self._from.ask(view.endpoint, CHILD_S)
            if text is not None:
                return metrics_child.families(text, view.name)
        except (TimeoutError, ValueError) as why:
            log.debug("no metrics of a child", model=view.name, why=repr(why))
        if view.name in self._from.views:  # it may have been removed meanwhile
            self._failures[view.name] = self._failures.get(view.name, 0) + 1
        return []

    # ---- ours

    def _page(self, children: list[Metric]) -> Page:
        page = Page()
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        page.add("llmsup_build_info", 1, __version__, platform.python_version(), loop)
        if self.pipeline is not None:
            self.pipeline.meters.fill(page)
            page.add("llmsup_connections", len(self.pipeline.connections))
            page.add("llmsup_connections_limit", self.pipeline.max_connections)
        page.add("llmsup_queue_depth", self._from.admission.waiting)
        for (pool, policy, decision), count in sorted(self._from.limits.counts.items()):
            page.add("llmsup_rate_limit_decisions_total", count, pool, policy, decision)
        self._fill_models(page)
        self._fill_memory(page)
        for view in self.logs():
            page.add("llmsup_log_dropped_lines_total", view.dropped_lines, view.path.rpartition("/")[2])
        page.add_foreign(children)
        return page

    def _fill_models(self, page: Page) -> None:
        for name, view in self._from.views.items():
            gate = self._from.admission.gates.get(name)  # a model that has just been added may have none yet
            page.add("llm_active_requests", len(gate.active) if gate is not None else 0, name)
            page.add("llmsup_slots", view.slots, name)
            for state in State:
                page.add("llmsup_instance_state", view.state == state, name, state)
        for name, count in self._failures.items():
            page.add("llmsup_child_scrape_failures_total", count, name)
        none = {(name, cause): 0 for name in self._from.views for cause in CAUSES}
        for (model, cause), count in (none | self._recoveries.restarts).items():
            page.add("llmsup_instance_restarts_total", count, model, cause)
        page.add_tally("llmsup_recovery_seconds", self._recoveries.took)

    def _fill_memory(self, page: Page) -> None:
        page.add("llmsup_memory_limit_bytes", self._from.memory_limit_mb * MIB)
        found: dict[tuple[ModelName, str], int] = {}
        for holder, view in self._from.holders.items():
            for kind, size in (self._from.memory.figures(holder) or {}).items():
                if kind.endswith(_BYTES) and size is not None:
                    key = (view.name, kind.removesuffix(_BYTES))
                    found[key] = found.get(key, 0) + size
        for (model, kind), size in found.items():
            page.add("llmsup_instance_memory_bytes", size, model, kind)
