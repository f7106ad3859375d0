"""Fixtures of the tests on the real binary."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def llama_server_binary() -> Path:
    """llama-server, from LLMSUP_TEST_BINARY."""
    path = os.environ.get("LLMSUP_TEST_BINARY")
    if not path:
        pytest.skip("LLMSUP_TEST_BINARY is not set")
    return Path(path)


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh demo model."""
    out = tmp_path_factory.mktemp("model") / "demo.gguf"
    subprocess.run(
        [sys.executable, "-B", str(ROOT / "models" / "make_demo.py"), str(out)], check=True, timeout=60
    )
    return out
