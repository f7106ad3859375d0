"""`llmsup doctor` with the real binary: each broken model is named before llama-server ever sees it."""

import json
from pathlib import Path

import psutil
import pytest

from supervisor.doctor.models import knows
from supervisor.types import MIB
from tests.support.daemon import DaemonUnderTest, answer_of, running

pytestmark = pytest.mark.real


def damaged(kind: str, demo_model: Path, folder: Path) -> Path:
    path, whole = folder / "model.gguf", demo_model.read_bytes()
    if kind == "missing":
        return path
    contents = {
        "truncated": whole[:-1],
        "foreign": b"PK\3\4" + whole[4:],
        "empty": b"",
        "another architecture": whole.replace(b"llama", b"nosuc"),
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "model_corrupt: PATH: tensor 'output.weight' ends"),
        ("foreign", "model_corrupt: PATH is not a GGUF file: it begins with b'PK"),
        ("empty", "model_corrupt: PATH is empty"),
        ("missing", "model_missing: PATH does not exist"),
        ("another architecture", "does not know the architecture 'nosuc'"),
    ],
)
def test_a_broken_model_is_named(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path, kind: str, words: str
) -> None:
    path = damaged(kind, demo_model, tmp_path)
    with DaemonUnderTest(binary=llama_server_binary, model_path=demo_model) as daemon:
        done = daemon.cli("doctor", "--json", "--model", str(path))
        assert done.returncode == 1
        failed = [one for one in json.loads(done.stdout)["findings"] if one["level"] == "fail"]
        assert [one["title"] for one in failed] == ["model (given)"]
        assert words.replace("PATH", str(path)).split(" ends")[0].split("tensor")[0] in failed[0]["detail"]
        assert failed[0]["remedy"]


def test_the_demo_model_is_well_and_its_estimate_covers_the_real_memory(
    llama_server_binary: Path, demo_model: Path
) -> None:
    with running(binary=llama_server_binary, model_path=demo_model) as daemon:
        assert daemon.cli("doctor").returncode == 0
        assert answer_of(daemon.chat(max_tokens=16))
        one = daemon.model()
        rss = psutil.Process(one["pid"]).memory_info().rss
        memory = one["memory"]
        assert 0.8 * rss < sum(memory[f"{kind}_bytes"] for kind in ("anon", "file", "shmem")) < 1.2 * rss
        without_cache = one["estimated_bytes"] - 512 * MIB
        assert 0.5 * without_cache < rss < 1.6 * without_cache, (rss / MIB, without_cache / MIB)


def test_the_binary_knows_its_architectures(llama_server_binary: Path) -> None:
    assert knows(llama_server_binary, "llama") is True
    assert knows(llama_server_binary, "nosuch") is False
