"""Peers that are not found in a system's packages: LiteLLM's proxy in an environment of its own, and llama-swap.

python -m benchmarks.others        # make that environment
"""

import json
import os
import secrets
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.processes import Processes, StartError, free_port, tree_of

LITELLM = "litellm[proxy]==1.106.2"
LITELLM_MOST = 16  # with more its queue outlives the measurement by minutes, and it grows to gigabytes
LITELLM_START_S = 90.0  # it imports for a long time
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmsup"
LITELLM_VENV = CACHE / "bench-litellm"  # made by `make bench-litellm`


def start_litellm(processes: Processes, folder: Path, upstream_port: int) -> Peer:
    """One worker, as the others have; without a database, so without its keys, budgets and logs.

    :raises StartError: when it is not installed or does not start.
    """
    binary = LITELLM_VENV / "bin" / "litellm"
    if not binary.exists():
        raise StartError("not installed: make bench-litellm")
    port = free_port()
    model = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{upstream_port}/v1", "api_key": "none"}
    key = "sk-" + secrets.token_hex(24)  # without one it does not start
    config = {
        "general_settings": {"master_key": key},
        "model_list": [{"model_name": "bench", "litellm_params": model}],
        "litellm_settings": {"telemetry": False, "request_timeout": 300, "num_retries": 0},
    }
    conf = folder / "litellm.yaml"
    conf.write_text(json.dumps(config, indent=1))  # JSON is YAML
    command = [str(binary), "--config", str(conf), "--host", "127.0.0.1", "--port", str(port)]
    process = processes.start("litellm", [*command, "--num_workers", "1"], folder=folder)
    path = "/health/liveliness"
    processes.wait_for_http("litellm", process, port, path=path, within_s=LITELLM_START_S)
    said = subprocess.run(
        [
            str(LITELLM_VENV / "bin" / "python"),
            "-c",
            "from importlib.metadata import version as v; print(v('litellm'))",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return Peer("litellm", port, upstream_port, tree_of(process.pid), said.stdout.strip(), LITELLM_MOST, key)


def start_llama_swap(processes: Processes, folder: Path, binary: Path, upstream: Path) -> Peer:
    """It starts its children itself, so it has an upstream of its own: the same program, another process.

    :raises StartError: when it does not start.
    """
    port, upstream_port = free_port(), free_port()
    config = {
        "healthCheckTimeout": 15,
        "logLevel": "error",
        "models": {
            "bench": {
                "cmd": f"{upstream} --port {upstream_port}",
                "proxy": f"http://127.0.0.1:{upstream_port}",
            }
        },
    }
    conf = folder / "llama-swap.yaml"
    conf.write_text(json.dumps(config, indent=1))
    command = [str(binary), "--config", str(conf), "--listen", f"127.0.0.1:{port}"]
    process = processes.start("llama-swap", command, folder=folder)
    processes.wait_for_http("llama-swap", process, port)
    # The first request for a model starts it.
    processes.wait_for_http("llama-swap", process, port, path="/upstream/bench/health")
    return Peer("llama-swap", port, upstream_port, [process.pid])


def install_litellm() -> int:
    """Make its environment, or bring it up to date; pip's exit code."""
    print(f"installing {LITELLM} in {LITELLM_VENV} (740 MB) ...", flush=True)
    if not (LITELLM_VENV / "bin" / "python").exists():
        venv.create(LITELLM_VENV, with_pip=True)
    pip = [str(LITELLM_VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    return subprocess.run([*pip, "install", LITELLM], check=False).returncode


if __name__ == "__main__":
    sys.exit(install_litellm())
