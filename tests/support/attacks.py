"""What was attacked and fell once, row by row, and the tests that prove that it holds now.

A row is one kind of attack; `LOW` are the smaller ones. Each names tests as ``path::function`` under tests/, which must
exist (tests/unit/test_attacks_covered.py). `python -m tests.support.attacks` prints the table.
"""

import ast
from collections.abc import Mapping
from pathlib import Path

TESTS = Path(__file__).parents[1]
HIGH = range(1, 10)  # of these, each is also shown on the real binary
ROWS = {
    1: "a death whose evidence the client wrote",
    2: "poison that differs by a byte each time",
    3: "an innocent question quarantined for everybody",
    4: "a model file that writes the configuration",
    5: "files of somebody else that are believed",
    6: "large JSON before anybody asks who it is",
    7: "slow heads and slow bodies that take all places",
    8: "parameters and sizes beyond reason",
    9: "one request that is many sequences",
    10: "web pages of other origins, and rebound names",
    11: "tokens that nobody counted",
    12: "tables that clients fill",
    13: "silent connections under TLS",
    14: "loopback believed behind a proxy",
    15: "escapes that reach a terminal",
    16: "streams that outlive their key",
    17: "a cookie that is enough to be admin",
    18: "other clients pushed out of the access log",
}
PROOFS: Mapping[int, tuple[str, ...]] = {}
LOW: Mapping[str, tuple[str, ...]] = {}
# Rows that have no test yet, with the reason; a row leaves this when it gets one.
NOT_BUILT: Mapping[int | str, str] = dict.fromkeys(ROWS, "being mended")


def missing(proofs: Mapping[int | str, tuple[str, ...]], folder: Path = TESTS) -> list[str]:
    """Names of tests that are not there."""
    found: dict[str, frozenset[str]] = {}
    for name in (name for names in proofs.values() for name in names):
        path, _, _ = name.partition("::")
        if path not in found:
            found[path] = _functions(folder / path)
    return [
        name
        for names in proofs.values()
        for name in names
        if name.partition("::")[2] not in found[name.partition("::")[0]]
    ]


def _functions(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def main() -> None:
    for row, title in ROWS.items():
        print(f"{row:>3}  {title}")
        for name in PROOFS.get(row, (f"NOT BUILT: {NOT_BUILT.get(row)}",)):
            print(f"       {name}")
    for title, names in LOW.items():
        print(f"low  {title}")
        for name in names:
            print(f"       {name}")


if __name__ == "__main__":
    main()
