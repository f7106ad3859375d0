"""The entry: ``llmsup`` and ``python -m supervisor``. Nothing heavy before the verb is known."""

import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> None:
    """Run the command; the exit code is the contract's."""
    import supervisor

    if not hasattr(supervisor, "__version__") or not _is_ours():
        # Another well-known tool on the index has the import name `supervisor` too.
        sys.exit(
            "llmsup: error: another package named 'supervisor' is loaded "
            f"({getattr(supervisor, '__file__', '?')}); install llmsup in a virtual environment of its own"
        )
    try:
        from supervisor.cli.main import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the command could say so itself
        code = INTERRUPTED
    sys.exit(code)


def _is_ours() -> bool:
    from importlib.util import find_spec

    return find_spec("supervisor.proxy") is not None


if __name__ == "__main__":
    main()
