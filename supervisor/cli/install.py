"""`llmsup install`: makes a service of this installation and this configuration, and says what each line is for."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor import secure_path
from supervisor.cli import context, output, unitfile
from supervisor.errors import Conflict, LlmsupError, PermissionDenied

if TYPE_CHECKING:
    from supervisor.settings.load import Loaded

SYSTEM_UNITS = Path("/etc/systemd/system")
RUNS = Path("/run/systemd/system")  # sd_booted(3): it is there where systemd is in charge
ACCOUNT = "llmsup"
OWN_FOLDERS = (Path("/var/lib/llmsup"), Path("/var/cache/llmsup"), Path("/run/llmsup"))
SYSTEMCTL_S = 120.0
_KEPT = ("LLMSUP_CACHE_DIR", "LLMSUP_TRUSTED_UIDS", "XDG_CACHE_HOME", "XDG_STATE_HOME")
WHERE_NOT = "write the unit elsewhere with --print, or run: llmsup start"


@dataclass(frozen=True, slots=True)
class Target:
    """Where units go, and how this manager is spoken to."""

    folder: Path
    systemctl: tuple[str, ...]

    @property
    def spoken(self) -> str:
        return " ".join(self.systemctl)


@click.command("install")
@click.option("--systemd", is_flag=True, help="As a service of systemd (the only kind there is).")
@click.option("--user", is_flag=True, help="A service of yours, not of the machine's; needs no root.")
@click.option("--run-as", metavar="ACCOUNT", default=ACCOUNT, show_default=True, help="Whose service it is.")
@click.option(
    "--socket", is_flag=True, help="Also llmsup.socket: systemd holds the port while llmsup restarts."
)
@click.option("--enable", is_flag=True, help="Also enable and start it.")
@click.option("--force", is_flag=True, help="Replace or remove a unit that was changed; it is kept as .bak.")
@click.option("--print", "only_print", is_flag=True, help="Write the unit to stdout and nothing else.")
@click.option("--uninstall", is_flag=True, help="Stop and disable the service, and remove its units.")
def command(
    systemd: bool,
    user: bool,
    run_as: str,
    socket: bool,
    enable: bool,
    force: bool,
    only_print: bool,
    uninstall: bool,
) -> None:
    """Write the unit by which systemd keeps llmsup running, and explain it.

    It goes on with the paths of this installation and this configuration. Exit code 4 when the folder of units is
    root's, 7 when a unit that is there was changed by hand.

    \b
    Examples:
      llmsup --config /etc/llmsup/llmsup.yaml install --systemd --enable
      llmsup --config ~/llmsup.yaml install --systemd --user --enable
      llmsup install --systemd --print
    """
    if not systemd:
        raise click.UsageError("Say as what: llmsup install --systemd")
    if user and run_as != ACCOUNT:
        raise click.UsageError("--run-as is for a service of the machine's; with --user it is yours")
    target = _target(user=user)
    if uninstall:
        _check(target)
        _uninstall(target, force=force)
        return
    loaded = _loaded()
    at = _installation(loaded, None if user else run_as)
    units = {unitfile.SERVICE: unitfile.service(at)}
    if socket:
        units[unitfile.SOCKET] = unitfile.socket(at)
    if only_print:
        output.echo("\n".join(unitfile.text(unit) for unit in units.values()), nl=False)
        return
    _check(target)
    for name, unit in units.items():
        _write(target.folder / name, unitfile.stamped(unitfile.text(unit), name), force=force)
        _explain(unit)
    for note in _notes(at):
        output.echo(f"note: {note}", err=True)
    begins = list(units) if socket else [unitfile.SERVICE]
    if enable:
        _call(target, "daemon-reload")
        _call(target, "enable", "--now", *reversed(begins))
        output.echo(f"enabled and started; look with: {target.spoken} status llmsup")
        return
    output.echo("\nnext:")
    for step in _steps(target, at, begins):
        output.echo(f"  {step}")


def _loaded() -> "Loaded":
    """Of the configuration the service is to run with; a mistake in it is better said now than by systemd."""
    from supervisor.settings.load import load

    return load(context.config_path(), os.environ)


def _installation(loaded: "Loaded", account: str | None) -> unitfile.Installation:
    settings = loaded.settings
    script = Path(sys.executable).with_name("llmsup")
    readme = Path(__file__).parents[2] / "README.md"
    return unitfile.Installation(
        command=(str(script),) if script.is_file() else (sys.executable, "-m", "supervisor"),
        config=Path(os.path.abspath(context.config_path())),
        listen=settings.listen,
        drain_timeout_s=settings.proxy.drain_timeout_s,
        account=account,
        environment=tuple(f"{name}={os.environ[name]}" for name in _KEPT if os.environ.get(name)),
        documentation=readme if readme.is_file() else None,
        writable=tuple(_writable(loaded)) if account is not None else (),
    )


def _writable(loaded: "Loaded") -> Iterator[Path]:
    """Where the configuration has it write, outside of what systemd makes for it."""
    settings = loaded.settings
    named = {
        "state_dir": settings.state_dir,
        "log.dir": settings.log_dir,
        "listen_unix": settings.listen_unix.parent if settings.listen_unix is not None else None,
    }
    for key, folder in named.items():
        own = folder is None or any(folder.is_relative_to(one) for one in OWN_FOLDERS)
        if folder is not None and not own and loaded.sources.get(key, "default") != "default":
            yield folder


def _target(*, user: bool) -> Target:
    if not user:
        return Target(SYSTEM_UNITS, ("systemctl",))
    config_home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Target(Path(config_home, "systemd/user"), ("systemctl", "--user"))


def _check(target: Target) -> None:
    """Raises LlmsupError: there is no systemd; PermissionDenied: its folder is not ours to write to."""
    if not RUNS.is_dir():
        raise LlmsupError("systemd does not run this machine", hint=WHERE_NOT)
    try:
        target.folder.mkdir(parents=True, exist_ok=True)
    except PermissionError as exc:
        raise _denied(target) from exc
    if not os.access(target.folder, os.W_OK):
        raise _denied(target)


def _denied(target: Target) -> PermissionDenied:
    return PermissionDenied(
        f"{target.folder} cannot be written",
        hint="run it as root (sudo), or make a service of your own: --user",
    )


def _write(path: Path, text: str, *, force: bool) -> None:
    """Put the unit there whole.

    Raises:
        Conflict: somebody has changed the one that is there, and ``force`` was not said.
    """
    if os.path.lexists(path):
        if _read(path) == text:
            output.echo(f"{path} is as it should be already")
            return
        _yield_place(path, force=force)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, "utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)
    output.echo(f"written: {path}\n")


def _read(path: Path) -> str:
    """What is there; nothing for a link (`systemctl mask`) or what is no text."""
    try:
        return "" if path.is_symlink() else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _yield_place(path: Path, *, force: bool) -> None:
    """Keep a unit that was changed as .bak, if that is wanted; one of ours needs no keeping."""
    if unitfile.untouched(_read(path)):
        return
    if not force:
        raise Conflict(
            f"{path} was changed, or is not of llmsup's making",
            hint="--force replaces it and keeps it as .bak; for changes that stay: systemctl edit llmsup",
        )
    kept = path.with_name(f"{path.name}.bak")
    os.replace(path, kept)
    output.echo(f"kept: {kept}")


def _explain(unit: unitfile.Unit) -> None:
    """Each line, and behind the first of those that belong together why it is there."""
    for name, entries in unit:
        output.echo(output.style(f"[{name}]", bold=True))
        for entry in entries:
            for number, (key, value) in enumerate(entry.lines):
                why = entry.why if number == 0 else ""
                line = f"  {key}={value}"
                if why and len(line) > 44:
                    output.echo(line)
                    line = ""
                output.echo(f"{line:<46}{output.style(why, dim=True)}".rstrip())
    output.echo()


def _notes(at: unitfile.Installation) -> Iterator[str]:
    """What would surprise whoever starts it."""
    if at.account is not None:
        uid = _uid(at.account)
        if uid is None:
            yield f"there is no user {at.account} yet"
        # As the service will see them; until there is its user, only root's are surely safe.
        for path in (Path(at.command[0]), at.config):
            if (weak := secure_path.weakness(path, uid=0 if uid is None else uid)) is not None:
                yield f"others could write what runs as {at.account}: {weak} ({weak.remedy})"
        for folder in at.writable:
            if not folder.is_dir():
                yield f"{folder} is not there; the service cannot make it: install -d -o {at.account} -m 700 {folder}"
        for path in (Path(at.command[0]), at.config):
            closed = _closed_to_others(path)
            if closed is not None:
                yield f"{at.account} may not be let into {closed} (its mode is {closed.stat().st_mode & 0o777:o}), where {path.name} is"
    if told := sorted(name for name in os.environ if name.startswith(("LLMSUP__", "LLM_"))):
        yield f"the service will not have your {', '.join(told)}: set them with `systemctl edit llmsup`"


def _uid(account: str) -> int | None:
    """None: there is no such user."""
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        return None


def _closed_to_others(path: Path) -> Path | None:
    """The outermost folder on the way that only its owner and group may enter."""
    for folder in reversed(path.parents):
        if folder.is_dir() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def _steps(target: Target, at: unitfile.Installation, begins: list[str]) -> Iterator[str]:
    if at.account is not None and _uid(at.account) is None:
        yield f"useradd --system --home-dir /var/lib/llmsup {at.account}"
    yield f"{target.spoken} daemon-reload"
    yield f"{target.spoken} enable --now {' '.join(reversed(begins))}"
    if at.account is None:
        yield "loginctl enable-linger    # it goes on when you log out, and starts with the machine"
    yield f"{target.spoken} status llmsup"


def _call(target: Target, *words: str) -> None:
    """Raises LlmsupError with systemctl's own words."""
    program = shutil.which(target.systemctl[0])
    if program is None:
        raise LlmsupError("systemctl is not in $PATH", hint="the unit is written; enable it by hand")
    try:
        done = subprocess.run(
            [program, *target.systemctl[1:], *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_S,
        )
    except subprocess.TimeoutExpired as exc:
        raise LlmsupError(f"systemctl {words[0]} has not ended in {SYSTEMCTL_S:g} s") from exc
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise LlmsupError(f"systemctl {words[0]}: {said}", hint="see: journalctl -u llmsup")


def _uninstall(target: Target, *, force: bool) -> None:
    there = [
        path for name in (unitfile.SOCKET, unitfile.SERVICE) if os.path.lexists(path := target.folder / name)
    ]
    if not there:
        output.echo(f"nothing to remove: {target.folder} has no unit of llmsup")
        return
    for path in there:  # all or none
        if not force and not unitfile.untouched(_read(path)):
            _yield_place(path, force=False)
    _call(target, "disable", "--now", *(path.name for path in there))
    for path in there:
        _yield_place(path, force=force)
        path.unlink(missing_ok=True)
        output.echo(f"removed: {path}")
    _call(target, "daemon-reload")
    output.echo("state, logs and configuration are still there")
