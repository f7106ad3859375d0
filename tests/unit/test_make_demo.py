"""models/make_demo.py: the file it writes, read back by an independent reader, and its behaviour as a command."""

import hashlib
import math
import runpy
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

SCRIPT = Path(__file__).parents[2] / "models" / "make_demo.py"
MB = 1_000_000


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def made(out: Path, *flags: object) -> Path:
    done = run(out, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return out


@dataclass
class Gguf:
    metadata: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]]


class Reader:
    """As little of GGUF v3 as the demo model uses, written from the specification."""

    FORMATS: ClassVar = {4: "I", 5: "i", 6: "f", 7: "?"}

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, layout: str) -> Any:
        values = struct.unpack_from("<" + layout, self.raw, self.at)
        self.at += struct.calcsize("<" + layout)
        return values[0] if len(values) == 1 else values

    def text(self) -> str:
        length = self.take("Q")
        return self.take(f"{length}s").decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            item, count = self.take("IQ")
            return [self.value(item) for _ in range(count)]
        return self.take(self.FORMATS[kind])

    def read(self) -> Gguf:
        magic, version, n_tensors, n_values = self.take("4sIQQ")
        assert (magic, version) == (b"GGUF", 3)
        metadata = {self.text(): self.value(self.take("I")) for _ in range(n_values)}
        infos = []
        for _ in range(n_tensors):
            name, rank = self.text(), self.take("I")
            shape = tuple(self.take("Q") for _ in range(rank))
            infos.append((name, shape, *self.take("IQ")))
        start, tensors = self.at + -self.at % 32, {}
        for name, shape, kind, offset in infos:
            assert offset % 32 == 0
            size = math.prod(shape) * {0: 4, 1: 2}[kind]
            tensors[name] = (shape, kind, self.raw[start + offset : start + offset + size])
            assert len(tensors[name][2]) == size
        return Gguf(metadata, tensors)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("demo") / "demo.gguf")


@pytest.fixture(scope="module")
def gguf(demo: Path) -> Gguf:
    return Reader(demo.read_bytes()).read()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The script's names, without running it as a command."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="make_demo"))


# ------------------------------------------------------------------------------------------- file


def test_bytes_are_the_pinned_ones_every_time(demo: Path, tmp_path: Path, script: SimpleNamespace) -> None:
    again = made(tmp_path / "again.gguf")
    assert again.read_bytes() == demo.read_bytes()
    assert hashlib.sha256(demo.read_bytes()).hexdigest() == script.DEMO_SHA256


def test_file_is_small_and_readable_by_others(demo: Path) -> None:
    assert demo.stat().st_size < 5 * MB
    assert demo.stat().st_mode & 0o777 == 0o644


def test_metadata_describes_a_llama_model(gguf: Gguf) -> None:
    meta = gguf.metadata
    assert meta["general.architecture"] == "llama"
    assert meta["llama.context_length"] == 8192
    assert meta["llama.attention.key_length"] % 32 == 0
    assert meta["tokenizer.ggml.model"] == "gpt2"
    assert "<|im_start|>assistant" in meta["tokenizer.chat_template"]
    assert "enable_thinking" not in meta["tokenizer.chat_template"]


