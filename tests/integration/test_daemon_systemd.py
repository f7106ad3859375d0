"""`llmsup install --systemd --user` under a real systemd: installed, started, killed, reloaded, removed.

The manager runs in name spaces of its own, where it finds a machine that systemd has booted and cgroups that are its alone.
That needs root, and a kernel that lets root have them; elsewhere these are skipped.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest

ROOT = Path(__file__).parents[2]
MANAGER = Path("/lib/systemd/systemd")
OUTER = """\
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user/0
umount -R /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 77
own=/sys/fs/cgroup/llmsup-test-$$-{port}
mkdir $own && echo 0 > $own/cgroup.procs || exit 77
unshare --cgroup --mount sh {inner} ; code=$?
echo 0 > /sys/fs/cgroup/cgroup.procs
find $own -depth -type d -exec rmdir {{}} \\;
exit $code
"""
INNER = """\
umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 77
export XDG_RUNTIME_DIR=/run/user/0 XDG_CONFIG_HOME={folder}/config
timeout 90 {manager} --user --unit=basic.target &
manager=$!
for _ in $(seq 100); do test -S /run/user/0/systemd/private && break; sleep 0.1; done
test -S /run/user/0/systemd/private || {{ kill $manager; exit 77; }}
{steps}
kill $manager; wait $manager
"""
ASK = "curl -sf --max-time 20 http://127.0.0.1:{port}/v1/models > /dev/null"


def under_systemd(daemon: DaemonUnderTest, steps: list[str]) -> str:
    """What the steps print, each between its own words and its exit code."""
    told = "\n".join(f'echo {shlex.quote(f"+ {step}")}\n{step}\necho "= $?"' for step in steps)
    inner, outer = daemon.folder / "inner.sh", daemon.folder / "outer.sh"
    program = daemon.folder / "bin/llmsup"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m supervisor --config {daemon.config} "$@"\n'
    )
    program.chmod(0o755)
    inner.write_text(INNER.format(folder=daemon.folder, manager=MANAGER, steps=told))
    outer.write_text(OUTER.format(inner=inner, port=daemon.port))
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", str(outer)],
        env=daemon.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("name spaces or cgroups are not to be had here")
    return done.stdout + done.stderr


def outcomes(said: str) -> dict[str, tuple[str, str]]:
    """Each step with its exit code and what it printed."""
    found = {}
    for part in f"\n{said}".split("\n+ ")[1:]:
        step, _, rest = part.partition("\n")
        printed, _, code = f"\n{rest}".partition("\n= ")
        found[step] = (code.partition("\n")[0], printed.strip())
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for name spaces of its own")
@pytest.mark.skipif(
    not (MANAGER.exists() and shutil.which("systemctl") and shutil.which("unshare")),
    reason="systemd is not installed here",
)
def test_systemd_starts_restarts_reloads_and_forgets_it() -> None:
    with DaemonUnderTest() as daemon:
        ask = ASK.format(port=daemon.port)
        ready = "for _ in $(seq 60); do systemctl --user is-active llmsup && break; sleep 0.25; done"
        said = under_systemd(
            daemon,
            [
                "llmsup install --systemd --user --socket --enable",
                ask,
                ready,
                "systemctl --user show -p StatusText,NotifyAccess,Type,RuntimeDirectory llmsup",
                "systemctl --user kill -s KILL --kill-who=main llmsup",
                f"{ask} -w waited",  # while it is down: systemd holds the port
                "systemctl --user show -p NRestarts llmsup",
                "systemctl --user reload llmsup",
                "llmsup chat Hello",  # waits until it is loaded
                "llmsup status",
                "llmsup install --systemd --user --uninstall",
                "systemctl --user show -p LoadState llmsup",
            ],
        )
        steps = outcomes(said)
        assert len(steps) == 12, said
        for step, (code, printed) in steps.items():
            assert code == "0", f"{step}: {printed}\n{said[-3000:]}"
        assert "NRestarts=1" in steps["systemctl --user show -p NRestarts llmsup"][1]
        assert "Type=notify" in said
        assert "READY" in steps["llmsup status"][1]
        assert "LoadState=not-found" in said
        assert not list((daemon.folder / "config/systemd/user").glob("llmsup.*"))
