"""The units in config/systemd, and those that `llmsup install` writes, are what systemd reads and agree with the program."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.cli import unitfile
from supervisor.cli.unitfile import Installation, service, socket, stamped, text, untouched, word
from supervisor.settings.paths import DEFAULT_LISTEN
from supervisor.settings.schema import Proxy

UNITS = Path(__file__).parents[2] / "config/systemd"
MAY_REPEAT = {"DeviceAllow", "SystemCallFilter"}  # each line adds
MOST_EXPOSED = 3.0  # of 10; `systemd-analyze security` counts what a taken-over service could do
NEEDS_SYSTEMD = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed here"
)
MACHINE = Installation(
    command=("/opt/llmsup/.venv/bin/llmsup",),
    config=Path("/etc/llmsup/llmsup.yaml"),
    listen=DEFAULT_LISTEN,
    drain_timeout_s=Proxy().drain_timeout_s,
    account="llmsup",
    documentation=Path("/opt/llmsup/README.md"),
)
MINE = Installation(
    command=("/home/me/my venv/bin/python", "-m", "supervisor"),
    config=Path("/home/me/100%/$HOME.yaml"),
    listen="[::1]:9000",
    drain_timeout_s=600,
    account=None,
    environment=("LLMSUP_CACHE_DIR=/data/my $cache", "XDG_STATE_HOME=/data"),
)


def parsed(unit: str) -> dict[str, dict[str, str]]:
    """Sections of ``key=value`` lines; every other line is a comment, a heading or empty."""
    sections: dict[str, dict[str, str]] = {}
    for line in unit.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            assert key not in section or key in MAY_REPEAT, f"{key} twice"
            section[key] = f"{section[key]}; {value}" if key in section else value
    return sections


def read(name: str) -> dict[str, dict[str, str]]:
    return parsed((UNITS / name).read_text())


def test_the_committed_units_are_those_install_writes_for_opt() -> None:
    assert (UNITS / unitfile.SERVICE).read_text() == text(service(MACHINE))
    assert (UNITS / unitfile.SOCKET).read_text() == text(socket(MACHINE))


def test_the_service_promises_what_the_daemon_keeps() -> None:
    unit = read("llmsup.service")
    service = unit["Service"]
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    wanted = {
        "Type": "notify",
        "NotifyAccess": "main",
        "KillMode": "mixed",  # SIGTERM to the daemon alone, which ends its children itself
        "Restart": "always",
        "Delegate": "yes",
        "OOMPolicy": "continue",
        "WatchdogSec": "30",
        "LimitNOFILE": "65536",
        "StateDirectory": "llmsup",
        "RuntimeDirectory": "llmsup",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ExecReload": "/bin/kill -HUP $MAINPID",
    }
    assert wanted.items() <= service.items()
    assert service["ExecStart"].endswith(" run")
    assert int(service["TimeoutStopSec"]) == Proxy().drain_timeout_s + 30


def test_the_socket_is_the_fixed_port() -> None:
    sock = read("llmsup.socket")["Socket"]
    assert (sock["ListenStream"], sock["Accept"]) == (DEFAULT_LISTEN, "no")


def test_a_users_service_has_nothing_that_only_root_may_ask_for() -> None:
    unit = parsed(text(service(MINE)))
    assert not {"User", "Group", "StateDirectory", "CacheDirectory", "ProtectSystem"} & set(unit["Service"])
    assert set(unit["Unit"]) == {"Description", "StartLimitIntervalSec"}  # it has no network-online.target
    assert unit["Install"]["WantedBy"] == "default.target"
    assert unit["Service"]["TimeoutStopSec"] == "630"
    assert unit["Service"]["Environment"] == '"LLMSUP_CACHE_DIR=/data/my $cache" XDG_STATE_HOME=/data'
    assert parsed(text(socket(MINE)))["Socket"]["ListenStream"] == "[::1]:9000"


def test_what_systemd_would_split_or_expand_is_written_so_that_it_does_not() -> None:
    assert word("/opt/llmsup/bin/llmsup") == "/opt/llmsup/bin/llmsup"
    assert word("/a b/100%") == '"/a b/100%%"'
    assert word("/$HOME/x") == "/$$HOME/x"
    assert word('say "\\"\nExecStart=evil') == '"say \\"\\\\\\"\\nExecStart=evil"'
    assert parsed(text(service(MINE)))["Service"]["ExecStart"] == (
        '"/home/me/my venv/bin/python" -m supervisor --config /home/me/100%%/$$HOME.yaml run'
    )


def test_a_changed_unit_is_told_from_one_of_ours() -> None:
    ours = stamped(text(service(MACHINE)), unitfile.SERVICE)
    assert untouched(ours)
    assert not untouched(ours + "Nice=5\n")
    assert not untouched(text(service(MACHINE)))
    assert parsed(ours) == parsed(text(service(MACHINE)))


def test_every_line_but_the_description_has_its_reason() -> None:
    for unit in (service(MACHINE), service(MINE), socket(MACHINE)):
        for _, entries in unit:
            silent = [entry.lines[0][0] for entry in entries if not entry.why]
            assert silent in ([], ["Description"])


def verified(folder: Path, *options: str) -> list[str]:
    """What systemd-analyze has to say about units of ours."""
    done = subprocess.run(
        ["systemd-analyze", *options, "verify", *map(str, sorted(folder.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return [line for line in done.stderr.splitlines() if "llmsup" in line]  # other units are none of ours


def put(folder: Path, at: Installation) -> None:
    for name, unit in ((unitfile.SERVICE, service(at)), (unitfile.SOCKET, socket(at))):
        program = "ExecStart=" + word(at.command[0])
        lines = stamped(text(unit), name).replace(program, "ExecStart=/bin/true").splitlines()
        kept = [line for line in lines if not line.startswith(("User=", "Group="))]  # not on this machine
        (folder / name).write_text("\n".join(kept) + "\n")


@NEEDS_SYSTEMD
@pytest.mark.parametrize("at", [MACHINE, MINE], ids=["machine", "user"])
def test_systemd_finds_no_fault(tmp_path: Path, at: Installation) -> None:
    put(tmp_path, at)
    assert verified(tmp_path) == []


@NEEDS_SYSTEMD
def test_systemd_would_find_one(tmp_path: Path) -> None:
    put(tmp_path, MACHINE)
    with (tmp_path / unitfile.SERVICE).open("a") as file:
        file.write("[Service]\nWatchdogSecs=1\n")
    assert "WatchdogSecs" in " ".join(verified(tmp_path))


@NEEDS_SYSTEMD
def test_little_is_exposed_when_the_service_is_taken_over(tmp_path: Path) -> None:
    unit = tmp_path / "llmsup.service"
    unit.write_text(text(service(MACHINE)))
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={10 * MOST_EXPOSED:.0f}",
        str(unit),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot judge a unit that is not installed")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_gpus_stay_usable() -> None:
    unit = parsed(text(service(MACHINE)))["Service"]
    for device in ("char-nvidia* rw", "char-drm rw", "char-kfd rw"):
        assert device in unit["DeviceAllow"].split("; ")
    # Each of these takes something from a GPU driver, or the memory limits of children from llmsup.
    for key in (
        "PrivateDevices",
        "MemoryDenyWriteExecute",
        "ProcSubset",
        "PrivateUsers",
        "ProtectControlGroups",
    ):
        assert key not in unit


def test_a_users_own_service_has_what_needs_no_privileges() -> None:
    unit = parsed(text(service(MINE)))["Service"]
    assert (unit["NoNewPrivileges"], unit["RestrictNamespaces"]) == ("yes", "yes")
    assert not {"ProtectSystem", "DeviceAllow", "CapabilityBoundingSet", "PrivateTmp"} & set(unit)


def test_folders_that_the_configuration_names_stay_writable() -> None:
    at = replace(MACHINE, writable=(Path("/data/my state"), Path("/srv/100%")))
    unit = parsed(text(service(at)))["Service"]
    assert unit["ReadWritePaths"] == '"-/data/my state" -/srv/100%%'
    assert "ReadWritePaths" not in parsed(text(service(MACHINE)))["Service"]


def test_no_path_ends_a_line_of_the_unit() -> None:
    for separator in ("\n", "\r", "\x0b", "\x1b"):
        line = word(f"/x{separator}ExecStartPre=/evil")
        assert separator not in line
