"""Dockerfile and compose.yaml, read by the rules that matter: no engine is needed, and none is there on most machines.

What a rule cannot say is tried: the files that are copied into the image are put together here, and a wheel and the demo
model are made of them.
"""

import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from supervisor import __version__
from supervisor.settings.load import load
from supervisor.settings.schema import Proxy
from tests.support.prometheus_server import program

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# Of the Compose Specification, what is of use here: a mistyped key fails.
SERVICE_KEYS = {
    *("build", "image", "command", "ports", "volumes", "environment", "depends_on", "restart", "healthcheck"),
    *(
        "stop_grace_period",
        "read_only",
        "tmpfs",
        "cap_drop",
        "security_opt",
        "ulimits",
        "deploy",
        "user",
        "secrets",
    ),
}
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*\Z")
DEFAULT = re.compile(r"\$\{[^}]*:-([^}]*)\}")  # ${NAME:-default}
SECRET = re.compile(r"(?i)(password|secret|token|api_?key)\s*[=:]\s*['\"]?[A-Za-z0-9+/_-]{4,}")


def instructions() -> list[tuple[str, str]]:
    """``(FROM, python:3 AS build)``, continued lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (name, " ".join(rest.split()))
        for name, _, rest in (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    ]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def stages() -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for instruction in instructions()[len(arguments("ARG")) :]:  # which stand before the first
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def copied() -> list[str]:
    """What the first stage takes out of the checkout, and the last one."""
    sources = []
    for rest in arguments("COPY"):
        *words, _ = rest.split()
        if not any(word.startswith("--from=") for word in words):
            sources += words
    return sources


# ---- the image


def test_every_instruction_is_one() -> None:
    known = {
        "ARG",
        "FROM",
        "RUN",
        "COPY",
        "WORKDIR",
        "ENV",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    }
    assert {name for name, _ in instructions()} <= known


def test_both_stages_stand_on_the_same_pinned_image() -> None:
    bases = [rest.partition(" AS ")[0] for rest in arguments("FROM")]
    assert len(bases) == 2
    assert set(bases) == {
        "${PYTHON_IMAGE}"
    }  # the same libraries where llama-server is built and where it runs
    (argument,) = arguments("ARG")
    name, _, image = argument.partition("=")
    assert name == "PYTHON_IMAGE"
    assert PINNED.match(image)
    assert SERVICES["llmsup"]["build"]["args"] == {name: f"${{{name}:-{image}}}"}


def test_it_runs_as_nobody_in_particular() -> None:
    last = stages()[-1]
    (user,) = [rest for name, rest in last if name == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)  # numbers, which Kubernetes can check
    uid, gid = user.split(":")
    (made,) = [rest for name, rest in last if name == "RUN"]
    assert f"--uid {uid}" in made
    assert f"--gid {gid}" in made
    order = [name for name, _ in last]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name in {"RUN", "COPY"})


def test_no_list_of_packages_stays() -> None:
    for rest in arguments("RUN"):
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if "pip install" in rest:
            assert rest.count("--no-cache-dir") == rest.count("pip install")
            assert "--require-hashes" in rest or "--no-deps" in rest  # nothing that is not pinned


def test_what_is_copied_is_there_and_let_through() -> None:
    allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(source == line[1:] or source.startswith(f"{line[1:]}/") for line in allowed), source
    for line in allowed:
        assert any(source == line[1:] or source.startswith(f"{line[1:]}/") for source in copied()), line


def test_what_is_copied_is_enough(tmp_path: Path) -> None:
    hidden = ["*.gguf", "__pycache__"]
    for source in copied():
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns(*hidden))
        else:
            shutil.copy(ROOT / source, target)
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(wheel, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(made).namelist())
    for path in (ROOT / "supervisor").rglob("*"):
        if path.is_file() and not any(fnmatch.fnmatch(part, "__pycache__") for part in path.parts):
            assert str(path.relative_to(ROOT)) in names, path
    make = [sys.executable, str(tmp_path / "models/make_demo.py")]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/demo.gguf").is_file()


def test_its_health_is_that_of_the_port() -> None:
    (check,) = arguments("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    compile(command[-1], "HEALTHCHECK", "exec")
    assert "http://127.0.0.1:8005/health" in command[-1]
    assert arguments("EXPOSE") == ["8005"]
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["llmsup"]
    assert json.loads(arguments("CMD")[0]) == ["run"]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


def test_redis_is_cut_out_of_the_pins_whole() -> None:
    """What the sed of the Dockerfile leaves of requirements/dev.txt."""
    script = re.search(r"sed -n '([^']+)'", (ROOT / "Dockerfile").read_text())
    assert script is not None
    done = subprocess.run(
        ["sed", "-n", script[1], str(ROOT / "requirements/dev.txt")],
        capture_output=True,
        text=True,
        check=True,
    )
    first, *hashes = done.stdout.splitlines()
    assert re.fullmatch(r"redis==\d+\.\d+\.\d+ \\", first)
    assert hashes
    assert all("--hash=sha256:" in line for line in hashes)
    assert not hashes[-1].endswith("\\")


@pytest.mark.parametrize(
    "name", ["Dockerfile", "compose.yaml", *sorted(p.name for p in (ROOT / "config/docker").iterdir())]
)
def test_no_secret_is_in_them(name: str) -> None:
    path = ROOT / name if (ROOT / name).exists() else ROOT / "config/docker" / name
    assert SECRET.findall(path.read_text()) == []


# ---- what is started together


def test_there_are_the_four_and_every_key_is_known() -> None:
    assert set(SERVICES) == {"llmsup", "redis", "prometheus", "grafana"}
    assert set(COMPOSE) == {"name", "services", "volumes", "secrets"}
    for name, service in SERVICES.items():
        assert set(service) <= SERVICE_KEYS, name


def test_every_image_is_pinned() -> None:
    for name, service in SERVICES.items():
        image = DEFAULT.sub(r"\1", service["image"])
        assert PINNED.match(image), image
        assert image != service["image"] or name == "llmsup"  # .env may pin it to a digest
    assert SERVICES["llmsup"]["image"] == f"llmsup:{__version__}"


def test_every_port_is_this_machines_only() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", []):
            assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port
    assert "ports" not in SERVICES["redis"]


def test_everybody_is_bounded_and_has_no_more_rights_than_needed() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["restart"] == "unless-stopped", name
        assert "privileged" not in service, name


def test_everybody_says_whether_they_are_well() -> None:
    for name, service in SERVICES.items():
        check = service.get("healthcheck")
        assert (check is None) == (name == "llmsup")  # its image has one
        if check is not None:
            assert check["test"][0] == "CMD"
            assert {"interval", "timeout", "retries"} <= set(check)


def test_what_is_mounted_is_there_and_named() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source, target = DEFAULT.sub(r"\1", volume).split(":")[:2]
            assert target.startswith("/")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert volume.endswith(":ro"), volume
            else:
                assert source in COMPOSE["volumes"], source
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", [])) <= set(SERVICES)


def test_llmsup_has_the_time_to_drain() -> None:
    assert SERVICES["llmsup"]["stop_grace_period"] == f"{Proxy().drain_timeout_s + 30:g}s"


def test_the_configuration_in_the_container_is_right() -> None:
    path = ROOT / "config/docker/llmsup.yaml"
    assert load(path, {}).settings.limits.store == "memory"  # the image by itself has no Redis
    environ = {name: value for name, value in SERVICES["llmsup"]["environment"].items() if "__" in name}
    environ = {name: re.sub(r"\$\{REDIS_PASSWORD:\?[^}]*\}", "0ff", value) for name, value in environ.items()}
    settings = load(path, environ | {"XDG_STATE_HOME": "/var/lib"}).settings
    assert settings.listen == "0.0.0.0:8005"
    assert str(settings.models["demo"].path) == "/models/demo.gguf"
    assert settings.limits.store == "redis://:0ff@redis:6379/0"
    limit = SERVICES["llmsup"]["deploy"]["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("G")) * 1024 > settings.memory.limit_mb
    assert str(settings.state_dir) == "/var/lib/llmsup"
    assert "state:/var/lib/llmsup" in SERVICES["llmsup"]["volumes"]


def test_prometheus_and_grafana_are_configured_as_without_containers() -> None:
    """Their files differ from config/prometheus and config/grafana by where the others are, and the key."""
    here = yaml.safe_load((ROOT / "config/prometheus/prometheus.yml").read_text())
    there = yaml.safe_load((ROOT / "config/docker/prometheus.yml").read_text())
    (job,) = there["scrape_configs"]
    assert job.pop("authorization") == {"credentials_file": "/run/secrets/prometheus_key"}
    assert job["static_configs"] == [{"targets": ["llmsup:8005"]}]
    job["static_configs"] = here["scrape_configs"][0]["static_configs"]
    job["authorization"] = here["scrape_configs"][0]["authorization"]
    assert there == here
    path = ROOT / "config/grafana/provisioning/datasources/llmsup.yml"
    here, there = (
        yaml.safe_load(path.read_text()),
        yaml.safe_load((ROOT / "config/docker/datasource.yml").read_text()),
    )
    assert there["datasources"][0].pop("url") == "http://prometheus:9090"
    here["datasources"][0].pop("url")
    assert there == here


def test_grafana_finds_the_dashboard_where_it_is_mounted() -> None:
    path = ROOT / "config/grafana/provisioning/dashboards/llmsup.yml"
    (provider,) = yaml.safe_load(path.read_text())["providers"]
    targets = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dashboard.json" in targets


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "config/docker/prometheus.yml").read_text()
    (tmp_path / "key").write_text("key")
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/run/secrets/prometheus_key", str(tmp_path / "key"))
    )
    shutil.copy(ROOT / "config/prometheus/rules.yml", tmp_path)
    check = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_redis_has_a_password_that_no_list_of_processes_shows(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH")
    shell, option, script = SERVICES["redis"]["command"]
    secret = "0123456789abcdef"
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    script = script.replace("$$", "$").replace("redis-server - ", f"redis-server - --port {port} ")
    server = subprocess.Popen(
        [shell, option, script],
        cwd=tmp_path,
        env=os.environ | {"REDIS_PASSWORD": secret},
        stdout=subprocess.DEVNULL,
    )
    try:
        with closing(connected(port)) as stranger:
            stranger.sendall(b"PING\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")
            stranger.sendall(f"AUTH {secret}\r\nPING\r\n".encode())
            assert stranger.recv(5) == b"+OK\r\n"
        assert secret not in " ".join(psutil.Process(server.pid).cmdline())  # `exec`: signals reach it, too
        assert psutil.Process(server.pid).name().startswith("redis-server")
    finally:
        server.terminate()
        server.wait(10)


def connected(port: int) -> socket.socket:
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError("Redis does not listen")


@pytest.mark.parametrize("digest", [f"sha256:{'a' * 64}", "", "sha256:short"])
def test_images_can_be_pinned_to_digests(tmp_path: Path, digest: str) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{digest}'\n")
    docker.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "config/docker/pin-images.sh"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode == 0) == (len(digest) == 71)
    if done.returncode == 0:
        images = {DEFAULT.sub(r"\1", service["image"]) for service in SERVICES.values()} - {
            f"llmsup:{__version__}"
        }
        assert set(done.stdout.splitlines()) >= {
            f"{image.split(':')[0].split('/')[-1].upper()}_IMAGE={image}@{digest}" for image in images
        }
        assert any(line.startswith("PYTHON_IMAGE=python:") for line in done.stdout.splitlines())
