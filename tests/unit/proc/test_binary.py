import json
import os

import pytest

from supervisor.errors import BuildError
from supervisor.proc import binary
from supervisor.proc.building import source, toolchain
from supervisor.proc.building.published import Record
from tests.support import fake_build

COUNTING = fake_build.SERVER_SCRIPT.replace("case", 'echo "$1" >> "$0.runs"\ncase', 1)


def server(path, text=fake_build.SERVER_SCRIPT):
    return fake_build.script(path, text)


def runs(path):
    log = path.with_name(path.name + ".runs")
    return log.read_text().split() if log.exists() else []


def publish(cache, key, *, cpu=None, sha=source.PIN.sha256, machine=None, asked=1000):
    host = toolchain.host()
    record = Record(
        key, "9.9", "cpu", (), "src", sha, machine or host.machine, cpu or host.cpu, "gcc", "2026-01-01", 1.0
    )
    folder = cache / "llama.cpp" / key
    server(folder / "bin" / "llama-server")
    (folder / "build.json").write_text(json.dumps(record.to_json()))
    os.utime(folder / "build.json", (asked, asked))
    return folder / "bin" / "llama-server"


def locate(cache, *, on_path=None):
    return binary.locate("auto", cache_dir=cache, which=lambda _: on_path)


def test_auto_takes_the_pinned_build_asked_for_last(tmp_path):
    publish(tmp_path, "old", asked=1)
    newest = publish(tmp_path, "new", asked=2)
    publish(tmp_path, "mine", sha="tree:abc", asked=3)
    publish(tmp_path, "arm", machine="vax", asked=4)
    assert locate(tmp_path, on_path="/usr/bin/llama-server") == newest


def test_a_build_for_this_processor_comes_before_a_newer_one_for_another(tmp_path):
    other = publish(tmp_path, "other", cpu="other", asked=2)
    assert locate(tmp_path) == other
    assert locate(tmp_path) != publish(tmp_path, "this", asked=1)
    assert locate(tmp_path).parts[-3] == "this"


def test_auto_falls_back_to_the_path_and_then_says_what_to_do(tmp_path):
    assert str(locate(tmp_path, on_path="/usr/bin/llama-server")) == "/usr/bin/llama-server"
    with pytest.raises(BuildError, match="build one with: llmsup build"):
        locate(tmp_path)


def test_a_path_in_the_configuration_is_checked(tmp_path):
    path = tmp_path / "llama-server"
    with pytest.raises(BuildError, match=r"does not exist \(build one with: llmsup build\)"):
        binary.locate(str(path))
    with pytest.raises(BuildError, match="is not a file"):
        binary.locate(str(tmp_path))
    path.write_text("x")
    with pytest.raises(BuildError, match=r"is not executable \(chmod \+x "):
        binary.locate(str(path))
    path.chmod(0o755)
    assert binary.locate(str(path)) == path


def test_a_probe_tells_version_and_flags_and_is_remembered(tmp_path):
    path = server(tmp_path / "llama-server", COUNTING)
    found = binary.probe(path, cache_dir=tmp_path / "cache")
    assert found.version == "9.9 (build 1, commit abc)"
    assert found.supports("--metrics")
    assert found.supports("-h")
    assert not found.supports("--nothing")  # only mentioned in an explanation
    assert binary.probe(path, cache_dir=tmp_path / "cache") == found
    assert runs(path) == ["--version", "--help"]


def test_a_changed_file_is_probed_anew(tmp_path):
    path = server(tmp_path / "llama-server", COUNTING)
    binary.probe(path, cache_dir=tmp_path / "cache")
    server(path, COUNTING.replace("9.9", "10.0"))
    assert binary.probe(path, cache_dir=tmp_path / "cache").version.startswith("10.0")


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}'])
def test_an_unreadable_memory_is_ignored(tmp_path, content):
    path = server(tmp_path / "llama-server", COUNTING)
    found = binary.probe(path, cache_dir=tmp_path / "cache")
    (memory,) = (tmp_path / "cache" / "probes").iterdir()
    if content == '{"version": 1}':
        content = json.dumps(json.loads(memory.read_text()) | {"version": 1})
    memory.write_text(content)
    assert binary.probe(path, cache_dir=tmp_path / "cache") == found
    assert len(runs(path)) == 4


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    assert binary.probe(server(tmp_path / "llama-server"), cache_dir=tmp_path / "cache").supports("--help")


