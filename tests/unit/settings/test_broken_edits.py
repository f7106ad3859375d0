"""Each kind of broken edit is refused with the right line and column, in words that help."""

from pathlib import Path

import pytest

from supervisor.settings.load import load
from supervisor.settings.problems import SettingsError
from tests.support.broken_edits import BASE, EDITS, Edit

HEAD = "models: {demo: {path: m.gguf}}\n"


def test_there_are_more_than_twenty_and_each_is_another() -> None:
    assert len(EDITS) > 20
    assert len({edit.change(BASE) for edit in EDITS}) == len({edit.name for edit in EDITS}) == len(EDITS)


def test_what_they_are_edits_of_is_good(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(HEAD + BASE)
    assert load(file, {}).settings.proxy.queue_size == 100


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_is_refused_where_it_is_wrong(tmp_path: Path, edit: Edit) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(HEAD + edit.change(BASE))
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    said = str(caught.value).splitlines()
    place = f"{file}:{edit.line + 1}:{edit.column}: "
    assert any(line.startswith(place) and edit.said in line for line in said), said
