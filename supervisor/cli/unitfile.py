"""The units that systemd reads, line by line with the reason for each. Pure: values in, text out.

`config/systemd` holds what this makes for an installation in /opt/llmsup; a test compares. What `llmsup install` writes
begins with a sum over the rest, so that a later one can tell a file that somebody has changed from an old one of its own.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supervisor.cli import unit_sandbox

SERVICE, SOCKET = "llmsup.service", "llmsup.socket"
STOP_MARGIN_S = 30  # for llama-server to end after the last answer, and for the logs to be written
_STAMP = re.compile(r"# Written by `llmsup install` \(([0-9a-f]{16})\)\. Changes of your own: .*\n")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # systemd ends a line at \n, \r and NUL
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./$-]+\Z")


@dataclass(frozen=True, slots=True)
class Installation:
    """What differs between machines. ``account``: whose service it is; None: a service of the user's own manager.

    ``writable``: folders that the configuration names, outside of those that systemd makes for it.
    """

    command: tuple[str, ...]
    config: Path
    listen: str
    drain_timeout_s: float
    account: str | None
    environment: tuple[str, ...] = ()
    documentation: Path | None = None
    writable: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines that belong together, and why they are there; without a reason they speak for themselves."""

    lines: tuple[tuple[str, str], ...]
    why: str = ""


Unit = tuple[tuple[str, tuple[Entry, ...]], ...]


def _entry(why: str, **lines: str | None) -> Entry:
    return Entry(tuple((key, value) for key, value in lines.items() if value is not None), why)


def service(at: Installation) -> Unit:
    """The daemon, for the whole machine or for one user."""
    system = at.account is not None
    exec_start = " ".join(word(part) for part in (*at.command, "--config", str(at.config), "run"))
    unit = (
        _entry(
            "",
            Description="llmsup: keeps llama-server answering",
            Documentation=None if at.documentation is None else _percent(at.documentation.as_uri()),
        ),
        *(_ORDER if system else ()),
        _entry(
            "Never give up: a machine whose disk is full or whose file server is away for an hour comes back by itself.",
            StartLimitIntervalSec="0",
        ),
    )
    body = (
        _entry(
            "READY when the port is bound and the control socket answers, not when the models are loaded.",
            Type="notify",
            NotifyAccess="main",
        ),
        _entry("This installation, with this configuration.", ExecStart=exec_start),
        _entry(
            "`systemctl reload` reads the configuration and the certificate again.",
            ExecReload="/bin/kill -HUP $MAINPID",
        ),
        *_whose(at),
        _entry("Whatever ends it but `systemctl stop`, it comes back.", Restart="always", RestartSec="1"),
        _entry(
            "Without a proof of life from its event loop for so long it is ended and started anew.",
            WatchdogSec="30",
        ),
        _entry(
            "SIGTERM to llmsup alone: it drains and ends llama-server itself. What is left then gets SIGKILL.",
            KillMode="mixed",
        ),
        _entry(
            f"proxy.drain_timeout_s ({at.drain_timeout_s:g}) and {STOP_MARGIN_S} more; raise both together.",
            TimeoutStopSec=f"{at.drain_timeout_s + STOP_MARGIN_S:g}",
        ),
        _entry(
            "One llama-server killed for lack of memory must not take the whole service along.",
            OOMPolicy="continue",
        ),
        _entry(
            "Every controller for its cgroup: the memory counter tells out-of-memory kills from others.",
            Delegate="yes",
        ),
        _entry("A descriptor for each client and each request at llama-server.", LimitNOFILE="65536"),
        _entry(
            "For llama-server's --mlock and its many threads.", LimitMEMLOCK="infinity", TasksMax="infinity"
        ),
        *(
            Entry(lines, why)
            for why, lines in unit_sandbox.lines(
                system=system, writable=at.writable, quote=lambda path: _quoted(_percent(path))
            )
        ),
    )
    wanted = "multi-user.target" if system else "default.target"
    install = _entry("Started with the machine." if system else "Started when you log in.", WantedBy=wanted)
    return (
        ("Unit", unit),
        ("Service", tuple(entry for entry in body if entry.lines)),
        ("Install", (install,)),
    )


_ORDER = (
    Entry(
        (("After", "network-online.target local-fs.target"), ("Wants", "network-online.target")),
        "Addresses and disks are there first.",
    ),
)


def _whose(at: Installation) -> Iterator[Entry]:
    """User, folders and the environment that leads to them."""
    if at.account is not None:
        yield _entry("Nothing here needs root.", User=at.account, Group=at.account)
        yield Entry(
            (
                ("StateDirectory", "llmsup"),
                ("StateDirectoryMode", "0700"),
                ("CacheDirectory", "llmsup"),
                ("Environment", "XDG_STATE_HOME=/var/lib LLMSUP_CACHE_DIR=/var/cache/llmsup"),
            ),
            "State and logs in /var/lib/llmsup, where `sudo llmsup status` looks too; llama-server in /var/cache/llmsup.",
        )
    elif at.environment:
        yield Entry(
            (("Environment", " ".join(_quoted(_percent(one)) for one in at.environment)),),
            "As it was where this was written: they say where state and llama-server are.",
        )
    yield Entry(
        (("RuntimeDirectory", "llmsup"), ("RuntimeDirectoryMode", "0755")),
        f"{'/run' if at.account else '$XDG_RUNTIME_DIR'}/llmsup: the place for listen_unix; the socket's own mode says who may use it.",
    )


def socket(at: Installation) -> Unit:
    """The port, held by systemd."""
    body = (
        _entry(
            "The same as listen: in the configuration; llmsup refuses to start on another.",
            ListenStream=at.listen,
        ),
        _entry("One llmsup takes all connections.", Accept="no"),
        _entry("So many clients may wait while llmsup is being restarted.", Backlog="1024"),
    )
    install = _entry("The port is open from the start of the machine on.", WantedBy="sockets.target")
    return (
        ("Unit", (_entry("", Description="The fixed port of llmsup"),)),
        ("Socket", body),
        ("Install", (install,)),
    )


def text(unit: Unit) -> str:
    """As systemd reads it, each reason above its lines."""
    sections = []
    for name, entries in unit:
        lines = [f"[{name}]"]
        for entry in entries:
            lines += [f"# {entry.why}"] if entry.why else []
            lines += [f"{key}={value}" for key, value in entry.lines]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def stamped(plain: str, unit: str) -> str:
    """``plain`` as it is written down: with the line by which `untouched` knows it."""
    return (
        f"# Written by `llmsup install` ({_sum(plain)}). Changes of your own: systemctl edit {unit}\n{plain}"
    )


def untouched(written: str) -> bool:
    """Whether nobody has changed the file since `llmsup install` wrote it, this version or an older one."""
    found = _STAMP.match(written)
    return found is not None and found[1] == _sum(written[found.end() :])


def _sum(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def word(text: str) -> str:
    """One argument of a command line, quoted where systemd would split it.

    systemd.service(5), "Command lines": ``%`` and ``$`` are doubled.
    """
    return _quoted(_percent(text).replace("$", "$$"))


def _quoted(text: str) -> str:
    if _PLAIN.match(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    escaped = _CONTROL.sub(lambda found: rf"\x{ord(found[0]):02x}", escaped)
    return f'"{escaped}"'


def _percent(text: str) -> str:
    return text.replace("%", "%%")
