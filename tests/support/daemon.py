"""A whole llmsup daemon with a configuration, port and state folder of its own; its end is part of every test.

    with DaemonUnderTest(fake={"load_s": 0.5}) as daemon:
        daemon.run()
        daemon.wait_ready()
        assert daemon.chat().status == 200

On leaving, whatever happened: everything that was started is ended, by pid, and these must hold: no process
of the test is left alive, the daemon's exit code is the expected one, its log holds no traceback, its state files
parse, and, if it still lived, the invariants of `tests.support.invariants` held just before.
"""

import atexit
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import yaml

from supervisor.control.client import ControlClient
from supervisor.control.rundir import RunDir
from supervisor.errors import LlmsupError
from tests.support import rawhttp, sabotage
from tests.support.fake_llama_server import write_wrapper
from tests.support.gguf import MINIMAL
from tests.support.invariants import Baseline, check_state_files

T = TypeVar("T")

DEADLINE_S = 15.0
POLL_S = 0.005
GONE_S = 2.0  # nothing may outlive the daemon by more (FAULTS 23)
PORTS = range(20_000, 30_000)  # below what kernels give out by themselves: children get those
MARK = "GGML_DAEMON_UNDER_TEST"  # in the environment of all that belongs to one test: llama-server inherits GGML_*
CHAT = "/v1/chat/completions"
NO_LIMIT = {"requests_per_minute": None, "requests_per_hour": None, "concurrent": None}
UNLIMITED = {"anonymous": NO_LIMIT | {"shared": None}, "session": dict(NO_LIMIT), "user": dict(NO_LIMIT)}


