"""Text out of numbers, in both formats."""

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from supervisor.observe.metrics import FAMILIES, LATENCY_S, Tally
from supervisor.observe.metrics_child import families
from supervisor.observe.metrics_page import Page, Renderer

CHILD = """# HELP llamacpp:n_decode_total Decodes.
# TYPE llamacpp:n_decode_total counter
llamacpp:n_decode_total 7
# HELP llamacpp:busy Ratio.
# TYPE llamacpp:busy gauge
llamacpp:busy 0.5
"""
FORMATS = {"": prometheus, "application/openmetrics-text; version=1.0.0": openmetrics}


def full() -> Page:
    page = Page()
    tally = Tally(LATENCY_S)
    tally.observe(0.2)
    page.add("llm_requests_total", 5, 'de"mo\\\n', "/v1/chat/completions", "200", "user")
    page.add_tally("llm_latency_seconds", tally, "demo", "other")
    page.add_foreign([*families(CHILD, "a"), *families(CHILD, "b")])
    return page


def samples(accept: str, page: Page) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = Renderer(accept).whole(page).decode()
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in FORMATS[accept](text)
        for one in family.samples
    }


@pytest.mark.parametrize("accept", FORMATS)
def test_what_was_put_in_is_read_back(accept: str) -> None:
    found = samples(accept, full())
    labels = {"model": 'de"mo\\\n', "endpoint": "/v1/chat/completions", "status": "200", "pool": "user"}
    assert found["llm_requests_total", frozenset(labels.items())] == 5
    of = {"model": "demo", "endpoint": "other"}
    assert found["llm_latency_seconds_bucket", frozenset((of | {"le": "0.1"}).items())] == 0
    assert found["llm_latency_seconds_bucket", frozenset((of | {"le": "0.25"}).items())] == 1
    assert found["llm_latency_seconds_bucket", frozenset((of | {"le": "+Inf"}).items())] == 1
    assert found["llm_latency_seconds_sum", frozenset(of.items())] == 0.2
    for model in "ab":
        assert found["llamacpp:n_decode_total", frozenset({("model", model)})] == 7
        assert found["llamacpp:busy", frozenset({("model", model)})] == 0.5


@pytest.mark.parametrize("accept", FORMATS)
def test_each_family_is_announced_once_whoever_brings_it(accept: str) -> None:
    lines = Renderer(accept).whole(full()).decode().splitlines()
    announced = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(announced) == len(set(announced))
    names = {one.name if not accept else one.name.removesuffix("_total") for one in FAMILIES.values()}
    assert names <= set(announced)


def test_the_content_type_says_which_format_it_is() -> None:
    assert Renderer("").kind.startswith("text/plain; version=0.0.4")
    assert Renderer("application/openmetrics-text; version=1.0.0").kind.startswith(
        "application/openmetrics-text"
    )
    assert Renderer("application/openmetrics-text; version=1.0.0").whole(Page()).endswith(b"\n# EOF\n")
    assert b"# EOF" not in Renderer("text/html").whole(Page())


def test_labels_must_be_as_many_as_the_table_says() -> None:
    with pytest.raises(ValueError, match="zip"):
        Page().add("llm_active_requests", 1)


def test_a_foreign_family_of_another_kind_is_left_out() -> None:
    page = Page()
    page.add_foreign(families(CHILD, "a"))
    page.add_foreign(families(CHILD.replace("busy gauge", "busy counter").replace("busy", "busy_total"), "b"))
    page.add_foreign(families("# TYPE llamacpp:busy untyped\nllamacpp:busy 1\n", "c"))
    text = Renderer("").whole(page).decode()
    assert 'llamacpp:busy{model="a"}' in text
    assert 'model="c"' not in text
