"""Which test proves which row of the list of faults: `python -m tests.support.faults` prints the table.

A test says so itself, by ``@pytest.mark.fault(4, 12)``. The marks are read from the sources, without importing them.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
# What a test runs on, by the folder it is in.
LEVELS = {"unit": "unit", "integration": "fake", "real": "real"}
ROWS = {
    1: "dies while idle",
    2: "dies before the first byte",
    3: "dies in the middle of a stream",
    4: "dies again and again, under load",
    5: "dies at once, every time",
    6: "dies soon after READY, every time",
    7: "model or flag it cannot start with",
    8: "runs out of memory",
    9: "a request that kills it twice",
    10: "leaves grandchildren, ignores SIGTERM",
    11: "forks and the parent exits; zombie",
    12: "SIGSTOP, idle and busy",
    13: "accepts and says nothing",
    14: "slow and healthy",
    15: "loads without progress",
    16: "ignores SIGTERM at stop; requests in flight at stop",
    17: "kills for hanging are rationed",
    18: "child's port taken, or stolen",
    19: "proxy's port taken",
    20: "start twice, and twenty times at once",
    21: "commands that meet",
    22: "binary missing, foreign, not executable",
    23: "daemon killed",
    24: "daemon killed between fork and record; while it writes",
    25: "stale pid",
    26: "SIGTERM with streams running",
    27: "daemon stopped for long; clock set",
    28: "unhandled exception in one task",
    29: "SIGHUP; closed outputs",
    30: "disk full; log folder removed",
    31: "too much output",
    32: "no descriptors; no processes",
    33: "memory above the limit",
    34: "10,000 cycles",
    35: "does not fit",
}
# No test, for there is nothing to test yet; a row must leave this when it gets one.
NOT_BUILT: dict[int, str] = {}


@dataclass(frozen=True, slots=True)
class Proof:
    """One test that carries the mark."""

    row: int
    level: str
    name: str  # path::function


def proofs(folder: Path = TESTS) -> list[Proof]:
    """All there are, by row and then by level."""
    found = [proof for path in sorted(folder.rglob("test_*.py")) for proof in _of_file(path, folder)]
    return sorted(found, key=lambda proof: (proof.row, list(LEVELS.values()).index(proof.level)))


def _of_file(path: Path, folder: Path) -> Iterator[Proof]:
    where = path.relative_to(folder)
    text = path.read_text(encoding="utf-8")
    if "mark.fault" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                for row in _rows(decorator):
                    yield Proof(row, LEVELS[where.parts[0]], f"{where}::{node.name}")


def _rows(decorator: ast.expr) -> list[int]:
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "pytest.mark.fault":
        return []
    rows = [ast.literal_eval(argument) for argument in decorator.args]
    if not rows or any(type(row) is not int for row in rows):
        raise ValueError(f"not row numbers: {ast.unparse(decorator)}")
    return rows


def main() -> None:
    by_row: dict[int, list[Proof]] = defaultdict(list)
    for proof in proofs():
        by_row[proof.row].append(proof)
    for row, title in ROWS.items():
        levels = [level for level in LEVELS.values() if level in {proof.level for proof in by_row[row]}]
        print(f"{row:>2}  {title}  [{', '.join(levels) or 'NOT BUILT: ' + NOT_BUILT.get(row, '?')}]")
        for proof in by_row[row]:
            print(f"        {proof.level:<5} {proof.name}")


if __name__ == "__main__":
    main()
