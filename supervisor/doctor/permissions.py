"""Could somebody else have written what llmsup runs, what tells it what to run, or who may ask?"""

from collections.abc import Iterator
from pathlib import Path

from supervisor import secure_path
from supervisor.doctor.finding import Finding, fail, ok, warn
from supervisor.errors import BuildError, LlmsupError
from supervisor.keys import store
from supervisor.proc import binary
from supervisor.proc.building import folders

TITLE = "permissions"


def configuration(path: Path) -> Iterator[Finding]:
    """Of one that was named: one that was merely found, and is weak, is not used at all."""
    weak = secure_path.weakness(path)
    if weak is None:
        yield ok(TITLE, "only root and this user can write the configuration")
        return
    told = f"others could write the configuration, and with it what runs as this user: {weak}"
    yield warn(TITLE, f"{told}; what they change is not taken up while llmsup runs", weak.remedy)


def programs(setting: str) -> Iterator[Finding]:
    """``setting``: of `llama_server.binary`. A weak program that was found is refused where it is looked for."""
    cache = secure_path.weakness(folders.builds_dir(folders.cache_dir()))
    if cache is not None:
        told = f"others could write the builds of llama-server, so that none is used or made there: {cache}"
        yield warn(TITLE, told, cache.remedy)
    if setting == "auto":
        return
    try:
        weak = binary.weakness(binary.locate(setting))
    except BuildError:  # said already
        return
    if weak is not None:
        yield warn(TITLE, f"others could write llama-server, which runs as this user: {weak}", weak.remedy)


def state(state_dir: Path) -> Iterator[Finding]:
    """The folder of keys, logs and the control socket."""
    weak = secure_path.weakness(state_dir)
    if weak is not None:
        yield warn(TITLE, f"others could replace what is in the state folder: {weak}", weak.remedy)
    try:
        store.read(state_dir / store.FILE_NAME, managing=True)
    except LlmsupError as exc:
        yield fail("keys", exc.message, exc.hint)
