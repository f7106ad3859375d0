"""Faults of the daemon itself: stopped, killed, ended, asked twice, given nonsense. (FAULTS 19-20, 23-24, 26-27, 29, 36, 56)"""

import signal
import time

from tests.chaos.stage import GONE_S, Fault, Stage
from tests.support.daemon import until

EXIT_CONFIG, EXIT_CONFLICT = 6, 7
FREEZE_S = 1.0
STOP_LIMIT_S = 45.0  # longer than drain_timeout_s
LEAD_S = 0.06  # about what a child takes to load
NONSENSE = (  # at the end of a good one
    "listen: [",
    "listen: 127.0.0.1:8006\n",  # a second time
    "no_such_key: 1\n",
    "retry: 7\n",
    "\x00\x01\x02",
    "  : :\n",
)


def frozen(stage: Stage) -> None:
    """Stopped and continued: no restart follows."""
    generation = stage.generation()
    stage.process.suspend()
    time.sleep(FREEZE_S)
    stage.process.resume()
    time.sleep(1.0)
    stage.expect(stage.generation() == generation, "no restart because we stood still")


def hung_up(stage: Stage) -> None:
    generation = stage.generation()
    stage.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    stage.expect(stage.generation() == generation, "SIGHUP restarts nothing")


def bad_edit(stage: Stage) -> None:
    """Refused, and the running set is untouched: also while an editor has written half of it."""
    config, before = stage.daemon.config, stage.model()
    good = config.read_text()
    half = stage.dice.randrange(good.index("models:"), len(good))
    try:
        config.write_text(good[: stage.dice.choice([half, len(good)])] + stage.dice.choice(NONSENSE))
        done = stage.daemon.cli("reload")
    finally:
        config.write_text(good)
    stage.expect(done.returncode == EXIT_CONFIG, f"reload: exit {done.returncode}: {done.stderr}")
    now = stage.model()
    stage.expect(now["pid"] == before["pid"], f"another child: {now}")
    done = stage.daemon.cli("reload")
    stage.expect(done.returncode == 0, f"reload of the good one: exit {done.returncode}: {done.stderr}")


def socket_removed(stage: Stage) -> None:
    stage.daemon.run_dir.socket_path.unlink(missing_ok=True)


def second_daemon(stage: Stage) -> None:
    done = stage.daemon.cli("run")
    stage.expect(done.returncode == EXIT_CONFLICT, f"a second daemon: exit {done.returncode}: {done.stderr}")


def killed(stage: Stage) -> None:
    """SIGKILL, sometimes while a child is being made: nothing outlives it, and the next start is clean."""
    with stage.clients.excused("refused", "unreachable", "broken"), stage.recovery():
        stage.end_life(busy=True)
        if stage.dice.random() < 0.5:
            stage.daemon.kill_child()
            time.sleep(stage.dice.uniform(0.0, LEAD_S))
        process = stage.daemon.process
        assert process is not None
        process.kill()
        process.wait()
        until(lambda: not stage.daemon.children_alive(), "no llama-server outlives the daemon", GONE_S)
        stage.start()
    stage.begin_life()


def ended(stage: Stage) -> None:
    """SIGTERM with answers under way: they are finished, whoever waits is told, and it exits with 0."""
    with stage.clients.excused("refused", "unreachable"), stage.recovery():
        stage.end_life(busy=True)
        process = stage.daemon.process
        assert process is not None
        process.terminate()
        code = process.wait(STOP_LIMIT_S)
        stage.expect(code == 0, f"exit code {code}")
        until(lambda: not stage.daemon.children_alive(), "no llama-server outlives the daemon", GONE_S)
        stage.start()
    stage.begin_life()


FAULTS = [
    Fault("daemon stopped for 1 s", (27,), frozen),
    Fault("SIGHUP", (29,), hung_up),
    Fault("bad edit of the configuration", (36, 37), bad_edit),
    Fault("control socket removed", (56,), socket_removed),
    Fault("second daemon", (19, 20), second_daemon),
    Fault("daemon killed", (23, 24), killed, limit=2),
    Fault("daemon ended", (26,), ended, limit=2),
]
