"""Every row of the list of faults has a test, and those that can be provoked on the real binary have one there."""

from pathlib import Path

import pytest

from tests.support.faults import NOT_BUILT, ROWS, proofs

# What cannot be provoked on the real binary, or would be the same test again: the fault is not in the child.
NOT_REAL = {
    5: "a model that dies at once is one that fails for good: the real one gives its reason",
    13: "the real one does not fall silent when asked to",
    17: "three kills for hanging take minutes; which child it is makes no difference",
    19: "the fault is not in the child",
    20: "the fault is not in the child",
    25: "the fault is not in the child",
    27: "the fault is not in the child",
    28: "the fault is not in the child",
    31: "the real one writes a few lines a request",
    33: "its memory does not grow on demand",
    34: "too slow for a test; `python -m tests.chaos.soak` does a thousand",
}


def test_every_row_has_a_test_or_is_not_built() -> None:
    covered = {proof.row for proof in proofs()} & set(ROWS)
    assert covered | set(NOT_BUILT) == set(ROWS)
    assert not covered & set(NOT_BUILT)


def test_every_row_that_can_be_is_tested_on_the_real_binary() -> None:
    real = {proof.row for proof in proofs() if proof.level == "real"} & set(ROWS)
    assert real | set(NOT_REAL) == set(ROWS)
    assert not real & set(NOT_REAL)


def test_a_mark_is_found_and_nonsense_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "real" / "test_x.py"
    file.parent.mkdir()
    file.write_text("@pytest.mark.fault(3, 7)\nasync def test_a(): ...\ndef test_b(): ...\n")
    assert [(one.row, one.level, one.name) for one in proofs(tmp_path)] == [
        (3, "real", "real/test_x.py::test_a"),
        (7, "real", "real/test_x.py::test_a"),
    ]
    file.write_text("@pytest.mark.fault('3')\ndef test_a(): ...\n")
    with pytest.raises(ValueError, match="not row numbers"):
        proofs(tmp_path)
