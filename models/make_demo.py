"""Makes models/demo.gguf: a tiny but real llama model that llama-server loads and serves.

Standard library only, no download, the same bytes on every machine. How it works: _demo_weights.py.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from _demo_weights import MB, Variant, large, make_shape, metadata, tensors
from _gguf_writer import save

DEFAULT_OUT = Path(__file__).resolve().parent / "demo.gguf"
# Pins the default file: --if-missing compares with it, and a test generates and compares.
DEMO_SHA256 = "08b6e9df162a4a561b1e8f8a2fe3ecb675205aa0583ad8b397cebbd4781ac663"
MIN_SIZE_MB, MAX_SIZE_MB = (
    10,
    10_000,
)  # below, the default model is the answer; above, llama.cpp's 512 layers end

EXAMPLES = """examples:
  python models/make_demo.py                               models/demo.gguf, the embedded demo model
  python models/make_demo.py --if-missing                  the same, unless that very file is there
  python models/make_demo.py /tmp/slow.gguf --size-mb 200  a slower one, for cancellation tests
  python models/make_demo.py /tmp/loop.gguf --endless      replies run until max_tokens
"""


def parser() -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(
        prog="make_demo.py",
        description="Make the tiny demo model. Same bytes on every machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_argument(
        "out", nargs="?", type=Path, default=DEFAULT_OUT, metavar="OUT", help=f"default: {DEFAULT_OUT}"
    )
    cli.add_argument(
        "--if-missing", action="store_true", help="do nothing when OUT is already this demo model"
    )
    cli.add_argument("--endless", action="store_true", help="the end of the reply is never sampled")
    cli.add_argument("--thinking", action="store_true", help="the chat template opens a <think> block")
    cli.add_argument(
        "--size-mb", type=int, metavar="N", help=f"a larger, slower file ({MIN_SIZE_MB}..{MAX_SIZE_MB})"
    )
    cli.add_argument(
        "--arch", default="llama", help="write another general.architecture (such files do not load)"
    )
    return cli


def check(cli: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exits with status 2 where the flags make no sense."""
    size_mb = options.size_mb
    if size_mb is not None and not MIN_SIZE_MB <= size_mb <= MAX_SIZE_MB:
        cli.error(f"--size-mb {size_mb}: choose {MIN_SIZE_MB} to {MAX_SIZE_MB}")
    if not options.arch:
        cli.error("--arch: a name is needed")
    other = size_mb is not None or options.endless or options.thinking or options.arch != Variant().arch
    if options.if_missing and other:
        cli.error("--if-missing knows the default model only: leave it or the other flags out")


def is_demo(path: Path) -> bool:
    """Whether `path` holds exactly the default model: a few milliseconds, and damage is seen too."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == DEMO_SHA256
    except OSError:
        return False  # then writing it gives the error, if there still is one


def main(arguments: list[str] | None = None) -> int:
    cli = parser()
    options = cli.parse_args(arguments)
    check(cli, options)
    out: Path = options.out
    if options.if_missing and is_demo(out):
        print(f"{out}: already there")
        return 0
    try:
        print(make(out, options))
    except OSError as error:
        print(f"make_demo: cannot write {out}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"make_demo: interrupted, {out} is as it was", file=sys.stderr)
        return 130
    return 0


def make(out: Path, options: argparse.Namespace) -> str:
    """Write the variant asked for and say what was made. Raises OSError."""
    shape = make_shape()
    layers, ffn = large(options.size_mb, shape) if options.size_mb else (Variant().layers, Variant().ffn)
    variant = Variant(layers, ffn, options.endless, options.thinking, options.arch)
    digest = save(out, metadata(shape, variant), tensors(shape, variant))
    if variant == Variant() and digest != DEMO_SHA256:
        print("make_demo: note: not the pinned digest; after a change here, set DEMO_SHA256", file=sys.stderr)
    return (
        f"{out}: {out.stat().st_size / MB:.1f} MB, {variant.arch}, {layers} layers of width {shape.width}, "
        f"{len(shape.tokens)} tokens, sha256 {digest}"
    )


if __name__ == "__main__":
    sys.exit(main())
