"""The process: bind, load, serve, and end by signal, by switch or by accident."""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from types import FrameType

from tests.support.fake.options import Options
from tests.support.fake.routes import Router
from tests.support.fake.switches import SwitchBoard, Switches
from tests.support.fake.wire import Connection, ConnectionDone, Exchange, Request, kill_self

STARTED = time.monotonic()
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
SLEEPER_S = "300"  # a grandchild forgotten by a failed test ends by itself
PROGRESS_S = 0.25
POLL_S = 0.05  # how soon the control file's `refuse` takes effect


def log(level: str, tag: str, text: str) -> None:
    """One line in llama-server's manner: ``M.SS.mmm.uuu L tag text``, in one write."""
    us = int((time.monotonic() - STARTED) * 1e6)
    stamp = f"{us // 60_000_000}.{us // 1_000_000 % 60:02}.{us // 1000 % 1000:03}.{us % 1000:03}"
    write_all(f"{stamp} {level} {tag}  {text}\n".encode())


def write_all(data: bytes) -> None:
    """To stderr, blocking when nobody drains it, unbothered when nobody has it open: as the real one."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(2, view) :]
    except OSError:
        pass


class Process:
    """The one server of this process: its listener, its state and its threads."""

    def __init__(self, options: Options, board: SwitchBoard) -> None:
        self.options = options
        self.board = board
        self.ready = False
        self.stopping = False
        self.router = Router(self)
        self.lock = threading.Lock()
        self.in_flight = 0
        self.listener: socket.socket | None = None
        self.ballast: list[bytes] = []
        self._wake_read, self._wake_write = os.pipe()

    # -- life

    def run(self) -> None:
        switches = self.board.now()
        if switches.fork_at_start and os.fork():
            os._exit(0)
        log("I", "srv", "llama_server: initializing ...")
        self._listen_or_leave()
        if switches.spawn_grandchild:
            self._spawn_sleeper()
        self._load(switches)
        self._become_ready()
        self._serve(switches)

    def _listen_or_leave(self) -> None:
        try:
            self.listener = self._listen()
        except OSError:
            where = f"hostname: {self.options.host}, port: {self.options.port}"
            log("E", "srv", f"start: couldn't bind HTTP server socket, {where}")
            log("E", "srv", "main: exiting due to HTTP server error")
            os._exit(1)

    def _listen(self) -> socket.socket:
        if self.options.host.endswith(".sock"):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(self.options.host)
        else:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.options.host, self.options.port))
            self.options.port = sock.getsockname()[1]
        sock.listen(512)
        sock.setblocking(False)
        return sock

    def _load(self, switches: Switches) -> None:
        """Until this ends signals act by default, as in llama-server; every path answers 503."""
        log("I", "srv", f"load_model: loading model '{self.options.model}'")
        if switches.load_message:
            write_all(switches.load_message.encode() + b"\n")
        self.crash_if(switches, "load")
        end = time.monotonic() + switches.load_s
        steps = 0
        while (left := end - time.monotonic()) > 0:
            self._accept(min(left, PROGRESS_S))
            if not switches.load_silent and left < switches.load_s - steps * PROGRESS_S:
                steps += 1
                log("I", "srv", f"load_model: loading tensors, {1 - left / switches.load_s:.0%}")
        if switches.load_exit >= 0:
            self._fail_load(switches.load_exit)
        reason = self._model_problem()
        if reason:
            log("E", "gguf_init_from_file:", reason)
            self._fail_load(1)

    def _fail_load(self, code: int) -> None:
        log("E", "srv", f"load_model: failed to load model, '{self.options.model}'")
        log("E", "srv", "llama_server: exiting due to model loading error")
        os._exit(code)

    def _model_problem(self) -> str:
        path = self.options.model
        try:
            with open(path, "rb") as file:
                return "" if file.read(1) else "failed to read magic"
        except OSError as error:
            return f"failed to open GGUF file '{path}' ({error.strerror})"

    def _become_ready(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self.ready = True
        log("I", "srv", "llama_server: model loaded")
        host, port = self.options.host, self.options.port
        where = f"unix://{host}" if host.endswith(".sock") else f"http://{host}:{port}"
        log("I", "srv", f"llama_server: listening on {where}")

    def _serve(self, switches: Switches) -> None:
        self.crash_if(switches, "ready")
        self.indulge(switches)
        end = time.monotonic() + switches.exit_after_ready_s if switches.exit_after_ready_s >= 0 else None
        while not self.stopping or self.in_flight:
            self._obey_refuse()
            wait_s = POLL_S if self.board.has_control else 1.0
            if end is not None:
                wait_s = min(wait_s, end - time.monotonic())
                if wait_s <= 0:
                    os._exit(switches.exit_code)
            self._accept(wait_s)
        log("I", "srv", "operator(): operator(): cleaning up before exit...")
        os._exit(0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.board.now().ignore_sigterm:
            return
        if self.stopping:
            write_all(b"Received second interrupt, terminating immediately.\n")
            os._exit(1)
        self.stopping = True
        self._wake()

    def _obey_refuse(self) -> None:
        """The listener is open while nothing forbids it."""
        refused = self.stopping or self.board.now().refuse
        if refused and self.listener is not None:
            self.listener.close()
            self.listener = None
        elif not refused and self.listener is None:
            self.listener = self._listen()

    def _spawn_sleeper(self) -> None:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited through exec
            os.execvp("sleep", ["sleep", SLEEPER_S])
        log("I", "srv", f"main: spawned grandchild {pid}")

    # -- serving

    def _accept(self, wait_s: float) -> None:
        """Take what connections come, for at most `wait_s`, or until woken."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        if self.listener is not None:
            poller.register(self.listener, select.POLLIN)
        for descriptor, _ in poller.poll(max(0.0, wait_s) * 1000):
            if descriptor == self._wake_read:
                os.read(self._wake_read, 4096)
                return
            try:
                sock, _ = self.listener.accept() if self.listener is not None else (None, None)
            except OSError:
                return  # gone again, or out of descriptors
            if sock is not None:
                threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _wake(self) -> None:
        os.write(self._wake_write, b"x")

    def _converse(self, sock: socket.socket) -> None:
        """A connection's life, in a thread of its own."""
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, self)
        reset = False
        try:
            while not self.stopping and (request := connection.read_request()) is not None:
                self._exchange(connection, request)
        except ConnectionDone as done:
            reset = done.reset
        except (OSError, ValueError) as error:
            log("W", "srv", f"operator(): connection lost: {error!r}")
        finally:
            try:
                connection.close(reset=reset)
            except OSError:
                pass

    def _exchange(self, connection: Connection, request: Request) -> None:
        with self.lock:
            self.in_flight += 1
        try:
            if self.ready:
                self.router.answer(connection, request)
            else:
                exchange = Exchange(connection, request, Switches())
                exchange.json(LOADING, 503)
        finally:
            with self.lock:
                self.in_flight -= 1
                if self.stopping and not self.in_flight:
                    self._wake()

    # -- wishes that concern the process

    def crash_if(self, switches: Switches, moment: str) -> None:
        if switches.crash_signal and switches.crash_at == moment:
            kill_self(switches.crash_signal)

    def indulge(self, switches: Switches) -> None:
        """Take the memory and write the logs that are asked for."""
        if switches.rss_bytes:
            self.ballast.append(b"\1" * switches.rss_bytes)
        if switches.log_line_bytes:
            write_all(b"#" * (switches.log_line_bytes - 1) + b"\n")
        line = b"0.00.000.000 I srv  flood: " + b"." * 100 + b"\n"
        block = line * 500
        for start in range(0, switches.log_flood, len(block)):
            write_all(block[: switches.log_flood - start])


def main(argv: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's KeyboardInterrupt is not what llama-server does
    threading.stack_size(256 * 1024)
    options = Options(argv)
    try:
        board = SwitchBoard(os.environ)
    except (ValueError, json.JSONDecodeError) as error:
        sys.stderr.write(f"error: {error}\n")
        os._exit(1)
    Process(options, board).run()
