"""The configuration file and the environment as one frozen `Settings`, or every mistake in them at once."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from supervisor.settings import env, locate, paths, secrets, yamlio
from supervisor.settings.explain import explain
from supervisor.settings.problems import Problem, SettingsError, dotted
from supervisor.settings.schema import Settings
from supervisor.settings.values import Context, claims
from supervisor.settings.yamlio import Document, KeyPath


@dataclass(frozen=True, slots=True)
class Loaded:
    """`sources`: each dotted key's origin: `FILE:LINE`, `env NAME` or `default`.

    ``written``: what stands in the place of values that came from `${VAR}` or `file:`, by dotted key; ``notices``:
    what was noticed while reading them.
    """

    settings: Settings
    path: Path  # absolute
    sources: Mapping[str, str]
    written: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[Problem, ...] = ()


def load(path: Path, environ: Mapping[str, str]) -> Loaded:
    """Read, override, validate, resolve. Raises SettingsError (a ConfigError) with everything that is wrong."""
    document = yamlio.parse(locate.read_bytes(path), str(path))
    env.apply(document, environ)
    where = paths.where(path, environ)
    secrets.resolve(document, environ, where)
    problems: list[Problem] = list(document.problems)
    try:
        context = Context(
            where=where,
            model_names=_model_names(document),
            claims=claims(_aliases(document)),
        )
        settings = Settings.model_validate(document.data, context=context)
    except ValidationError as error:
        problems += explain(error, document)
    if problems:
        raise SettingsError(str(path), problems)
    for name, model in settings.models.items():
        model.keep_secret(
            variable for variable in model.env if ("models", name, "env", variable) in document.written
        )
    return Loaded(
        settings,
        Path(os.path.abspath(path)),
        MappingProxyType(_sources(settings, document)),
        MappingProxyType({dotted(key): text for key, text in document.written.items()}),
        tuple(document.notices),
    )


def _model_names(document: Document) -> tuple[str, ...]:
    models = document.data.get("models") if isinstance(document.data, dict) else None
    return tuple(models) if isinstance(models, dict) else ()


def _aliases(document: Document) -> dict[str, list[object]]:
    """Of each model, as written."""
    found: dict[str, list[object]] = {}
    for name in _model_names(document):
        model = document.data["models"][name]
        aliases = model.get("aliases") if isinstance(model, dict) else None
        found[name] = aliases if isinstance(aliases, list) else []
    return found


def _sources(settings: Settings, document: Document) -> dict[str, str]:
    return {dotted(path): _source(path, document) for path in leaves(settings.model_dump())}


def leaves(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The key paths of all values; a list is one value, an empty section too."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path


def _source(path: KeyPath, document: Document) -> str:
    written: Any = document.data
    for part in path:
        if not isinstance(written, dict) or part not in written:
            return "default"
        written = written[part]
    # A collection in a variable has one place for all that is in it.
    for length in range(len(path), 0, -1):
        if (place := document.values.get(path[:length])) is not None:
            return place.source
    return "default"
