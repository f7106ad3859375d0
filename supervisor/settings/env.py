"""Overrides from the environment, laid over the document that was read; without knowing the schema.

    LLMSUP__SECTION__KEY=value      any key; `__` goes one level deeper, upper and lower case are the same
    LLM_MODEL_PATH, LLM_CONTEXT_SIZE, LLM_MAX_TOKENS, LLM_MAX_HISTORY      the default model's
    LOG_LEVEL                       log.level

Values read as in the file: `4`, `true`, `null`, `[a, b]`, `"quoted"`. Where both kinds set a key, LLMSUP__ wins.
Names with one underscore (LLMSUP_CONFIG) are other things and left alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from supervisor.settings import yamlio
from supervisor.settings.problems import Place, Problem, SettingsError, dotted
from supervisor.settings.yamlio import Document, KeyPath

PREFIX = "LLMSUP__"
LOG_LEVEL = "LOG_LEVEL"
MODEL_VARIABLES = {
    "LLM_MODEL_PATH": "path",
    "LLM_CONTEXT_SIZE": "context_size",
    "LLM_MAX_TOKENS": "max_tokens",
    "LLM_MAX_HISTORY": "max_history",
}
_PUNCTUATION = re.compile(r"[-._:/]")


def apply(document: Document, environ: Mapping[str, str]) -> None:
    """Change `document` in place; what cannot be applied is added to its problems."""
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        return  # reported as not being a configuration at all
    names = [name for name in environ if name.upper().startswith(PREFIX)]
    # Outer keys first, so that MODELS={...} does not undo MODELS__DEMO__THREADS=2.
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        try:
            _override(document, name, environ[name])
        except SettingsError as error:
            document.problems += error.problems
    _override_default_model(document, environ)
    _override_log_level(document, environ)


def _override(document: Document, name: str, text: str) -> None:
    """One LLMSUP__ variable."""
    place = Place(f"env {name}")
    segments = name[len(PREFIX) :].split("__")
    if not all(segments):
        raise _refusal(place, "an empty name between the underscores; expected LLMSUP__SECTION__KEY")
    path: KeyPath = ()
    section = document.data
    for index, segment in enumerate(segments):
        if _in_model_env(path):  # a variable of the child: its name and value are taken as they are
            _put(document, section, (*path, "__".join(segments[index:])), text, place)
            return
        path = (*path, _matching(section, segment, place))
        if index < len(segments) - 1:
            section = _subsection(document, section, path, place)
    _put(document, section, path, _value(text, place), place)


def _in_model_env(path: KeyPath) -> bool:
    return len(path) == 3 and path[0] == "models" and path[2] == "env"


def _matching(section: Mapping[str, Any], segment: str, place: Place) -> str:
    """The key of `section` meant by `segment`, in which `_` stands for any punctuation; else a new one."""
    matches = [key for key in section if _fold(key) == _fold(segment)]
    exact = [key for key in matches if key.lower() == segment.lower()]
    if len(exact or matches) > 1:
        raise _refusal(place, f"could be any of {', '.join(matches)}; set it in the file")
    return (exact or matches or [segment.lower()])[0]


def _fold(text: str) -> str:
    return _PUNCTUATION.sub("_", text).lower()


def _subsection(document: Document, section: dict[str, Any], path: KeyPath, place: Place) -> dict[str, Any]:
    """The mapping at `path`, made when there is none."""
    key = str(path[-1])
    found = section.get(key)
    if found is None:
        found = {}
        _put(document, section, path, found, place)
    if not isinstance(found, dict):
        raise _refusal(place, f"{dotted(path)} is not a section and has no keys below it")
    return found


def _value(text: str, place: Place) -> Any:
    """A flow collection or quoted text, else a plain scalar.

    What does not parse is its own text: `[::1]:8005` is an address, not half a list.
    """
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        return yamlio.scalar(text.strip())
    try:
        document = yamlio.parse(text.encode("utf-8", "surrogateescape"), place.file)
    except SettingsError:
        return text
    if document.problems:
        raise SettingsError(place.file, [Problem(place, p.key, p.message) for p in document.problems])
    return document.data


def _put(document: Document, section: dict[str, Any], path: KeyPath, value: Any, place: Place) -> None:
    """Set one key and remember who did; places inside what was there before are forgotten."""
    for places in (document.keys, document.values):
        for old in [old for old in places if old[: len(path)] == path]:
            del places[old]
        places[path] = place
    section[str(path[-1])] = value


def _override_default_model(document: Document, environ: Mapping[str, str]) -> None:
    """The LLM_ variables. With no default model to be found nothing is done: that is an error of its own."""
    models = document.data.get("models")
    if not isinstance(models, dict) or not models:
        return
    name = document.data.get("default_model")
    if name is None and len(models) == 1:
        name = next(iter(models))
    if not isinstance(name, str) or name not in models:
        return
    if models[name] is None:
        models[name] = {}
    if not isinstance(models[name], dict):
        return
    for variable, key in MODEL_VARIABLES.items():
        text = environ.get(variable, "")  # set but empty is how compose files say unset
        path = ("models", name, key)
        if text and not _set_by_name(document, path):
            value = text if key == "path" else yamlio.scalar(text.strip())
            _put(document, models[name], path, value, Place(f"env {variable}"))


def _override_log_level(document: Document, environ: Mapping[str, str]) -> None:
    """The name that most programs read. In any case of letters, for some write DEBUG."""
    level, path = environ.get(LOG_LEVEL, "").strip().lower(), ("log", "level")
    if document.data.get("log") is not None and not isinstance(document.data["log"], dict):
        return  # reported for what it is, in the file
    if level and not _set_by_name(document, path):
        place = Place(f"env {LOG_LEVEL}")
        section = _subsection(document, document.data, path[:1], place)
        _put(document, section, path, level, place)


def _set_by_name(document: Document, path: KeyPath) -> bool:
    place = document.values.get(path)
    return place is not None and place.line is None


def _refusal(place: Place, message: str) -> SettingsError:
    return SettingsError(place.file, [Problem(place, "", message)])
