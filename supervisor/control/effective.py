"""The configuration in force as JSON: every value with its origin, secrets masked (`settings.show`, as on the terminal)."""

from collections.abc import Collection
from typing import Any

from supervisor.observe import redact
from supervisor.settings.load import Loaded
from supervisor.settings.show import shown


def effective(loaded: Loaded, pending: Collection[str] = ()) -> dict[str, Any]:
    """``pending``: keys whose values wait for the next start."""
    settings = [
        {"key": key, "value": _plain(one.value), "source": one.source, "pending": key in pending}
        for key, one in shown(loaded).items()
    ]
    return {"path": str(loaded.path), "settings": settings}


def _plain(value: Any) -> Any:
    """Without what looks like a secret, wherever it stands: a browser shows this."""
    if isinstance(value, str):
        return redact.text(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
