import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.proc.gguf import GgufError, read_header
from tests.support.gguf import I32, LLAMA, U16, WHOLE, header, key, tensor

MAKE_DEMO = Path(__file__).parents[3] / "models" / "make_demo.py"


@pytest.mark.parametrize("missing", [1, 39, 40, 488])
def test_a_missing_byte_of_the_weights_is_named(tmp_path, missing):
    path = tmp_path / "m.gguf"
    path.write_bytes(WHOLE[:-missing])
    with pytest.raises(GgufError) as caught:
        read_header(path)
    assert caught.value.kind == "truncated"
    assert caught.value.message == (
        f"{path}: tensor 'output_norm.weight' ends at byte {len(WHOLE)} of a file of {len(WHOLE) - missing} bytes: "
        f"the file is truncated by {missing} bytes"
    )
    assert read_header(path, allow_truncated=True).missing_bytes == missing


def failure(path, **options):
    with pytest.raises(GgufError) as caught:
        read_header(path, **options)
    return caught.value.kind


def test_files_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    assert failure(tmp_path / "none") == "missing"
    assert failure(tmp_path / "file" / "below") == "missing"
    assert failure(tmp_path / "zero\0byte") == "missing"
    assert failure(tmp_path) == "directory"
    assert failure(tmp_path / "pipe") == "unreadable"
    assert failure(tmp_path / "loop") == "unreadable"
    assert failure(tmp_path / "file") == "empty"
    assert failure(tmp_path / ("x" * 300)) == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_account(tmp_path):
    (tmp_path / "m").write_bytes(WHOLE)
    (tmp_path / "m").chmod(0)
    assert failure(tmp_path / "m") == "unreadable"


def test_the_demo_model(tmp_path):
    out = tmp_path / "demo.gguf"
    subprocess.run(
        [sys.executable, "-B", str(MAKE_DEMO), str(out)], check=True, capture_output=True, timeout=60
    )
    found = read_header(out)
    assert (found.architecture, found.quantisation, found.name) == ("llama", "F16", "llmsup demo")
    assert (found.block_count, found.head_count, found.head_count_kv, found.key_length) == (2, 4, 4, 32)
    assert found.tensors_end == found.file_bytes == out.stat().st_size
    assert found.tensor_bytes == found.file_bytes - found.header_bytes
    assert found.has_chat_template


def part(number, count, tensors, *, total=3, first=()):
    keys = [
        key("split.no", U16, number),
        key("split.count", U16, count),
        key("split.tensors.count", I32, total),
    ]
    raw = header([*first, *keys], tensors)
    return raw + bytes(64 * len(tensors))


def parts(folder, *, declared=3, total=3):
    shapes = [[("a", 0), ("b", 64)], [], [("c", 0)]]
    for number, tensors in enumerate(shapes):
        infos = [tensor(name, (16,), 0, offset) for name, offset in tensors]
        first = LLAMA[:4] if number == 0 else ()
        raw = part(number, declared, infos, total=total, first=first)
        (folder / f"m-{number + 1:05}-of-00003.gguf").write_bytes(raw)
    return folder / "m-00001-of-00003.gguf"


def test_a_split_model_is_the_sum_of_its_parts(tmp_path):
    found = read_header(parts(tmp_path))
    assert (found.parts, found.tensor_count, found.tensor_bytes) == (3, 3, 192)
    assert found.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.header_bytes + found.tensor_bytes == found.tensors_end <= found.file_bytes
    assert (found.architecture, found.context_length, found.type_bytes) == ("llama", 4096, {"f32": 192})
    assert "in 3 parts" in str(found)


def test_missing_and_misnamed_parts(tmp_path):
    path = parts(tmp_path)
    second, third = (tmp_path / f"m-0000{number}-of-00003.gguf" for number in (2, 3))
    with pytest.raises(GgufError, match=r"llama-server wants .*m-00001-of-00003.gguf"):
        read_header(second)
    (tmp_path / "other.gguf").write_bytes(path.read_bytes())
    with pytest.raises(GgufError, match=r"not named -00001-of-00003.gguf"):
        read_header(tmp_path / "other.gguf")
    third.write_bytes(third.read_bytes()[:-1])
    with pytest.raises(GgufError, match=r"00003-of-00003.gguf: tensor 'c' ends .* truncated by 1 bytes"):
        read_header(path)
    third.write_bytes(path.read_bytes())
    with pytest.raises(GgufError, match="does not say that it is part 3 of 3"):
        read_header(path)
    third.unlink()
    second.unlink()
    with pytest.raises(GgufError, match=r"not there: m-00002-of-00003.gguf, m-00003-of-00003.gguf") as caught:
        read_header(path)
    assert caught.value.kind == "missing"


def test_parts_that_do_not_add_up(tmp_path):
    with pytest.raises(GgufError, match="hold 3 tensors instead of 9"):
        read_header(parts(tmp_path, total=9))
    with pytest.raises(GgufError, match="one of 65535 parts"):
        read_header(parts(tmp_path, declared=65_535))
