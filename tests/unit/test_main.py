"""`python -m supervisor`: the right package, or one line that says what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

import supervisor
from supervisor import __main__

ROOT = Path(__file__).parents[2]


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


def test_runs_as_a_module() -> None:
    result = python("-m", "supervisor", "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"llmsup, version {supervisor.__version__}\n"


def test_the_exit_code_of_a_verb_is_the_processs() -> None:
    assert python("-m", "supervisor", "no-such-verb").returncode == 2


def test_another_package_of_that_name_is_refused_in_one_line(tmp_path: Path) -> None:
    """As when both are installed in one environment, and the other one is found first."""
    other = tmp_path / "supervisor"
    other.mkdir()
    (other / "__init__.py").write_text("")
    (other / "__main__.py").write_bytes(Path(__main__.__file__).read_bytes())
    result = python("-m", "supervisor", "status", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("llmsup: error: another package named 'supervisor' is loaded (")
    assert str(other / "__init__.py") in line
    assert line.endswith("install llmsup in a virtual environment of its own")


def test_another_package_with_a_version_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "_is_ours", lambda: False)
    with pytest.raises(SystemExit, match=r"^llmsup: error: another package named 'supervisor'"):
        __main__.main()


def test_nothing_heavy_is_loaded_before_the_verb_is_known() -> None:
    code = "import sys, supervisor.__main__; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = set(python("-c", code).stdout.split())
    assert "supervisor" in loaded
    assert not loaded & {"asyncio", "click", "httpx", "pydantic", "psutil", "structlog", "uvicorn", "yaml"}
