import re
from pathlib import Path

import pytest

from supervisor.proc import autopsy, causes
from supervisor.proc.remedies import REMEDIES, remedy

PACKAGE = Path(causes.__file__).parent


def given_elsewhere():
    """Causes made by name outside `classify`: in the instance, in the look at the model file."""
    for module in sorted(PACKAGE.glob("*.py")):
        text = module.read_text()
        yield from re.findall(r'Cause\(\s*"(\w+)"', text)
        yield from re.findall(r'ordered or "(\w+)"', text)
        for pair in re.findall(r'name = "(\w+)" if .* else "(\w+)"', text):
            yield from pair
    yield from re.findall(r'"(model_(?:missing|un\w+|corrupt))"', (PACKAGE / "modelfile.py").read_text())


@pytest.mark.parametrize("cause", sorted({*causes.NAMES, *autopsy.ORDERED.values(), *given_elsewhere()}))
def test_every_cause_that_can_be_given_is_explained(cause):
    found = REMEDIES[cause]
    assert found.meaning.endswith(".")
    assert found.todo or cause in autopsy.BY_WISH


def test_the_names_given_elsewhere_are_found():
    assert {"spawn_failed", "not_executable", "cannot_start", "internal_error", "model_missing"} <= {
        *given_elsewhere()
    }


def test_the_model_is_named():
    assert "models.demo.context_size" in remedy("out_of_memory", "demo").todo
    assert not any("{model}" in remedy(cause, "{}").todo for cause in REMEDIES)


def test_a_cause_of_another_version_gets_an_answer():
    assert "llmsup logs demo" in remedy("gremlins", "demo").todo


@pytest.mark.parametrize("cause", sorted(causes.CRASHES))
def test_with_requests_inside_they_are_the_first_thought(cause):
    assert "asked again alone" in remedy(cause, "demo", inside=2).todo
    assert "{" not in remedy(cause, "demo", inside=2).todo
    assert "asked again alone" not in remedy(cause, "demo").todo
    assert remedy("model_corrupt", "demo", inside=1) == remedy("model_corrupt", "demo")
