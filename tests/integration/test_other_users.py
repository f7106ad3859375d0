"""Another local user's files: their configuration is not used, and what they write into ours is not taken up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.daemon import DaemonUnderTest, running, until
from tests.support.otheruser import NOBODY, needs_root


def llmsup(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLMSUP")}
    command = [sys.executable, "-m", "supervisor", *arguments]
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        command, cwd=cwd, env=env | paths, capture_output=True, text=True, check=False, timeout=60
    )


@needs_root
@pytest.mark.parametrize("verb", [("doctor",), ("config", "check"), ("status",), ("start",), ("chat", "hi")])
def test_a_configuration_that_another_user_left_in_a_shared_folder_is_not_used(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    ran = tmp_path / "ran"
    program = tmp_path / "llama-server"
    program.write_text(f"#!/bin/sh\nid > {ran}\n")
    program.chmod(0o755)
    tmp_path.chmod(0o1777)
    planted = tmp_path / "config" / "llmsup.yaml"
    planted.parent.mkdir()
    settings = {"llama_server": {"binary": str(program)}, "models": {"m": {"path": "/m.gguf"}}}
    planted.write_text(yaml.safe_dump(settings))
    for one in (planted, planted.parent):
        os.chown(one, NOBODY, NOBODY)
    done = llmsup(*verb, cwd=tmp_path)
    assert done.returncode == (1 if verb == ("doctor",) else 6)
    assert "others could have written it" in done.stdout + done.stderr
    assert f"chown 0 {planted.parent}" in done.stdout + done.stderr
    assert not ran.exists()


def test_a_checkout_of_ones_own_in_a_sticky_folder_is_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "x" / "config").mkdir(parents=True)
    (tmp_path / "x/config/llmsup.yaml").write_text("models: {m: {path: /m.gguf}}\n")
    done = llmsup("config", "check", cwd=tmp_path / "x")
    assert done.returncode == 0, done.stderr


def test_what_anybody_may_write_is_said_and_not_taken_up() -> None:
    with running(reload={"watch": True}) as daemon:
        daemon.config.chmod(0o666)
        check = daemon.cli("config", "check")
        assert (check.returncode, f"chmod go-w {daemon.config}" in check.stderr) == (0, True)
        doctor = daemon.cli("doctor")
        assert f"-> chmod go-w {daemon.config}" in doctor.stdout
        assert "warning: others could have written" in daemon.cli("status").stderr
        daemon.configure(reload={"watch": True}, log={"level": "debug"})
        refused = until(lambda: daemon.status()["config_error"], "the refusal", within_s=20)
        assert "others could have written it" in refused["message"]
        assert daemon.cli("reload").returncode == 6
        assert daemon.cli("config", "show", "--changed", "log").returncode == 0
        daemon.config.chmod(0o644)
        assert "log.level" in daemon.cli("reload").stdout
        assert not daemon.status()["config_error"]


@needs_root
def test_another_users_named_configuration_is_used_with_a_word_and_not_taken_up_again() -> None:
    """As in a container that runs as root with a file of its host's user."""
    with DaemonUnderTest() as daemon:
        os.chown(daemon.config, NOBODY, NOBODY)
        daemon.run()
        daemon.wait_ready()
        assert "others could write what runs here" in daemon.log()
        assert daemon.status()["config_error"] is None
        daemon.configure(log={"level": "debug"})
        refused = daemon.cli("reload")
        assert (refused.returncode, "belongs to nobody" in refused.stderr) == (6, True)
    with DaemonUnderTest() as daemon:
        os.chown(daemon.config, NOBODY, NOBODY)
        daemon.environ["LLMSUP_TRUSTED_UIDS"] = str(NOBODY)
        daemon.run()
        daemon.wait_ready()
        assert "others could write" not in daemon.log()
        daemon.configure(log={"level": "debug"})
        assert "log.level" in daemon.cli("reload").stdout
