"""`proxy.continuation.sums`: as if one generation had made the answer."""

from supervisor.proxy.continuation import sums

FIRST = {
    "cache_n": 4, "prompt_n": 6, "prompt_ms": 3.0, "predicted_n": 5, "predicted_ms": 8.0,
    "predicted_per_token_ms": 2.0, "predicted_per_second": 500.0,
}  # fmt: skip
LATER = {
    "cache_n": 0, "prompt_n": 15, "prompt_ms": 9.0, "predicted_n": 4, "predicted_ms": 8.0,
    "predicted_per_token_ms": 2.7, "predicted_per_second": 375.0,
}  # fmt: skip


def test_tokens_sent_move_from_prompt_to_completion():
    new = {
        "completion_tokens": 4,
        "prompt_tokens": 15,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 14},
    }
    assert sums.usage(new, 5, ending=False, names=sums.OPENAI) == {
        "completion_tokens": 9,
        "prompt_tokens": 10,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 10},
    }


def test_what_an_ending_made_is_not_counted():
    new = {"input_tokens": 15, "output_tokens": 1, "total_tokens": 16}
    assert sums.usage(new, 5, ending=True, names=sums.RESPONSES) == {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
    }


def test_timings_are_the_first_prompts_and_the_sum_of_what_was_made():
    assert sums.timings(FIRST, LATER, ending=False) == {
        **FIRST,
        "predicted_n": 9,
        "predicted_ms": 16.0,
        "predicted_per_token_ms": 2.0,
        "predicted_per_second": 500.0,
    }


def test_drafts_are_summed_where_there_are_any():
    summed = sums.timings(FIRST, {**LATER, "draft_n": 3, "draft_n_accepted": 2}, ending=False)
    assert (summed["draft_n"], summed["draft_n_accepted"]) == (3, 2)
    assert "draft_n" not in sums.timings(FIRST, LATER, ending=False)


def test_timings_nobody_has_the_first_part_of_stay_as_they_are():
    assert sums.timings(None, LATER, ending=False) == LATER
    assert sums.timings(FIRST, LATER, ending=True) == FIRST
