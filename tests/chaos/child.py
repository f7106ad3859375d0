"""Faults of the child: it dies, it hangs, it runs out of memory, its port is gone. (FAULTS 1-6, 8-18, 21)"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import psutil

from supervisor.control.client import ControlClient
from supervisor.errors import LlmsupError
from supervisor.proc.backoff import FAST_TRIES
from supervisor.proc.hang import KILLS
from supervisor.proc.profile import CRASHES_IN_A_ROW
from tests.chaos.stage import Fault, Late, Stage
from tests.support import rawhttp
from tests.support.daemon import CHAT, chat_body, until

TERMS = 1
NEST = 20_000  # brackets that overflow llama-server's stack (LLAMA_SERVER 0.8)
POISON_S = 30.0
OOM_ROOM_BYTES = 400 << 20  # the poisoned request wants 8 GB (LLAMA_SERVER 0.8)
STOP_S = (0.2, 4.0)  # two canaries of 5 s each must go unanswered before it is killed
AFTER_S = 1.5  # for a late kill to show
COMMANDS = 8
DYING_S = 0.5  # shorter than the first delay
KILLS_IN_A_ROW = 5


def _dies_of(stage: Stage, number: signal.Signals, *causes: str) -> None:
    with stage.recovery():
        stage.await_next(stage.daemon.kill_child(number))
    stage.expect_cause(*causes)


def killed(stage: Stage) -> None:
    _dies_of(stage, signal.SIGKILL, "killed")


def killed_once_a_second(stage: Stage) -> None:
    for _ in range(KILLS_IN_A_ROW):
        begun = time.monotonic()
        killed(stage)
        time.sleep(max(0.0, begun + 1.0 - time.monotonic()))


def segfault(stage: Stage) -> None:
    _dies_of(stage, signal.SIGSEGV, "segfault")
    stage.step_in()


def aborted(stage: Stage) -> None:
    _dies_of(stage, signal.SIGABRT, "aborted")
    stage.step_in()


def terminated(stage: Stage) -> None:
    """Somebody else's SIGTERM. Under load llama-server closes its port and ends when its answers do, or waits for
    their clients for ever; and once in five times its handler blocks itself, and then it goes on accepting and saying
    that all is well (8 of 40 on the bare binary): found as any other hang.
    """
    _dies_of(stage, signal.SIGTERM, "exited", "signalled", "unreachable", "hung")
    stage.step_in()


def killed_while_loading(stage: Stage) -> None:
    old = stage.daemon.child_pid
    with stage.recovery():
        generation = stage.daemon.kill_child()
        child = stage.next_child(old)
        time.sleep(stage.dice.uniform(0.0, 0.03))
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
        stage.await_next(generation + 1)
    stage.expect_cause("killed", "signalled")
    stage.step_in()


def crashes_in_a_row(stage: Stage) -> None:
    """With requests inside they are held against those: the model goes on, however many there are. What was alone at two of
    them is not let in again, and neither is its sender, until somebody restarts the model.
    """
    with stage.clients.excused("refused", "quarantined"):
        for _ in range(CRASHES_IN_A_ROW + 1):
            stage.await_next(stage.daemon.kill_child(signal.SIGSEGV))
        with stage.recovery():
            stage.step_in()
    stage.expect(stage.model()["degraded"] is None, "the usual profile after an operator's restart")


def crash_loop(stage: Stage) -> None:
    """None lives until it is READY, ever longer delays between them: then one try every five minutes."""
    old = stage.daemon.child_pid
    with stage.clients.excused("refused"):
        stage.daemon.kill_child()
        for _ in range(FAST_TRIES + 1):
            newborn = stage.next_child(old)
            newborn.kill()
            old = newborn.pid
        model = stage.await_state("CRASHLOOP", DYING_S)
        stage.expect(model["next_try_s"] > 60, f"a crash loop's delay: {model}")
        with stage.recovery():
            stage.step_in()


def restarted(stage: Stage) -> None:
    generation = stage.generation()
    with stage.recovery():
        stage.step_in()
    stage.expect(stage.generation() == generation + 1, "one restart, one generation")
    stage.expect_cause("restarted")


def commands_at_once(stage: Stage) -> None:
    """Restarts from all sides; they are one after the other, and one of them READY at the end."""
    generation = stage.generation()

    def restart() -> None:
        with contextlib.suppress(LlmsupError):
            ControlClient(stage.daemon.run_dir).post("/restart")

    threads = [threading.Thread(target=restart) for _ in range(COMMANDS)]
    with stage.recovery():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stage.await_next(generation)
    time.sleep(0.5)
    stage.generation()
    stage.expect(len(stage.daemon.children_alive()) == 1, "one llama-server")


def stopped_for_a_while(stage: Stage) -> None:
    """Slow is not stuck: it must not be killed."""
    before = stage.model()
    os.kill(before["pid"], signal.SIGSTOP)
    try:
        time.sleep(stage.dice.uniform(*STOP_S))
    finally:
        os.kill(before["pid"], signal.SIGCONT)
    time.sleep(AFTER_S)
    now = stage.model()
    stage.expect(now["pid"] == before["pid"], f"it was only stopped, and replaced for it: {now}")
    stage.await_that(lambda model: model["suspect"] is None, "no suspicion left")


def hung(stage: Stage) -> None:
    """Stopped for good, with requests inside."""
    model = stage.await_that(lambda model: model["slots"]["busy"] > 0, "a request inside")
    with stage.recovery():
        os.kill(model["pid"], signal.SIGSTOP)
        stage.await_next(model["generation"])
    stage.expect_cause("hung")


def stalled(stage: Stage) -> None:
    """Stopped before it has loaded."""
    old = stage.daemon.child_pid
    with stage.recovery():
        generation = stage.daemon.kill_child()
        child = stage.next_child(old)
        child.suspend()
        if stage.model()["state"] == "READY":
            child.resume()
            raise Late
        stage.await_next(generation + 1)
    stage.expect_cause("stalled")
    stage.step_in()


def port_taken(stage: Stage) -> None:
    """The configured port is somebody else's when the next one starts: the port after it is taken."""
    generation = stage.daemon.kill_child(signal.SIGSEGV)  # a second's delay follows
    with _listening(stage.child_port, DYING_S), stage.recovery():
        model = stage.await_next(generation)
    stage.expect(model["port"] != stage.child_port, "a port of its own")
    stage.step_in()
    stage.expect(stage.model()["port"] == stage.child_port, "the configured port again")


