"""llama-server's text: believed in nothing."""

import pytest

from supervisor.observe.metrics_child import MOST_BYTES, MOST_SAMPLES, families


def test_only_its_own_prefix_comes_through() -> None:
    found = families("# TYPE llm_requests_total counter\nllm_requests_total 5\nllamacpp:x 1\nup 1\n", "m")
    assert [one.name for one in found] == ["llamacpp:x"]


def test_a_model_label_of_its_own_does_not_win() -> None:
    (family,) = families('llamacpp:x{model="other",position="1"} 1\n', "m")
    assert family.samples[0].labels == {"model": "m", "position": "1"}


def test_a_counter_that_is_not_called_one_keeps_its_name_and_is_of_no_known_kind() -> None:
    (family,) = families("# TYPE llamacpp:odd counter\nllamacpp:odd 1\n", "m")
    assert (family.samples[0].name, family.type) == ("llamacpp:odd", "unknown")


def test_a_histogram_is_not_passed_on_as_one() -> None:
    text = (
        '# TYPE llamacpp:h histogram\nllamacpp:h_bucket{le="+Inf"} 1\nllamacpp:h_sum 1\nllamacpp:h_count 1\n'
    )
    (family,) = families(text, "m")
    assert family.type == "unknown"


def test_there_are_never_more_samples_than_that() -> None:
    text = "".join(f'llamacpp:x{{i="{number}"}} 1\n' for number in range(MOST_SAMPLES + 50))
    assert sum(len(one.samples) for one in families(text, "m")) == MOST_SAMPLES


@pytest.mark.parametrize("text", ["llamacpp:x{", "llamacpp:x not-a-number\n", "a" * (MOST_BYTES + 1)])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        families(text, "m")
