import io
import os

import psutil
import pytest

from supervisor.proc.building import subcommand
from tests.support import fake_build


def run(path, on_line, **more):
    log = io.BytesIO()
    status = subcommand.stream([str(path)], env={"PATH": "/usr/bin:/bin"}, log=log, on_line=on_line, **more)
    return status, log.getvalue()


def test_output_goes_line_by_line_into_the_log_and_to_the_reader(tmp_path):
    lines = []
    path = fake_build.script(tmp_path / "x", "#!/bin/sh\necho out\necho err >&2\nprintf '\\377'\nexit 3\n")
    assert run(path, lines.append) == (3, b"out\nerr\n\xff")
    assert lines == ["out", "err", "\N{REPLACEMENT CHARACTER}"]


def test_a_program_may_draw_while_its_errors_are_read(tmp_path):
    lines = []
    path = fake_build.script(tmp_path / "x", "#!/bin/sh\necho drawn\necho err >&2\n")
    reader, writer = os.pipe()
    assert run(path, lines.append, draws_on=writer)[0] == 0
    os.close(writer)
    with os.fdopen(reader) as drawn:
        assert drawn.read() == "drawn\n"
    assert lines == ["err"]


@pytest.mark.parametrize("trap", ["", "trap '' TERM\n"])
def test_an_interruption_leaves_no_descendant(tmp_path, trap, monkeypatch):
    """Not one that has its own process group either, as ninja's compilers do."""
    monkeypatch.setattr(subcommand, "GRACE_S", 0.2)
    pids = []

    def interrupt(line):
        pids.append(int(line))
        if len(pids) == 2:
            raise KeyboardInterrupt

    path = fake_build.script(
        tmp_path / "x",
        f"#!/bin/bash\n{trap}setsid bash -c 'echo $$; sleep 60; :' &\necho $$\nwhile :; do wait; done\n",
    )
    with pytest.raises(KeyboardInterrupt):
        run(path, interrupt)
    alive = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    psutil.wait_procs([psutil.Process(pid) for pid in alive], timeout=5)
    assert not [pid for pid in alive if psutil.pid_exists(pid)]


def test_a_lock_is_inherited(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    lines = []
    path = fake_build.script(tmp_path / "x", f"#!/bin/sh\n[ -d /dev/fd/{fd} ] && echo held\n")
    run(path, lines.append, held=(fd,))
    os.close(fd)
    assert lines == ["held"]