def until(condition: Callable[[], T], what: str, within_s: float = DEADLINE_S) -> T:
    """The first true value of ``condition``; AssertionError with ``what`` when there is none in time."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)
    return value


def free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), rawhttp.socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@functools.cache
def _shared() -> Path:
    """A folder for this run of the tests: the fake binary, and the cache in which it is known after one probe."""
    folder = Path(tempfile.mkdtemp(prefix="ls-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_wrapper(folder / "llama-server")
    return folder


class DaemonUnderTest:
    """``fake``: switches from the start (`behave` changes them); ``models``: sections of the configuration,
    by name, each over the defaults here; other keywords are further sections.
    """

    def __init__(
        self,
        *,
        binary: Path | str | None = None,
        model_path: Path | str | None = None,
        fake: Mapping[str, object] | None = None,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        **sections: Any,
    ) -> None:
        # Short: the path of a UNIX socket holds 103 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ls-", dir="/tmp"))
        self.state_dir = self.folder / "s"
        self.config = self.folder / "llmsup.yaml"
        self.model_path = Path(model_path) if model_path is not None else self.folder / "model.gguf"
        if model_path is None:
            self.model_path.write_bytes(MINIMAL)
        self.port = free_port()
        self.expected_exit: int | None = 0  # None: any
        self.expected_traceback = False
        self.defect = ""  # of `tests.support.sabotage`, built into each daemon from now on
        self.baseline: Baseline | None = None  # of the newest daemon, when a model of it was READY first
        self.process: subprocess.Popen[bytes] | None = None
        self.run_dir = RunDir(self.state_dir)
        self._health_key: str | None = None
        self._control = self.folder / "switches.json"
        self._binary = binary
        self._models = models or {"demo": {}}
        self._started: list[subprocess.Popen[bytes]] = []
        self._daemons: list[int] = []
        self.environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "LLMSUP_"))
        } | {MARK: str(self.folder), "LLMSUP_CACHE_DIR": str(_shared())}
        self.behave(**(fake or {}))
        self.configure(**sections)

    # ---- before and beside the daemon

    def configure(self, **sections: Any) -> None:
        """Write the configuration file. ``proxy=None``: without that section, for a test that appends its own."""
        models = {name: self._model(name, dict(keys)) for name, keys in self._models.items()}
        binary = self._binary or _shared() / "llama-server"
        config = {
            "listen": f"127.0.0.1:{self.port}",
            "state_dir": str(self.state_dir),
            "llama_server": {"binary": str(binary)},
            "default_model": next(iter(models)),
            "models": models,
            "limits": {"pools": UNLIMITED},  # a test asks for the limits it is about
            "reload": {"watch": False},  # a test that edits says when it is read
            "metrics": {"open_on_loopback": True},
        } | sections
        if config.pop("proxy", {}) is not None:
            # Tests are many clients at one address, as a proxy is.
            config["proxy"] = {"trusted_proxies": ["127.0.0.0/8", "::1/128"]} | sections.get("proxy", {})
        self.config.write_text(yaml.safe_dump(config, sort_keys=False))

    def _model(self, name: str, keys: dict[str, Any]) -> dict[str, Any]:
        # The counter lets a request bring a fault that only the first so many starts have.
        fake = {"control": self._control, "counter": self._starts(name)} | keys.pop("fake", {})
        env = {f"FAKE_{switch.upper()}": _text(value) for switch, value in fake.items()}
        return {"path": str(self.model_path), "threads": 1, "env": env} | keys

    def _starts(self, name: str) -> Path:
        return self.folder / f"starts-{name}"

    def starts(self, name: str = "demo") -> int:
        """How many processes of the fake there have been for that model."""
        return len(self._starts(name).read_text().splitlines())

    def behave(self, **switches: object) -> None:
        """The fake's switches from now on, for all models; see tests/support/fake/switches.py."""
        fresh = self._control.with_suffix(".new")
        fresh.write_text(json.dumps(switches))
        fresh.replace(self._control)

    def cli(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """The command with this configuration, to its end."""
        return subprocess.run(
            self.command(*arguments),
            check=False,
            **{"env": self.environ, "capture_output": True, "text": True, "timeout": 60} | options,
        )

    def popen(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        """The command in the background; ended with the test."""
        process = subprocess.Popen(self.command(*arguments), **{"env": self.environ} | options)
        self._started.append(process)
        return process

    def command(self, *arguments: str) -> list[str]:
        program = sabotage.program(self.defect) if self.defect else [sys.executable, "-m", "supervisor"]
        return [*program, "--config", str(self.config), *arguments]

    # ---- the daemon

    def run(self, **options: Any) -> None:
        """In the foreground of a process of ours, its words in `log`."""
        with (self.folder / "daemon.log").open("ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = self.popen("run", **streams | options)

    def wait_ready(self, model: str | None = None, within_s: float = DEADLINE_S) -> dict[str, Any]:
        one = self.wait_for(lambda one: one["state"] == "READY", "READY", model, within_s)
        if self.baseline is None or self.baseline.pid != self.pid:
            self.baseline = Baseline.of(self)
        return one

    def wait_for(
        self,
        condition: Callable[[dict[str, Any]], object],
        what: str,
        model: str | None = None,
        within_s: float = DEADLINE_S,
    ) -> dict[str, Any]:
        """The model's part of the status, once ``condition`` is true of it."""
        seen: dict[str, Any] = {}

        def holds() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}; awaited {what}")
            with contextlib.suppress(LlmsupError):  # not up yet
                seen.update(self.model(model))
                return bool(condition(seen))
            return False

        try:
            until(holds, what, within_s)
        except AssertionError as error:
            error.add_note(f"last seen: {seen}")
            raise
        return seen

    def wait_next(self, generation: int, model: str | None = None) -> dict[str, Any]:
        """READY in a later generation than that."""
        return self.wait_for(
            lambda one: one["generation"] > generation and one["state"] == "READY",
            f"READY after generation {generation}",
            model,
        )

    def status(self) -> dict[str, Any]:
        return ControlClient(self.run_dir).get("/status")

    def model(self, name: str | None = None) -> dict[str, Any]:
        """The status of one model (default: the default)."""
        models: list[dict[str, Any]] = self.status()["models"]
        return next(one for one in models if name in {None, one["name"]})

    @property
    def pid(self) -> int:
        pid: int = self.status()["pid"]
        return pid

    @property
    def child_pid(self) -> int:
        return int(self.model()["pid"])

    def kill_child(self, number: int = signal.SIGKILL, model: str | None = None) -> int:
        """Send the signal; returns the generation that got it."""
        one = self.model(model)
        os.kill(one["pid"], number)
        return int(one["generation"])

    def log(self) -> str:
        """What the daemon has said, in the foreground or started in the background."""
        logs = self.state_dir / "logs"
        foreground = self.folder / "daemon.log"  # in the foreground it says all twice
        said = foreground if foreground.exists() else logs / "llmsup.log"
        paths = [said, logs / "llmsup-stderr.log"]
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def stop(self, within_s: float = DEADLINE_S) -> None:
        """SIGTERM to the daemon in the foreground, and its end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(within_s)

    # ---- requests

    def ask(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = DEADLINE_S, **headers: str
    ) -> rawhttp.Response:
        return rawhttp.ask(self.port, method, path, body, headers, timeout_s=timeout_s)

    def health(self) -> rawhttp.Response:
        """What who shows a key is told; strangers are told less."""
        if self._health_key is None:
            self._health_key = self.cli("keys", "create", "health").stdout.strip()
        return self.ask("GET", "/health", Authorization=f"Bearer {self._health_key}")

    def chat(self, text: str = "Hello", *, timeout_s: float = DEADLINE_S, **body: object) -> rawhttp.Response:
        return self.ask("POST", CHAT, chat_body(text, **body), timeout_s=timeout_s)

    @contextlib.contextmanager
    def streaming(self, text: str = "Hello", **body: object) -> Iterator[rawhttp.Reader]:
        """A chat of which the head and the first event have come."""
        with rawhttp.connect(self.port, DEADLINE_S) as sock:
            sock.sendall(rawhttp.request("POST", CHAT, chat_body(text, stream=True, **body)))
            reader = rawhttp.Reader(sock)
            head = reader.head()
            assert head.status == 200, head
            assert reader.chunk()
            yield reader

    # ---- the end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        said, code, left, wrong = "", None, [], ""
        try:
            if error is None:
                wrong = self._not_as_before()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            code = self.process.poll() if self.process is not None else self.expected_exit
            self._stop_background()
            left = self._left_over()
            said = self.log()
            if error is None:
                check_state_files(self)
        finally:
            for process in [*self._started, *self.alive()]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for process in self._started:
                process.wait()
            if error is None or not os.environ.get("KEEP_DAEMON"):
                shutil.rmtree(self.folder, ignore_errors=True)
        if error is not None:
            error.add_note(f"the daemon's log:\n{said[-4000:]}")
            return
        assert not left, f"left alive: {left}\n{said[-4000:]}"
        assert self.expected_exit in {None, code}, f"the daemon's exit code: {code}\n{said[-4000:]}"
        assert not wrong, f"{wrong}\n{said[-4000:]}"
        traceback = "Traceback" in said or '"exception"' in said
        assert traceback == self.expected_traceback, said[-8000:]

    def _not_as_before(self) -> str:
        """What does not hold of a daemon that still lives; "" for a calm one."""
        try:
            if self.baseline is not None and self.status()["pid"] == self.baseline.pid:
                self.baseline.check(self)
        except LlmsupError:  # it ends, or has ended
            return ""
        except psutil.NoSuchProcess:
            return ""
        except AssertionError as error:
            return str(error)
        return ""

    def _stop_background(self) -> None:
        """A daemon that `llmsup start` left behind."""
        if self.run_dir.lock_path.exists() and self.run_dir.running():
            done = self.cli("stop", "--now", "--timeout", "10")
            assert done.returncode in {0, 3}, done.stderr  # 3: it has ended by itself meanwhile

    def _left_over(self) -> list[str]:
        with contextlib.suppress(AssertionError):
            until(lambda: not self.alive(), "all gone", GONE_S)
        return [f"{process.pid}: {' '.join(process.cmdline())}" for process in self.alive()]

    def alive(self, *, needle: str = "") -> list[psutil.Process]:
        """Processes of this test that live (a zombie waits for its parent only), whoever started them."""
        return [process for process in psutil.process_iter() if self._is_ours(process, needle)]

    def _is_ours(self, process: psutil.Process, needle: str) -> bool:
        try:
            return (
                process.environ().get(MARK) == str(self.folder)
                and process.status() != psutil.STATUS_ZOMBIE
                and needle in " ".join(process.cmdline())
            )
        except psutil.Error:
            return False

    def children_alive(self) -> list[psutil.Process]:
        """llama-servers of this test; each has the model in its arguments."""
        return self.alive(needle=str(self.model_path))


def chat_body(text: str, **body: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]} | body


def answer_of(reply: rawhttp.Response) -> str:
    """The text of a whole chat completion."""
    body: Any = reply.json()
    return str(body["choices"][0]["message"]["content"])


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def running(**options: Any) -> Iterator[DaemonUnderTest]:
    """A daemon in the foreground whose default model is READY."""
    with DaemonUnderTest(**options) as daemon:
        daemon.run()
        daemon.wait_ready()
        yield daemon
