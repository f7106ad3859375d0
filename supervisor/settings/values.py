"""The validators of single values that the schema is made of; each raises ValueError with what was expected."""

import errno
import ipaddress
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from supervisor.settings.paths import Where, default_state_dir, resolve, split_listen
from supervisor.unixsocket import SUN_PATH_MAX, too_long

BUILT_IN_POOLS = ("anonymous", "session", "user")

_NAMES_SHOWN = 10  # in a message about a model there is not
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]{0,31}://(\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?")
_SERVER_NAME = re.compile(r"(?:\*\.)?(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,63}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Context:
    """What validation needs from outside the values (pydantic's `context`)."""

    where: Where
    model_names: tuple[str, ...]  # as written: known even where a model's own keys are wrong
    claims: Mapping[str, int] = field(default_factory=dict)  # how often each name and alias is written


def _where(info: ValidationInfo) -> Where:
    if isinstance(info.context, Context):
        return info.context.where
    return Where(
        base=Path.cwd(), cwd=Path.cwd(), environ=os.environ
    )  # built in Python, not loaded from a file


def to_path(value: Any, info: ValidationInfo) -> Any:
    return resolve(str(value), _where(info)) if isinstance(value, str | Path) else value


def to_socket_path(value: Any, info: ValidationInfo) -> Any:
    path = to_path(value, info)
    if isinstance(path, Path) and too_long(path):
        raise ValueError(f"too long for a UNIX socket: {SUN_PATH_MAX} bytes at most")
    return path


def to_model_path(value: Any, info: ValidationInfo) -> Any:
    return resolve(str(value), _where(info), or_in_cwd=True) if isinstance(value, str | Path) else value


def to_state_dir(value: Any, info: ValidationInfo) -> Any:
    return default_state_dir(_where(info).environ) if value is None else to_path(value, info)


def to_binary(value: Any, info: ValidationInfo) -> Any:
    """A bare name stays one: it is looked up in $PATH when it is needed."""
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value):
        return str(to_path(value, info))
    if value == "":
        raise ValueError("expected auto, a path or a command's name")
    return check_text(value) if isinstance(value, str) else value


def to_threads(value: Any) -> Any:
    return physical_cores() if value is None else value


def physical_cores() -> int:
    """Cores this process may use, hyper-threads counted once: more threads only slow llama.cpp down."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


def check_listen(value: Any) -> Any:
    if isinstance(value, str):
        split_listen(value)
    return value


def check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def check_store(value: Any) -> Any:
    """Where counters live: this process, or Redis."""
    if not isinstance(value, str) or value == "memory":
        return value
    expected = "expected memory or redis://HOST:PORT/DB"
    try:
        url = urlsplit(value)
        known = url.scheme in {"redis", "rediss"} and bool(url.hostname) and (url.port or 0) >= 0
    except ValueError:  # brackets that do not match, a port out of range
        known = False
    if not known or not re.fullmatch(r"(/[0-9]*)?", url.path):
        raise ValueError(expected)
    return value


def _check_pattern(value: str, pattern: re.Pattern[str], expected: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(expected)
    return value


def check_name(value: str) -> str:
    return _check_pattern(
        value, _NAME, "expected a model's name: a letter or digit, then up to 127 of A-Z a-z 0-9 . _ : / -"
    )


def claims(models: Mapping[str, Iterable[object]]) -> Mapping[str, int]:
    """How often each name is taken: each model's own counts, and each of its aliases."""
    return Counter(
        [*models, *(alias for aliases in models.values() for alias in aliases if isinstance(alias, str))]
    )


def check_claims(found: Mapping[str, int]) -> None:
    """A name must lead to one model."""
    twice = [name for name, count in found.items() if count > 1]
    if twice:
        raise ValueError(f"the name {twice[0]!r} is given twice: each name and alias leads to one model")


def check_alias(value: str, info: ValidationInfo) -> str:
    check_name(value)
    if isinstance(info.context, Context) and info.context.claims.get(value, 0) > 1:
        raise ValueError(
            "another model has this name or alias, or this one has it twice: each leads to one model"
        )
    return value


def check_pool_name(value: str) -> str:
    return _check_pattern(
        value, _POOL_NAME, "expected a pool's name: a letter or digit, then up to 63 of A-Z a-z 0-9 . _ -"
    )


def check_env_name(value: str) -> str:
    return _check_pattern(value, _ENV_NAME, "expected an environment variable's name: A-Z a-z 0-9 _")


def check_network(value: str) -> str:
    """An address or a network; refused with the likely intent when host bits are set."""
    try:
        ipaddress.ip_network(value)
    except ValueError:
        try:
            meant = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError("expected an IP address or network, for example 10.0.0.0/8") from None
        raise ValueError(f"expected a network without host bits: {meant}") from None
    return value


def check_origin(value: str) -> str:
    """As browsers send it: lower case, no default port, nothing behind the host (RFC 6454, 6.2)."""
    expected = 'expected an origin such as https://app.example or http://localhost:3000, or "*"'
    if value == "*":
        return value
    if not _ORIGIN.fullmatch(value):
        bare = value.lower().rstrip("/")
        raise ValueError(f"{expected} (did you mean {bare}?)" if _ORIGIN.fullmatch(bare) else expected)
    scheme, _, host = value.partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    if default is not None and host.endswith(default):
        raise ValueError(f"browsers leave the default port out: {value.removesuffix(default)}")
    return value


def check_server_name(value: str) -> str:
    """As it stands in Host, without a port: a port may be forwarded."""
    if value == "*" or _SERVER_NAME.fullmatch(value):
        return value.lower()
    raise ValueError('expected a name such as llm.example.com or *.example.com, or "*" for any')


def check_header_name(value: str) -> str:
    return _check_pattern(value, _HEADER_NAME, 'expected the name of a header field, or "*" for any')


def check_retryable(value: Any) -> str | int:
    """An error's name as in errno.h, or a 5xx status (or 408, 429) of the child."""
    if isinstance(value, str) and value in errno.errorcode.values():
        return value
    if type(value) is int and (500 <= value <= 599 or value in {408, 429}):
        return value
    raise PydanticCustomError(
        "value_error", "expected an error's name such as ECONNREFUSED, or a status such as 503"
    )


def default_retryable() -> list[str | int]:
    return ["ECONNREFUSED", "ETIMEDOUT", 503]


def model_names(info: ValidationInfo) -> tuple[str, ...]:
    if isinstance(info.context, Context):
        return info.context.model_names
    return tuple(info.data.get("models", ()))


def only_model(names: Collection[str]) -> str:
    if len(names) > 1:
        raise ValueError(f"required with more than one model; expected one of {_some(names)}")
    return next(iter(names), "")  # no model at all is reported as such, at `models`


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown}, ... ({len(names)} in all)"


def check_known_model(value: str, names: Collection[str]) -> None:
    if value in names or not names:
        return
    near = get_close_matches(value, names, n=1)
    raise ValueError(
        f"no such model (did you mean '{near[0]}'?)" if near else f"no such model; there is {_some(names)}"
    )


Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, AfterValidator(check_name)]
Alias = Annotated[str, AfterValidator(check_alias)]
PoolName = Annotated[str, AfterValidator(check_pool_name)]
EnvName = Annotated[str, AfterValidator(check_env_name)]
Network = Annotated[str, AfterValidator(check_network)]
ServerName = Annotated[str, AfterValidator(check_server_name)]
Origin = Annotated[str, AfterValidator(check_origin)]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
Retryable = Annotated[str | int, PlainValidator(check_retryable, json_schema_input_type=str | int)]