def port_stolen(stage: Stage) -> None:
    """Taken between choice and bind: its own refusal brings the next port, and no delay."""
    old = stage.daemon.child_pid
    with stage.recovery():
        generation = stage.daemon.kill_child()
        child = stage.next_child(old)
        child.suspend()
        words = child.cmdline()
        try:
            with _listening(int(words[words.index("--port") + 1])):
                child.resume()
                model = stage.await_next(generation)
        except OSError:  # it had bound already
            child.resume()
            raise Late from None
    if model["generation"] == generation + 1:
        raise Late
    stage.expect_cause("port_in_use")
    stage.step_in()


@contextlib.contextmanager
def _listening(port: int, patience_s: float = 0.0) -> Iterator[None]:
    """Somebody else has the port. ``patience_s``: until the one who had it is gone; then OSError."""
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                thief.bind(("127.0.0.1", port))
                thief.listen(1)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise
        yield


def poisoned(stage: Stage) -> None:
    """A request that kills it, with others' requests inside; its client does not wait to see it again."""
    nest = NEST + stage.dice.randrange(1000)  # each time another one: known ones are refused
    grammar = "root ::= " + "(" * nest + '"a"' + ")" * nest
    with stage.recovery():
        generation = _ask_to_death(stage, grammar=grammar)
        stage.await_next(generation)
    stage.expect_cause("segfault")
    stage.step_in()


def out_of_memory(stage: Stage) -> None:
    """The kernel kills it for want of memory, in a cgroup of the run's own; the next one has the safe profile."""
    assert stage.cgroup is not None
    limit, used = stage.cgroup / "memory.limit_in_bytes", stage.cgroup / "memory.usage_in_bytes"
    with stage.recovery():
        limit.write_text(str(int(used.read_text()) + OOM_ROOM_BYTES))
        try:
            last_n = 2**31 - 1 - stage.dice.randrange(1000)
            generation = _ask_to_death(stage, repeat_last_n=last_n, repeat_penalty=1.1)
        finally:
            limit.write_text("-1")
        stage.await_next(generation)
    stage.expect_cause("out_of_memory")
    stage.expect(bool(stage.model()["degraded"]), "the safe profile")
    stage.step_in()
    stage.expect(stage.model()["degraded"] is None, "the usual profile after an operator's restart")


def _ask_to_death(stage: Stage, **body: object) -> int:
    """Send that, and leave when the child is dead: asked again, it would kill the next one. The generation that died."""
    model = stage.model()
    child = psutil.Process(model["pid"])
    with rawhttp.connect(stage.daemon.port, POISON_S) as sock:
        sock.sendall(rawhttp.request("POST", CHAT, chat_body("Hello", max_tokens=4, **body)))
        until(lambda: _is_dead(child), "killed by a request", POISON_S)
    return int(model["generation"])


def _is_dead(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _no_cgroup(stage: Stage) -> str:
    return "" if stage.cgroup is not None else "no memory cgroup (version 1) that may be written here"


FAULTS = [
    Fault("SIGKILL", (1, 2, 3), killed),
    Fault("SIGKILL once a second", (4,), killed_once_a_second),
    Fault("SIGSEGV", (1, 2, 3), segfault),
    Fault("SIGABRT", (1, 2, 3), aborted),
    # Together no more than the daemon kills for hanging in that time; the next one would be left alone (FAULTS 17).
    Fault("SIGTERM", (1, 2, 3, 11, 13), terminated, limit=TERMS),
    Fault("SIGKILL while loading", (1, 5), killed_while_loading),
    Fault("crashes in a row", (5, 6, 8), crashes_in_a_row, limit=1),
    Fault("crash loop", (5,), crash_loop, limit=1),
    Fault("restart", (16,), restarted),
    Fault("restarts at once", (21,), commands_at_once),
    Fault("SIGSTOP, then SIGCONT", (14,), stopped_for_a_while),
    Fault("SIGSTOP", (12,), hung, limit=KILLS - TERMS),
    Fault("SIGSTOP while loading", (15,), stalled),
    Fault("port taken", (18,), port_taken),
    Fault("port stolen", (18,), port_stolen),
    Fault("poisoned request", (9,), poisoned),
    Fault("out of memory", (8,), out_of_memory, lacking=_no_cgroup),
]
