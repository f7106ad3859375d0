"""`make fuzz`: libFuzzer, guided by coverage of our side, on the whole reading half of the wire.

    python -m tests.fuzz.parser [libFuzzer options: -max_total_time=60, -runs=1000000, a file to try again]

atheris (Apache-2.0) is not among the pinned tools, for it is a large binary that only this needs. What is found
is kept beside the corpus as crash-*; put it into the corpus under a name that says what it was.
"""

import sys
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
HOW = "atheris is not installed here: {python} -m pip install atheris (Linux and macOS, CPython)"
DEFAULTS = ["-max_total_time=60", "-max_len=4096", f"-artifact_prefix={CORPUS.parent}/"]
PIECES = 4


def one(data: bytes) -> None:
    """The first bytes say where to cut the others."""
    from tests.fuzz.checks import check

    places, raw = data[:PIECES], data[PIECES:]
    check(raw, [place * (len(raw) + 1) // 256 for place in places])


def seeds() -> list[bytes]:
    """The corpus, as `one` wants it."""
    return [bytes([40, 80, 120, 200]) + path.read_bytes() for path in sorted(CORPUS.glob("*.http"))]


def main() -> int:
    try:
        import atheris
    except ImportError:
        print(HOW.format(python=sys.executable), file=sys.stderr)
        return 1
    with atheris.instrument_imports(include=["supervisor.proxy", "tests.fuzz.checks"]):
        import tests.fuzz.checks  # noqa: F401  so that it is instrumented
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], *DEFAULTS, *sys.argv[1:], folder], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
