#!/usr/bin/env python3
"""A stand-in for llama-server, for tests in which timing and faults must be exact: real port, real signals.

    python tests/support/fake_llama_server.py -m FILE --port N [llama-server's flags]

Without switches it behaves as llama-server 0.5.0-dev does (LLAMA_SERVER.md); the switches that make it fail
are listed in ``tests/support/fake/switches.py`` and come from ``FAKE_*`` environment variables, from the JSON
file named by ``FAKE_CONTROL``, and from a request's own ``"fake": {...}``.

This file is only the door: the rooms are modules of their own, so that Python caches their byte code and the
port is bound within 100 ms. ``write_wrapper`` makes an executable that a supervisor can be pointed at.
"""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def write_wrapper(path: str | os.PathLike[str], **switches: object) -> str:
    """Write an executable at `path` that runs the fake with this interpreter, and return the path.

    Faster to start than the shebang where ``python3`` is a shim, and quicker than plain ``python`` because
    nothing of the virtual environment is needed (``-I -S``). `switches` become ``FAKE_*`` defaults.
    """
    import shlex  # 6 ms that the program itself does not need

    lines = ["#!/bin/sh"]
    for name, value in switches.items():
        variable = f"FAKE_{name.upper()}"
        text = str(int(value)) if isinstance(value, bool) else str(value)
        lines.append(f'[ -n "${{{variable}+set}}" ] || export {variable}={shlex.quote(text)}')
    command = shlex.join([sys.executable, "-I", "-S", os.path.abspath(__file__)])
    lines.append(f'exec {command} "$@"')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    os.chmod(path, 0o755)  # llama-server's own mode
    return os.fspath(path)


if __name__ == "__main__":
    sys.path.insert(0, ROOT)
    from tests.support.fake.process import main

    main(sys.argv[1:])