def test_tokens_are_unique_and_cover_all_bytes(gguf: Gguf) -> None:
    tokens = gguf.metadata["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == len(tokens) == gguf.metadata["llama.vocab_size"]
    assert sum(len(token) == 1 for token in tokens) == 256
    known = set(tokens)
    for merge in gguf.metadata["tokenizer.ggml.merges"]:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= known


def test_special_tokens_have_their_types(gguf: Gguf) -> None:
    meta = gguf.metadata
    kinds = dict(zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"], strict=True))
    assert {token for token, kind in kinds.items() if kind == 4} == {"<think>", "</think>"}
    assert {"<|im_start|>", "<|im_end|>", "<|fim_middle|>"} <= {
        token for token, kind in kinds.items() if kind == 3
    }
    assert meta["tokenizer.ggml.tokens"][meta["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_tensors_have_the_shapes_of_the_metadata(gguf: Gguf) -> None:
    width, vocab = gguf.metadata["llama.embedding_length"], gguf.metadata["llama.vocab_size"]
    assert len(gguf.tensors) == 3 + 9 * gguf.metadata["llama.block_count"]
    for name, (shape, kind, _) in gguf.tensors.items():
        assert kind == (0 if name.endswith("norm.weight") else 1)
        assert width in shape
    assert gguf.tensors["token_embd.weight"][0] == gguf.tensors["output.weight"][0] == (width, vocab)


def test_every_word_of_the_language_is_one_token(gguf: Gguf, script: SimpleNamespace) -> None:
    language = sys.modules["_demo_language"]
    ids = script.make_shape().ids
    assert [word for word in language.words() if word not in ids] == []
    assert all(language.followers(word) for word in language.words())


# ------------------------------------------------------------------------------------------- flags


def test_thinking_changes_the_template_only(gguf: Gguf, tmp_path: Path) -> None:
    thinking = Reader(made(tmp_path / "t.gguf", "--thinking").read_bytes()).read()
    assert "<think>" in thinking.metadata["tokenizer.chat_template"]
    assert thinking.tensors == gguf.tensors


def test_endless_never_rewards_the_end(gguf: Gguf, tmp_path: Path) -> None:
    endless = Reader(made(tmp_path / "e.gguf", "--endless").read_bytes()).read()

    def best_of_eos(model: Gguf) -> float:
        (width, vocab), _, raw = model.tensors["output.weight"]
        eos = model.metadata["tokenizer.ggml.eos_token_id"]
        return max(struct.unpack_from(f"<{vocab}e", raw, 2 * width * eos))

    assert best_of_eos(gguf) > 20
    assert best_of_eos(endless) < -20


def test_size_gives_about_that_many_megabytes(tmp_path: Path) -> None:
    large = made(tmp_path / "l.gguf", "--size-mb", 30)
    assert large.stat().st_size == pytest.approx(30 * MB, rel=0.02)
    assert Reader(large.read_bytes()).read().metadata["llama.block_count"] >= 2


def test_arch_is_written_into_the_keys_too(tmp_path: Path) -> None:
    other = Reader(made(tmp_path / "a.gguf", "--arch", "nonesuch").read_bytes()).read()
    assert other.metadata["general.architecture"] == "nonesuch"
    assert other.metadata["nonesuch.block_count"] == 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--size-mb", 0), "choose 10 to 10000"),
        (("--size-mb", "many"), "invalid int"),
        (("--arch", ""), "a name is needed"),
        (("--if-missing", "--endless"), "default model only"),
    ],
)
def test_senseless_flags_exit_2_and_write_nothing(
    tmp_path: Path, flags: tuple[object, ...], says: str
) -> None:
    done = run(tmp_path / "x.gguf", *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples() -> None:
    assert "--size-mb 200" in run("--help").stdout


# --------------------------------------------------------------------------------------- command


def test_prints_one_line_with_size_and_digest(tmp_path: Path, demo: Path) -> None:
    done = run("out.gguf", cwd=tmp_path)
    assert done.stdout.count("\n") == 1
    assert "3.8 MB" in done.stdout
    assert hashlib.sha256(demo.read_bytes()).hexdigest() in done.stdout


def test_if_missing_leaves_the_right_file_alone(tmp_path: Path) -> None:
    out = made(tmp_path / "demo.gguf")
    before = out.stat()
    assert "already there" in run(out, "--if-missing").stdout
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_if_missing_replaces_a_damaged_file(tmp_path: Path, demo: Path) -> None:
    out = tmp_path / "demo.gguf"
    out.write_bytes(demo.read_bytes()[:-1] + b"\xff")
    assert "sha256" in run(out, "--if-missing").stdout
    assert out.read_bytes() == demo.read_bytes()


@pytest.mark.parametrize("out", ["missing/x.gguf", "a_file/x.gguf", "a_folder"])
def test_unwritable_target_exits_1_with_one_line(tmp_path: Path, out: str) -> None:
    (tmp_path / "a_file").touch()
    (tmp_path / "a_folder").mkdir()
    before = sorted(tmp_path.iterdir())
    done = run(tmp_path / out)
    assert done.returncode == 1
    assert done.stderr.startswith(f"make_demo: cannot write {tmp_path / out}: ")
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_write_that_fails_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: both are OSErrors of the same write."""
    out = tmp_path / "demo.gguf"
    out.write_text("the old model")
    # bash sets the limit, not preexec_fn, which is unsafe under threads
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", sys.executable, "-B", str(SCRIPT), str(out)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"make_demo: cannot write {out}: File too large\n"
    assert out.read_text() == "the old model"
    assert list(tmp_path.iterdir()) == [out]


def test_interruption_leaves_no_file(
    tmp_path: Path,
    script: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(shape: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["_demo_weights"], "embedding", interrupted)
    assert script.main([str(tmp_path / "demo.gguf")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_large_file_is_made_in_bounded_memory(tmp_path: Path, script: SimpleNamespace) -> None:
    tracemalloc.start()
    try:
        assert script.main([str(tmp_path / "l.gguf"), "--size-mb", "50"]) == 0
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 30 * MB
