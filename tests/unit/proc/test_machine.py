from supervisor.proc.machine import Memory, memory
from supervisor.types import GIB, KIB, MIB

MEMINFO = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\n\nHugePages_Total: 0\n"


def machine(folder, membership=""):
    (folder / "meminfo").write_text(MEMINFO)
    (folder / "membership").write_text(membership)
    return memory(meminfo=folder / "meminfo", membership=folder / "membership", mount=folder / "cg")


def group(folder, limit, used, inactive=0, active=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\ninactive_file {inactive}\nactive_file {active}\n")


def test_the_machine_s_own_figures(tmp_path):
    assert machine(tmp_path) == Memory(8 * GIB, 4 * GIB)


def test_a_cgroup_s_limit_when_it_is_tighter_and_its_page_cache_can_be_freed(tmp_path):
    group(tmp_path / "cg" / "a" / "b", 2 * GIB, GIB, inactive=256 * MIB, active=256 * MIB)
    assert machine(tmp_path, "0::/a/b\n") == Memory(2 * GIB, GIB + 512 * MIB)


def test_the_tightest_on_the_way_to_the_root_counts(tmp_path):
    group(tmp_path / "cg" / "a" / "b", "max", GIB)
    group(tmp_path / "cg" / "a", 3 * GIB, 2 * GIB)
    assert machine(tmp_path, "0::/a/b\n") == Memory(3 * GIB, GIB)


def test_in_a_container_the_mount_itself_is_ours(tmp_path):
    group(tmp_path / "cg", GIB, 2 * GIB)  # used more than it may: nothing is available, not less
    assert machine(tmp_path, "0::/../host/path\n") == Memory(GIB, 0)


def test_version_1(tmp_path):
    folder = tmp_path / "cg" / "memory" / "x"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(GIB))
    (folder / "memory.usage_in_bytes").write_text(str(512 * MIB))
    (folder / "memory.stat").write_text(f"total_inactive_file {64 * MIB}\ntotal_active_file 0\n")
    assert machine(tmp_path, "7:cpu,memory:/x\n3:cpuset:/x\n") == Memory(GIB, 576 * MIB)


def test_without_proc_psutil_is_asked(tmp_path):
    found = memory(meminfo=tmp_path / "none", membership=tmp_path / "none", mount=tmp_path)
    assert found.total > found.available > KIB
