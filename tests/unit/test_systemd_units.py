"""The units in config/systemd are what systemd reads, and agree with the program."""

import shutil
import subprocess
from pathlib import Path

import pytest

from supervisor.settings.paths import DEFAULT_LISTEN
from supervisor.settings.schema import Proxy

UNITS = Path(__file__).parents[2] / "config/systemd"


def read(name: str) -> dict[str, dict[str, str]]:
    """Sections of ``key=value`` lines; every other line is a comment, a heading or empty."""
    sections: dict[str, dict[str, str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, line
            assert key not in section, f"{key} twice"
            section[key] = value
    return sections


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
        "ExecReload": "/bin/kill -HUP $MAINPID",
    }
    assert wanted.items() <= service.items()
    assert service["ExecStart"].endswith(" run")
    assert int(service["TimeoutStopSec"]) == Proxy().drain_timeout_s + 30


def test_the_socket_is_the_fixed_port() -> None:
    sock = read("llmsup.socket")["Socket"]
    assert (sock["ListenStream"], sock["Accept"]) == (DEFAULT_LISTEN, "no")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    for name in ("llmsup.service", "llmsup.socket"):
        text = (UNITS / name).read_text().replace("/opt/llmsup/.venv/bin/llmsup", "/bin/true")
        lines = [line for line in text.splitlines() if not line.startswith(("User=", "Group="))]
        (tmp_path / name).write_text("\n".join(lines))
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    ours = [line for line in done.stderr.splitlines() if "llmsup" in line]  # other units are none of ours
    assert not ours