@pytest.mark.fault(22)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\nkill -ILL $$\n", "SIGILL: it was built for another processor"),
        ("#!/bin/sh\nkill -SEGV $$\n", "crashed with SIGSEGV"),
        ("#!/bin/sh\nkill -40 $$\n", "crashed with signal 40"),
        (
            "#!/bin/sh\necho 'x: error while loading shared libraries: libcudart.so.12: cannot open' >&2\nexit 127\n",
            "the shared library libcudart.so.12 is missing",
        ),
        ("#!/bin/sh\necho oops >&2\nexit 3\n", "it ended with status 3: oops"),
        ("#!/bin/sh\necho hello\n", "is not a llama-server"),
        ("#!/no/such/interpreter\n", "its loader or interpreter is missing"),
        ("\x7fELF but not really", "it is not a program for this machine"),
        ("#!/bin/sh\nexec sleep 60\n", "--version gave no answer in 0.2 s"),
    ],
)
def test_what_does_not_run_says_why(tmp_path, text, why):
    path = server(tmp_path / "llama-server", text)
    with pytest.raises(BuildError) as caught:
        binary.probe(path, timeout_s=0.2 if "sleep" in text else 10, cache_dir=tmp_path / "cache")
    assert why in str(caught.value)
    assert "llmsup build" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_the_environment_cannot_change_the_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_PORT", "nonsense")
    text = '#!/bin/sh\n[ -z "$LLAMA_ARG_PORT" ] && echo "version: 1.0"\n'
    assert binary.version(server(tmp_path / "llama-server", text)) == "1.0"


def test_options_are_read_from_the_left_column_only():
    text = (
        "----- common params -----\n"
        "-ub,   --ubatch-size N                  physical batch (see --batch-size)\n"
        "--ui, --no-ui                           whether to enable\n"
        "-cram, --cache-ram N                    cache (default: 8192, -1 - no limit)\n"
        "                                        (env: LLAMA_ARG_X, or --wrong)\n"
        "--fim-qwen-1.5b-default                 use a model\n"
        "--long-one,a,b\n"
    )
    assert binary.options(text) == {
        *("-ub", "--ubatch-size", "--ui", "--no-ui", "-cram", "--cache-ram"),
        *("--fim-qwen-1.5b-default", "--long-one"),
    }


def test_a_build_that_others_could_have_written_is_not_run(tmp_path):
    path = publish(tmp_path, "ours")
    (tmp_path / "llama.cpp").chmod(0o777)
    with pytest.raises(BuildError, match=r"not run, as others could have written it: .* \(chmod go-w "):
        locate(tmp_path, on_path="/usr/bin/llama-server")
    (tmp_path / "llama.cpp").chmod(0o755)
    assert locate(tmp_path) == path


def test_of_several_builds_one_that_only_we_could_have_written_is_taken(tmp_path):
    newest, older = publish(tmp_path, "new", asked=2), publish(tmp_path, "old", asked=1)
    newest.chmod(0o777)
    assert locate(tmp_path) == older


def test_a_library_beside_the_program_counts_as_the_program(tmp_path):
    library = publish(tmp_path, "ours").with_name("libllama.so.1")
    library.touch(0o644)
    assert locate(tmp_path)
    library.chmod(0o666)
    with pytest.raises(BuildError, match=r"libllama\.so\.1 may be written by everybody"):
        locate(tmp_path)


def test_what_is_found_on_the_path_is_looked_at_and_what_is_named_is_used(tmp_path):
    path = server(tmp_path / "bin" / "llama-server")
    path.parent.chmod(0o777)
    with pytest.raises(BuildError, match=r"name it in llama_server\.binary"):
        locate(tmp_path / "cache", on_path=str(path))
    assert binary.locate(str(path)) == path
    assert binary.weakness(path).path == str(path.parent)


def test_what_others_have_noted_of_a_program_is_not_believed(tmp_path):
    path = server(tmp_path / "llama-server", COUNTING)
    binary.probe(path, cache_dir=tmp_path / "cache")
    asked = len(runs(path))
    (note,) = (tmp_path / "cache" / "probes").iterdir()
    note.write_text(note.read_text().replace("9.9", "6.6"))
    note.chmod(0o666)
    assert binary.probe(path, cache_dir=tmp_path / "cache").version.startswith("9.9")
    assert len(runs(path)) == 2 * asked
