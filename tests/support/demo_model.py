"""The demo model and its variants, made by the project's own generator."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "models" / "make_demo.py"


def make(out: Path, *flags: str) -> Path:
    """What models/make_demo.py writes to `out` with these flags."""
    command = [sys.executable, "-B", str(SCRIPT), str(out), *flags]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return out
