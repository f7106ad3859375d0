"""FAULTS 30 and 32 with the kernel's own refusals: a disk that is full, a process table that is full."""

import pytest

from tests.support.daemon import DaemonUnderTest, running, until
from tests.support.scarcity import few_processes, fill, small_disk


@pytest.mark.fault(30)
def test_a_full_disk_costs_no_child_is_flagged_and_caught_up_with() -> None:
    """Logs, deaths and the record of children all lie on it."""
    model = "demo"
    with DaemonUnderTest(models={model: {}, "bystander": {}}) as daemon, small_disk(daemon.state_dir) as disk:
        daemon.run()
        for name in (model, "bystander"):
            daemon.wait_ready(name)
        bystander = daemon.model("bystander")["pid"]
        ballast = fill(disk)
        generation = daemon.kill_child(model=model)
        daemon.wait_next(generation, model)
        assert daemon.chat(model=model, fake={"log_line_bytes": 20_000}).status == 200
        flagged = daemon.wait_for(lambda one: one["log"]["error"], "the child's log is flagged", model)
        assert "free on the disk" in flagged["log"]["error"] or "No space" in flagged["log"]["error"]
        unsaved = until(lambda: daemon.status()["deaths"]["error"], "deaths are flagged")
        assert "No space left on device" in unsaved
        said = daemon.cli("status").stdout
        assert "not on the disk" in said
        daemon.wait_next(daemon.kill_child(model=model), model)  # once more, with all of that known
        assert daemon.model("bystander")["pid"] == bystander
        ballast.unlink()
        until(lambda: daemon.status()["deaths"]["error"] is None, "deaths are caught up with")
        daemon.chat(model=model, fake={"log_line_bytes": 20_000})
        daemon.wait_for(lambda one: one["log"]["error"] is None, "the log is written again", model)
        until(lambda: daemon.status()["logs"]["error"] is None, "llmsup's own log is written again")
        until(lambda: "2 x killed" in daemon.cli("why").stdout, "both are on the disk")
        daemon.stop()


@pytest.mark.fault(32)
def test_without_room_for_a_process_nothing_is_held_against_the_child_and_it_comes_back() -> None:
    with running(models={"demo": {}, "bystander": {}}) as daemon:
        daemon.wait_ready("bystander")
        bystander = daemon.model("bystander")["pid"]
        with few_processes(daemon) as limit:
            limit.write_text("1")  # fewer than there are threads: none ends, none can be made
            daemon.kill_child(model="demo")
            refused = daemon.wait_for(
                lambda one: one["last_death"] and one["last_death"]["cause"] == "spawn_failed",
                "no process can be made",
                "demo",
            )
            assert "no process could be made" in refused["last_death"]["detail"]
            assert daemon.ask("GET", "/health").status == 503
            assert daemon.chat(model="bystander").status == 200
            limit.write_text("max")
            one = daemon.wait_ready("demo")  # by itself
            assert one["last_death"]["cause"] == "spawn_failed"
            assert daemon.chat(model="demo").status == 200
            assert daemon.model("bystander")["pid"] == bystander
