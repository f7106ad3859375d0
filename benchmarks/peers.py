"""Who is measured: the upstream itself, and nginx, HAProxy and llmsup in front of it. Others: `others`."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Processes, StartError, children_of, free_port, kill_if_ours, tree_of

ROOT = Path(__file__).resolve().parent.parent
STATUS_LIMIT_S = 10
GGUF_EMPTY = (
    b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
)  # version 3, no tensors, no keys: enough for a preflight

NGINX_CONF = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream peer {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://peer;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""

HAPROXY_CONF = """
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 300s
    timeout server 300s
frontend front
    bind 127.0.0.1:{port} backlog 4096
    default_backend back
backend back
    server one 127.0.0.1:{upstream} pool-max-conn 512
"""

# Limits so high that they decide every request and refuse none. The pools' names are the product's own.
LLMSUP_POOL = {"requests_per_minute": 100_000_000, "requests_per_hour": 1_000_000_000, "concurrent": 100_000}
NO_LIMITS = dict.fromkeys(LLMSUP_POOL) | {"shared": None}
WITHOUT_LIMITS = "no-limits"  # llmsup again, asking nobody for leave


@dataclass(slots=True)
class Peer:
    """One way to reach the upstream: where to send requests, and whose CPU time is its own."""

    name: str
    port: int
    upstream_port: int
    pids: list[int] = field(default_factory=list)
    version: str = ""
    most: int = 256  # connections it is asked to bear
    key: str = "none"  # what it wants to see as `Authorization: Bearer`


def start_upstream(processes: Processes, binary: Path, port: int | None = None) -> int:
    """Start the upstream by itself and return its port."""
    port = port or free_port()
    process = processes.start("upstream", [str(binary), "--port", str(port)])
    processes.wait_for_http("upstream", process, port)
    return port


def start_nginx(processes: Processes, folder: Path, upstream_port: int) -> Peer:
    """:raises StartError: when it is not installed or does not start."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise StartError("not installed")
    folder = folder / "nginx"
    folder.mkdir()
    port = free_port()
    # Only a root master may name a user; without this line its worker would be `nobody`.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.getuid() == 0 else ""
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(user=user, folder=folder, upstream=upstream_port, port=port))
    command = [binary, "-p", str(folder), "-c", str(conf), "-e", str(folder / "error.log")]
    process = processes.start("nginx", command)
    processes.wait_for_http("nginx", process, port)
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=5, check=False).stderr
    version = said.strip().rpartition("/")[2]
    return Peer("nginx", port, upstream_port, children_of(process.pid), version)


def start_haproxy(processes: Processes, folder: Path, upstream_port: int) -> Peer:
    """:raises StartError: when it is not installed or does not start."""
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise StartError("not installed")
    port = free_port()
    conf = folder / "haproxy.cfg"
    conf.write_text(HAPROXY_CONF.format(upstream=upstream_port, port=port))
    process = processes.start("haproxy", [binary, "-db", "-f", str(conf)])  # -db: in the foreground
    processes.wait_for_http("haproxy", process, port)
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=5, check=False).stdout
    return Peer("haproxy", port, upstream_port, [process.pid], said.split()[2] if said else "")


@dataclass(slots=True)
class Llmsup:
    """The daemon under test and the upstream it started as its child."""

    peer: Peer
    upstream_port: int
    upstream_pid: int
    marker: str

    def sweep(self) -> None:
        """After the daemon's end: its child must be gone; if not, end it."""
        kill_if_ours(self.upstream_pid, self.marker)


def start_llmsup(
    processes: Processes,
    folder: Path,
    binary: Path,
    python: tuple[str, ...] = (sys.executable,),
    *,
    name: str = "llmsup",
) -> Llmsup:
    """``python``: the interpreter and its own arguments, up to ``-m``; ``name``: "llmsup" or `WITHOUT_LIMITS`.

    :raises StartError: when the daemon cannot be started or asked."""
    folder = folder / name
    folder.mkdir()
    model = folder / "bench.gguf"
    model.write_bytes(GGUF_EMPTY)
    port = free_port()
    pool = NO_LIMITS if name == WITHOUT_LIMITS else LLMSUP_POOL
    config = {
        "listen": f"127.0.0.1:{port}",
        "state_dir": str(folder / "state"),
        "log": {"level": "warning", "access": False},  # as the others
        "llama_server": {"binary": str(binary)},
        "default_model": "bench",
        "models": {"bench": {"path": str(model), "parallel": 512, "args": []}},
        "proxy": {"max_concurrent_requests": 512, "queue_size": 10_000},
        "limits": {"pools": dict.fromkeys(("anonymous", "session", "user"), pool)},
    }
    conf = folder / "llmsup.yaml"
    conf.write_text(json.dumps(config, indent=1))  # JSON is YAML
    command = [sys.executable, "-m", "supervisor", "--config", str(conf)]
    running = [*python, *command[1:], "run"]
    process = processes.start(name, running, folder=ROOT)
    try:
        processes.wait_for_http(name, process, port)
        status = _status(command)
        models = status["models"]
        child = models[0] if isinstance(models, list) else {}
        pid, child_pid, child_port = int(str(status["pid"])), int(str(child["pid"])), int(str(child["port"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        processes.end(process)
        raise StartError(f"status --json lacks what is needed: {error!r}") from error
    except StartError:
        processes.end(process)
        raise
    peer = Peer(name, port, child_port, tree_of(pid, without=child_pid))
    return Llmsup(peer, child_port, child_pid, str(binary))


def _status(command: list[str]) -> dict[str, object]:
    try:
        done = subprocess.run(
            [*command, "status", "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=STATUS_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StartError(f"status --json took over {STATUS_LIMIT_S} s") from error
    if done.returncode:
        raise StartError(f"status --json left with {done.returncode}: {done.stderr.strip()[-200:]}")
    value: dict[str, object] = json.loads(done.stdout)
    return value
