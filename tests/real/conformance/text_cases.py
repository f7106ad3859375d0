"""Text completed: llama-server's own form, OpenAI's older one, and the filling of a gap."""

from collections.abc import Iterator
from typing import Any

from tests.real.conformance.case import Case, both, each
from tests.real.conformance.chat_cases import HOT, INDENTED, LISTED, QUOTED, SCHEMA, TOO_LONG, WILD

NATIVE, TEXT, INFILL = "/completion", "/v1/completions", "/infill"

NATIVE_BASE = {"prompt": "Once upon", "temperature": 0, "seed": 7, "n_predict": 16}
TEXT_BASE = {"prompt": "Once upon", "temperature": 0, "seed": 7, "max_tokens": 16}
INFILL_BASE = {
    "input_prefix": "The cat",
    "input_suffix": " again.",
    "temperature": 0,
    "seed": 7,
    "n_predict": 12,
}

NATIVE_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own-end": {"n_predict": ...},
    "no-token": {"n_predict": 0},
    "one-token": {"n_predict": 1},
    "tokens": {"prompt": [72, 105, 300]},
    "mixed": {"prompt": [72, " and ", 300]},
    "prompts": {"prompt": ["Once", [72, 105], ["a", 300]]},
    "one-prompt-in-a-list": {"prompt": ["Once"]},
    "empty": {"prompt": ""},
    "unicode": {"prompt": "日本語 \U0001f642 \x00"},
    "several": {"n_cmpl": 2, **HOT},
    "stop": {"stop": ["but my sister"], "n_predict": 100},
    "stop-half-seen": {"stop": ["in winter"]},
    "own-words-as-text": {"prompt": 'a "stream":true,"n_probs":9}', "stop": ['"stream":true']},
    "n-probs": {"n_probs": 3, "n_predict": 6},
    "n-probs-zero-like": {"n_probs": 1, "n_predict": 6, **HOT},
    "n-probs-and-stop": {"n_probs": 2, "stop": ["but my sister"], "n_predict": 100},
    "probabilities-after-sampling": {"n_probs": 3, "post_sampling_probs": True, "n_predict": 6},
    "stream-false": {"stream": False},
    "hot": HOT,
    **WILD,
    "mirostat": {**HOT, "mirostat": 2, "mirostat_tau": 4.0},
    "penalties": {"repeat_penalty": 1.1, "repeat_last_n": 16, "dry_multiplier": 0.5, "n_predict": 40},
    "logit-bias": {"logit_bias": [[300, 5.5], ["Hello", -1], [301, False]]},
    "grammar": {"grammar": 'root ::= "yes" | "no"'},
    "escapes": {"grammar": QUOTED, "n_predict": 60},
    "cut-in-a-character": {"grammar": 'root ::= "日本語"', "n_predict": 4},
    "json-schema": {"json_schema": SCHEMA, "n_predict": 200},
    "json-schema-array": {"json_schema": LISTED, "n_predict": 100},
    "tokens-returned": {"return_tokens": True, "n_predict": 6},
    "some-fields": {"response_fields": ["content", "generation_settings/n_predict", "stop_type"]},
    "timings": {"timings_per_token": True, "n_predict": 4},
    "progress": {"return_progress": True, "n_predict": 4},
    "indented": {"n_indent": 2, "grammar": INDENTED, "n_predict": 40},
    "time-limit": {"t_max_predict_ms": 60000},
    "cache-asked": {"cache_prompt": False, "id_slot": 1},
    "samplers-a-number": {"samplers": 5},
    "lora-none": {"lora": []},
    "fills-the-context": {"prompt": "a " * 980, "ignore_eos": True, "n_predict": ...},
}
NATIVE_REFUSED: dict[str, dict[str, Any]] = {
    "no-prompt": {"prompt": ...},
    "prompt-a-number": {"prompt": 5},
    "bad-grammar": {"grammar": "root ::= ["},
    "bad-schema": {"json_schema": {"type": "nosuch"}},
    "too-long": {"prompt": TOO_LONG},
    "n-probs-a-word": {"n_probs": "x"},
}
TEXT_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own-end": {"max_tokens": ...},
    "no-token": {"max_tokens": 0},
    "stream-false": {"stream": False},
    "several": {"n": 3, **HOT},
    **WILD,
    "prompts": {"prompt": ["Once", "My cat"]},
    "tokens": {"prompt": [72, 105]},
    "stop": {"stop": ["."], "max_tokens": 100},
    "stop-half-seen": {"stop": ["in winter"]},
    "logprobs": {"logprobs": 3, "max_tokens": 5},
    "logprobs-hot": {"logprobs": 2, **HOT},
    "logprobs-and-stop": {"logprobs": 2, "stop": ["but my sister"], "max_tokens": 100},
    "echo": {"echo": True},
    "suffix": {"suffix": " again."},
    "best-of": {"best_of": 1, "user": "me"},
    "usage": {"stream_options": {"include_usage": True}},
    "escapes": {"grammar": QUOTED, "max_tokens": 60},
    "cut-in-a-character": {"grammar": 'root ::= "日本語"', "max_tokens": 4},
    "json-schema": {"json_schema": SCHEMA, "max_tokens": 200},
    "other-model-name": {"model": "gpt-3.5-turbo-instruct"},
    "verbose": {"verbose": True, "max_tokens": 4},
    "timings": {"timings_per_token": True, "max_tokens": 4},
}
INFILL_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompted": {"prompt": " sees"},
    "context": {"input_extra": [{"filename": "a.txt", "text": "The dog."}]},
    "empty": {"input_prefix": "", "input_suffix": ""},
    "n-probs": {"n_probs": 2},
}


def cases() -> Iterator[Case]:
    yield from each("completion", NATIVE, NATIVE_BASE, NATIVE_OPTIONS)
    yield from each("completion/refused", NATIVE, NATIVE_BASE, NATIVE_REFUSED, status=400)
    two = {**NATIVE_BASE, "prompt": ["Once", TOO_LONG]}
    # As a stream it depends on which of the two llama-server begins with: 200 or 400, asked directly too.
    yield Case(id="completion/refused/one-of-two", path=NATIVE, body=two, status=400)
    yield from both("completion/plural", "/completions", NATIVE_BASE)
    yield from each("text", TEXT, TEXT_BASE, TEXT_OPTIONS)
    yield from each("text/refused", TEXT, TEXT_BASE, {"no-prompt": {"prompt": ...}}, status=400)
    yield from each("text/refused", TEXT, TEXT_BASE, {"too-long": {"prompt": TOO_LONG}}, status=400)
    yield from each("infill", INFILL, INFILL_BASE, INFILL_OPTIONS)
    yield from each("infill/failed", INFILL, INFILL_BASE, {"no-prefix": {"input_prefix": ...}}, status=500)
    yield from each("infill/failed", INFILL, INFILL_BASE, {"no-suffix": {"input_suffix": ...}}, status=500)
