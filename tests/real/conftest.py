"""Fixtures of the tests on the real binary. Nothing is skipped: what is missing is made, or the tests fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import BuildError
from supervisor.proc import binary
from tests.support import demo_model as demo_model_maker

ROOT = Path(__file__).parents[2]
BUILD_S = 1800.0  # a first build takes minutes: on two cores about seven


@pytest.fixture(scope="session")
def llama_server_binary(pytestconfig: pytest.Config) -> Path:
    """llama-server: $LLMSUP_TEST_BINARY, else what `auto` finds, else what `llmsup build` builds now."""
    if path := os.environ.get("LLMSUP_TEST_BINARY"):
        return binary.locate(path)
    try:
        return binary.locate("auto")
    except BuildError:
        return _built(pytestconfig)


def _built(config: pytest.Config) -> Path:
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\nno llama-server yet: building one, which takes minutes ...", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "build", "--print-path"],
            cwd=ROOT,
            stdout=subprocess.PIPE,  # the progress goes to the terminal
            text=True,
            timeout=BUILD_S,
            check=False,
        )
    if done.returncode:
        pytest.fail(f"there is no llama-server, and `llmsup build` ended with {done.returncode} (see above)")
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh demo model."""
    return demo_model_maker.make(tmp_path_factory.mktemp("model") / "demo.gguf")
