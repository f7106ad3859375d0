"""`llmsup doctor` as a command, without a daemon and beside one."""

import json
import socket
from typing import Any

from tests.support import gguf
from tests.support.daemon import DaemonUnderTest, running


def told(daemon: DaemonUnderTest, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code, and the findings by title."""
    done = daemon.cli("doctor", "--json", *arguments)
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["ok"] == (done.returncode == 0)
    by_title: dict[str, list[dict[str, Any]]] = {}
    for finding in document["findings"]:
        by_title.setdefault(finding["title"], []).append(finding)
    return done.returncode, by_title


def test_without_a_daemon_all_is_looked_at_and_well() -> None:
    with DaemonUnderTest() as daemon:
        daemon.model_path.write_bytes(gguf.model())
        code, found = told(daemon)
        assert code == 0
        assert {
            "python",
            "configuration",
            "llama-server",
            "daemon",
            "port",
            "model demo",
            "left over",
        } <= set(found)
        page = daemon.cli("diagnose")
        assert (page.returncode, page.stderr) == (0, "")
        assert "ok    model demo" in page.stdout
        assert page.stdout.splitlines()[-1].startswith("0 to mend, ")
        assert not daemon.state_dir.exists()


def test_what_is_open_to_strangers_is_said() -> None:
    with DaemonUnderTest() as daemon:
        daemon.configure(listen=f"0.0.0.0:{daemon.port}")
        code, found = told(daemon)
        said = " ".join(one["detail"] for one in found["exposure"])
        assert code == 1  # of the model; to be open is a warning
        assert "without a key" in said
        assert "no TLS" in said
        assert all(one["remedy"] for one in found["exposure"])


def test_beside_a_daemon() -> None:
    with running() as daemon:
        code, found = told(daemon, "--model", __file__)
        assert code == 1
        assert "is not a GGUF file" in found["model (given)"][0]["detail"]
        assert found["instance demo"][0]["detail"] == "READY"
        assert "is llmsup's own" in found["port"][0]["detail"]


def test_what_is_wrong_is_said_with_a_remedy() -> None:
    with DaemonUnderTest(binary="/no/such/llama-server") as daemon, socket.socket() as squatter:
        squatter.bind(("127.0.0.1", daemon.port))
        squatter.listen()
        daemon.model_path.unlink()
        page = daemon.cli("doctor")
        assert page.returncode == 1
        failures = [line for line in page.stdout.splitlines() if line.startswith("FAIL")]
        assert [line.split()[1] for line in failures] == ["llama-server", "port", "model"]
        assert page.stdout.count("-> ") >= 3


def test_a_broken_configuration_is_a_finding_and_a_model_can_still_be_looked_at() -> None:
    with DaemonUnderTest() as daemon:
        daemon.config.write_text("nonsense: 1\n")
        daemon.model_path.write_bytes(gguf.model())
        code, found = told(daemon, "--model", str(daemon.model_path))
        assert code == 1
        assert found["configuration"][0]["level"] == "fail"
        assert found["model (given)"][0]["level"] == "ok"
