from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.errors import BuildError
from supervisor.proc.building import fetch, source
from supervisor.proc.building.progress import Silent
from tests.support import fake_build

GOT = "1" * 64


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("/usr/bin/python3: No module named pip", "pip is missing (/"),
        (f"    Expected sha256 {source.PIN.sha256}\n         Got        {GOT}", f"got {GOT}"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "SSLError(... CERTIFICATE_VERIFY_FAILED ...)\nNo matching distribution",
            "certificate is not trusted",
        ),
        ("NewConnectionError('...')\nNo matching distribution", "the Python package index cannot be reached"),
        ("Temporary failure in name resolution", "the Python package index cannot be reached"),
        ("ERROR: No matching distribution found", "has no source archive of llama-cpp-python 0.3.36"),
        ("something new", "pip could not download llama-cpp-python 0.3.36"),
    ],
)
def test_what_pip_says_becomes_one_line(output, expected):
    error = fetch.explain(output, source.PIN, Path("/cache/archive"))
    assert expected in str(error)
    assert "\n" not in str(error)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of archives is pip's whole index: no network."""
    for name, value in {
        "NO_INDEX": "1",
        "FIND_LINKS": str(tmp_path / "index"),
        "CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "index"


def test_pip_fetches_without_running_anything_of_the_archive(tmp_path, index):
    """The archive's build backend does not exist and its setup.py raises: neither is looked at."""
    pin = fake_build.sdist(index)
    target = tmp_path / "cache" / pin.filename
    fetch.with_pip(pin, target, Silent(), 2)
    assert source.sha256(target) == pin.sha256
    assert list(target.parent.iterdir()) == [target]


def test_another_file_under_the_name_is_named_by_both_hashes(tmp_path, index):
    pin = fake_build.sdist(index)
    wrong = replace(pin, sha256="0" * 64)
    with pytest.raises(BuildError, match=f"expected sha256 {'0' * 64}, got {pin.sha256}"):
        fetch.with_pip(wrong, tmp_path / "cache" / pin.filename, Silent(), 2)
    assert list((tmp_path / "cache").iterdir()) == []
