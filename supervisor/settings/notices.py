"""What is valid but worth a warning: said by `config check` and logged by the daemon at start."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor import secure_path
from supervisor.settings.load import Loaded

UNSAFE = "unsafe"  # in the place of a key: what the notice says of the file itself


@dataclass(frozen=True, slots=True)
class Notice:
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


def notices(loaded: Loaded) -> Iterator[Notice]:
    """What is dangerous first, then missing model files, then what has no effect. Looks at the disk."""
    if (weak := secure_path.weakness(loaded.path)) is not None:
        yield Notice(UNSAFE, f"others could write what runs here as this user: {weak}; {weak.remedy}")
    for said in loaded.notices:
        yield Notice(said.key, said.message)
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
