"""Every row of what was attacked has tests that exist, and the high ones have one on the real binary."""

from pathlib import Path

from tests.support.attacks import HIGH, LOW, NOT_BUILT, PROOFS, ROWS, missing


def test_every_row_has_a_test_or_a_reason() -> None:
    assert set(PROOFS) | set(NOT_BUILT) >= set(ROWS)
    assert not set(PROOFS) & set(NOT_BUILT)
    assert all(names for names in [*PROOFS.values(), *LOW.values()])


def test_each_test_that_is_named_exists() -> None:
    assert not missing({**PROOFS, **LOW})


def test_the_high_rows_are_shown_on_the_real_binary() -> None:
    real = {row for row, names in PROOFS.items() if any(name.startswith("real/") for name in names)}
    assert real | set(NOT_BUILT) >= set(HIGH)


def test_a_test_that_is_not_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("async def test_a(): ...\ndef helper(): ...\n")
    proofs: dict[int | str, tuple[str, ...]] = {
        1: ("test_x.py::test_a", "test_x.py::test_b"),
        "low": ("test_x.py::helper", "test_y.py::test_a"),
    }
    assert missing(proofs, tmp_path) == ["test_x.py::test_b", "test_x.py::helper", "test_y.py::test_a"]
