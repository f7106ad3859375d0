"""The kernel's counter is found wherever our cgroup may be mounted, and read without trust."""

import pytest

from supervisor.proc.cgroup import OomKills, locate, read

V2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


@pytest.fixture
def machine(tmp_path):
    """Writes what /proc/self/cgroup says and the files of the mount; returns the counter."""

    def make(membership, **files):
        (tmp_path / "cgroup").write_text(membership)
        for name, text in files.items():
            path = tmp_path / "fs" / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return OomKills(mount=tmp_path / "fs", membership=tmp_path / "cgroup")

    return make


@pytest.mark.parametrize(
    ("membership", "files", "count"),
    [
        ("0::/user/llmsup\n", {"user__llmsup__memory_dot_events": V2}, 2),
        ("0::/host/path\n", {"memory_dot_events": V2}, 2),  # a container: the mount is our own cgroup
        ("4:memory:/box\n0::/\n", {"memory__box__memory_dot_oom_control": V1}, 5),
        ("4:cpu,memory:/box\n", {"memory__memory_dot_oom_control": V1}, 5),
        ("0::/box\n", {"unified__box__memory_dot_events": V2}, 2),
        ("0::/\n", {}, None),  # the bare root has no such file
        ("4:cpu:/box\n", {"memory__box__memory_dot_oom_control": V1}, None),
        ("", {}, None),
        ("nonsense\n", {}, None),
    ],
)
def test_the_counter_of_our_cgroup(machine, membership, files, count):
    assert machine(membership, **files)() == count


def test_a_counter_that_grows_and_goes(machine, tmp_path):
    counter = machine("0::/a\n", a__memory_dot_events=V2)
    (tmp_path / "fs/a/memory.events").write_text("oom_kill 3\n")
    assert counter() == 3
    (tmp_path / "fs/a/memory.events").unlink()
    assert counter() is None
    assert "memory.events" in repr(counter)


def test_no_proc_no_counter(tmp_path):
    assert locate(tmp_path, tmp_path / "absent") is None


@pytest.mark.parametrize("text", ["", "oom_kill", "oom_kill many", "oom 4"])
def test_what_cannot_be_read_counts_nothing(tmp_path, text):
    path = tmp_path / "memory.events"
    path.write_text(text)
    assert read(path) is None
    assert read(tmp_path) is None


def test_the_real_one_is_a_number_or_nothing():
    count = OomKills()()
    assert count is None or count >= 0
