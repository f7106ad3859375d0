"""What a shell may complete: names from the configuration's text or the daemon, quickly, or none.

A completion must never be slow or loud: no pydantic, a short deadline, and whatever goes wrong means no proposals.
"""

from collections.abc import Callable, Iterable
from typing import Any

import click

from supervisor.cli import context
from supervisor.errors import LlmsupError

DEADLINE_S = 0.3
Propose = Callable[[click.Context, click.Parameter, str], list[str]]


def _proposals(find: Callable[[], Iterable[str]]) -> Propose:
    def propose(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        try:
            with ctx.scope(cleanup=False):
                context.say_no_warning()
                names = list(find())
        except (LlmsupError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return []
        # The shell prints them as they are, and a request's id is its client's word.
        return [name for name in names if name.startswith(incomplete) and name.isprintable()]

    return propose


def _models() -> list[str]:
    """As they stand in the file; of one that is broken, those the daemon has."""
    from supervisor.errors import ConfigError
    from supervisor.settings import locate, yamlio

    path = context.config_path()
    try:
        data: Any = yamlio.parse(locate.read_bytes(path), str(path)).data
        return list(data["models"])
    except (ConfigError, KeyError, TypeError):
        return [one["name"] for one in context.client(DEADLINE_S).get("/status")["models"]]


def _requests() -> list[str]:
    return [row["id"] for row in context.client(DEADLINE_S).get("/requests")["requests"]]


def _keys() -> list[str]:
    from supervisor.keys import store

    file = context.run_dir().path.parent / store.FILE_NAME
    return [key.name for key in store.read(file, managing=True).keys]


models = _proposals(_models)
requests = _proposals(_requests)
keys = _proposals(_keys)
