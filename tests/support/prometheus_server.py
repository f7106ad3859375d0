"""A real Prometheus of the test's own, with the configuration that is shipped: only its target and its pace are changed.

with Prometheus(target=f"127.0.0.1:{daemon.port}") as prometheus:
    prometheus.query('up{job="llmsup"}')     # [{"metric": {...}, "value": [...]}]
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests.support.daemon import free_port, until

SHIPPED = Path(__file__).parents[2] / "config" / "prometheus"
PACE = "250ms"
START_S = 30.0


def program(name: str) -> str:
    """Skips the test where there is none; fails it where there must be one."""
    found = shutil.which(name)
    if found is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {name} on PATH")
    return str(found)


class Prometheus:
    def __init__(self, target: str) -> None:
        self._program = program("prometheus")
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="ls-prom-", dir="/tmp"))
        shutil.copy(SHIPPED / "rules.yml", self._folder)
        config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": PACE, "scrape_timeout": PACE, "evaluation_interval": PACE}
        (job,) = config["scrape_configs"]
        job["static_configs"][0]["targets"] = [target]
        del job["authorization"]  # the daemons of tests are open to this machine
        self._config = self._folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(self._ready, "Prometheus answers", START_S)
        except BaseException as error:
            error.add_note((self._folder / "log").read_text()[-3000:])
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "it has ended"
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer,
        ):
            return bool(answer.status == 200)
        return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it is now. AssertionError, with Prometheus' own words, where it does not understand."""
        return list(self._get("query", query=expression)["result"])

    def targets(self) -> list[dict[str, Any]]:
        return list(self._get("targets", state="active")["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)["data"]
                return found
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
