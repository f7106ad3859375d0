"""What is valid but worth a warning: said by `config check` and logged by the daemon at start."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.settings.load import Loaded
from supervisor.settings.schema import NOT_YET_ENFORCED, Limits

WITHOUT_EFFECT = "accepted, not enforced yet: this version does nothing with it"


@dataclass(frozen=True, slots=True)
class Notice:
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


def notices(loaded: Loaded) -> Iterator[Notice]:
    """Missing model files first, then what has no effect. Looks at the disk."""
    for name, model in loaded.settings.models.items():
        if not os.path.lexists(model.path):
            yield Notice(f"models.{name}.path", f"no such file: {model.path}")
        elif not os.path.isfile(model.path):
            yield Notice(f"models.{name}.path", f"not a file: {model.path}")
        if model.max_history is not None:
            yield Notice(
                f"models.{name}.max_history", "accepted for compatibility; llama-server has no such setting"
            )
    for key in ("cert_file", "key_file"):
        path = getattr(loaded.settings.tls, key)
        if path is not None and not os.path.isfile(path):
            yield Notice(f"tls.{key}", f"no such file: {path}")
    for section in NOT_YET_ENFORCED:
        if _is_set(section, loaded):
            yield Notice(section, WITHOUT_EFFECT)


def _is_set(section: str, loaded: Loaded) -> bool:
    """Written by the operator. The limits' defaults written out are no wish of anyone's."""
    if section == "limits":
        return loaded.settings.limits != Limits()
    return any(source != "default" for key, source in loaded.sources.items() if key.startswith(f"{section}."))
