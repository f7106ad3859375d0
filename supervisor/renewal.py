"""A model's own keys, taken up while it serves: where its llama-server is told something else, a new one takes over.

The new one is warmed beside the old one where there is memory for two (`proc.lineup`); if it cannot start, the old one goes on, and
the status says why. What is not loaded stays so. Models that come and go are `roster`'s.
"""

from dataclasses import replace

from supervisor.parts import Parts
from supervisor.proc.command import ModelSpec
from supervisor.proc.instance import Instance
from supervisor.proc.lineup import Lineup, Terms
from supervisor.settings.schema import Settings
from supervisor.translate import safe_spec_of, spec_of
from supervisor.types import ModelName


def renew(parts: Parts, name: ModelName, settings: Settings) -> None:
    """From now on it is what those say."""
    lineup = parts.fleet.lineups[name]
    if configure(lineup, settings):
        parts.residents.renewed(name)


def configure(lineup: Lineup, settings: Settings) -> bool:
    """Whether its llama-server is told something else from its next start on."""
    model = settings.models[lineup.name]
    lineup.terms = Terms(model.preload, model.ttl_s, model.standby)
    before = lineup.front.spec, lineup.front.port
    spec, safe = spec_of(lineup.name, model, settings), safe_spec_of(lineup.name, model, settings)
    for instance in lineup.instances:
        instance.renew(
            _seated(spec, instance),
            None if safe is None else _seated(safe, instance),
            port=model.port,
            startup_stall_s=model.startup_stall_s,
        )
    return (lineup.front.spec, lineup.front.port) != before


def _seated(spec: ModelSpec, instance: Instance) -> ModelSpec:
    """For that instance. Its share of the prompt caches depends on what waits for the next start: it is kept."""
    return replace(spec, seat=instance.seat, cache_ram_mb=instance.spec.cache_ram_mb)
