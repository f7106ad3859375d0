"""`llmsup doctor [--json] [--model PATH]`: is everything as it must be? With and without a running daemon."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor.cli import context, output
from supervisor.doctor import host, models, permissions, service
from supervisor.doctor.finding import Finding, Level, fail, ok, warn
from supervisor.errors import LlmsupError
from supervisor.proc.command import ModelSpec

if TYPE_CHECKING:
    from supervisor.settings.load import Loaded
    from supervisor.settings.schema import Settings

_SHOWN = {Level.OK: ("ok  ", "green"), Level.WARN: ("warn", "yellow"), Level.FAIL: ("FAIL", "red")}
LIMIT_MB, MIN_FREE_MB = 2048, 256  # the configuration's defaults, when there is none


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for machines.")
@click.option("--model", "path", metavar="PATH", help="Look at this file in place of the configured models.")
def command(as_json: bool, path: str | None) -> None:
    """Look for what could keep llmsup from working, and say what to do. Exit code 1 when something does.

    \b
    Examples:
      llmsup doctor
      llmsup doctor --model ~/models/new.gguf
      llmsup doctor --json | jq '.findings[] | select(.level == "fail")'
    """
    findings: list[Finding] = []
    for finding in examine(path):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = sum(finding.level is Level.FAIL for finding in findings)
    warned = sum(finding.level is Level.WARN for finding in findings)
    if as_json:
        document = {"ok": not failed, "findings": [finding.as_dict() for finding in findings]}
        output.echo(json.dumps(document, indent=2 if sys.stdout.isatty() else None))
    else:
        output.echo(f"\n{failed} to mend, {warned} to know, {len(findings) - failed - warned} well")
    if failed:
        click.get_current_context().exit(1)


def _show(finding: Finding) -> None:
    word, colour = _SHOWN[finding.level]
    output.echo(f"{output.style(word, fg=colour)}  {finding.title:<14} {finding.detail}")
    if finding.remedy:
        output.echo(f"{'':<21}-> {finding.remedy}")


def examine(path: str | None) -> Iterator[Finding]:
    """All checks, the quick and basic ones first; ``path``: a model file in place of the configured ones."""
    yield host.python()
    context.say_no_warning()
    loaded, findings = _configuration()
    yield from findings
    yield host.memory()
    yield host.descriptors()
    if loaded is not None:
        settings = loaded.settings
        yield host.disk("disk: state", settings.state_dir)
        yield host.disk("disk: logs", settings.log_dir)
        yield host.processors(sum(model.threads or 0 for model in settings.models.values()))
        yield from host.gpu(max(model.gpu_layers for model in settings.models.values()))
        yield from _exposure(settings)
    yield from _models(loaded, path)


def _configuration() -> tuple["Loaded | None", list[Finding]]:
    from supervisor.settings.load import load
    from supervisor.settings.notices import UNSAFE, notices

    try:
        loaded = load(context.config_path(), os.environ)
    except LlmsupError as exc:
        return None, [fail("configuration", exc.message, exc.hint)]
    said = [
        warn("configuration", str(notice))
        for notice in notices(loaded)
        if notice.key != UNSAFE and not notice.key.endswith(".path")
    ]
    count = len(loaded.settings.models)
    read = ok("configuration", f"{loaded.path}: {count} model{'s' * (count != 1)}")
    return loaded, [read, *said, *permissions.configuration(loaded.path)]


def _exposure(settings: "Settings") -> Iterator[Finding]:
    from supervisor.doctor.exposed import facts
    from supervisor.doctor.exposure import exposure

    return exposure(settings, facts(settings))


def _models(loaded: "Loaded | None", path: str | None) -> Iterator[Finding]:
    settings = loaded.settings if loaded is not None else None
    program = settings.llama_server.binary if settings is not None else "auto"
    yield from permissions.programs(program)
    finding, server = models.llama_server(program)
    yield finding
    state = None
    if settings is not None:
        yield from permissions.state(settings.state_dir)
        run = context.run_dir()
        findings, state = service.daemon(run)
        yield from findings
        yield service.port(settings.listen_host, settings.listen_port, state)
        yield service.left_over(run, state)
    looks = models.Models(
        server,
        limit_mb=settings.memory.limit_mb if settings is not None else LIMIT_MB,
        min_free_mb=settings.memory.min_free_mb if settings is not None else MIN_FREE_MB,
        running=frozenset(one["name"] for one in state["models"] if one["pid"])
        if state is not None
        else frozenset(),
    )
    for spec in _specs(loaded, path):
        yield from looks.check(spec)


def _specs(loaded: "Loaded | None", path: str | None) -> list[ModelSpec]:
    """As the daemon would start them."""
    if loaded is None:
        return [_plain(path)] if path is not None else []
    from supervisor.translate import spec_of

    settings = loaded.settings
    specs = {name: spec_of(name, model, settings) for name, model in settings.models.items()}
    if path is None:
        return list(specs.values())
    return [replace(specs[settings.default_model], name="(given)", path=os.path.abspath(path))]


def _plain(path: str) -> ModelSpec:
    return ModelSpec(
        name="(given)",
        path=str(Path(path).absolute()),
        context_size=4096,
        threads=None,
        batch_size=256,
        parallel=4,
        gpu_layers=0,
        args=(),
        env={},
        max_tokens=None,
        cache_ram_mb=LIMIT_MB // 4,
    )
