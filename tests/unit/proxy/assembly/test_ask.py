"""`proxy.assembly.ask`: what is asked as a stream, with which body, and what is not."""

import json

import pytest

from supervisor.proxy.assembly import as_stream, with_progress
from supervisor.proxy.assembly.ask import CONSIDERED, EXEMPT, FORMS, Form, why_not

NATIVE, TEXT, CHAT = b"/completion", b"/v1/completions", b"/v1/chat/completions"
MESSAGES, RESPONSES = b"/v1/messages", b"/v1/responses"
PATHS = tuple(FORMS)


def rewritten(path, **options):
    parsed = {"prompt": "x", **options}
    return as_stream(path, json.dumps(parsed).encode(), parsed)


@pytest.mark.parametrize("path", PATHS)
def test_every_form_asks_for_a_stream_and_keeps_the_rest(path):
    body = rewritten(path, temperature=0.1)
    assert body is not None
    parsed = json.loads(body)
    assert parsed["stream"] is True
    assert (parsed["prompt"], parsed["temperature"]) == ("x", 0.1)


def test_chat_asks_for_its_usage():
    assert json.loads(rewritten(CHAT))["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("path", [TEXT, CHAT, RESPONSES])
def test_forms_without_a_count_of_their_own_ask_for_one(path):
    assert json.loads(rewritten(path))["timings_per_token"] is True


def test_the_native_form_shows_its_settings_so_only_progress_is_asked():
    assert rewritten(NATIVE) == b'{"prompt": "x","stream":true,"return_progress":true}'


@pytest.mark.parametrize(
    "path", [b"/v1/embeddings", b"/tokenize", b"/v1/chat/completions/input_tokens", b"/"]
)
def test_other_paths_are_no_concern(path):
    assert rewritten(path) is None


@pytest.mark.parametrize(
    ("path", "options"),
    [
        *((path, {"stream": True}) for path in PATHS),
        *((path, {"stream": "yes"}) for path in PATHS),
        *((path, {"stream": []}) for path in PATHS),
        *((path, {"stream": 0}) for path in PATHS),
        (CHAT, {"verbose": True}),
        (TEXT, {"verbose": True}),
        (CHAT, {"logprobs": True}),
        (CHAT, {"logprobs": True, "top_logprobs": 2}),
        (CHAT, {"top_logprobs": 2}),
        (CHAT, {"n_probs": 1}),
        (RESPONSES, {"logprobs": True}),
        (CHAT, {"continue_final_message": True}),
        (CHAT, {"continue_final_message": "content"}),
        (CHAT, {"reasoning_format": "deepseek-legacy"}),
        (CHAT, {"n_indent": 2}),
        (NATIVE, {"n_indent": 2}),
        (NATIVE, {"return_tokens": True}),
        (NATIVE, {"response_fields": ["content"]}),
        (NATIVE, {"n_probs": 2, "stop": ["a"]}),
        (NATIVE, {"logprobs": 2, "stop": "a"}),
        (TEXT, {"logprobs": 2, "stop": ["a"]}),
        (RESPONSES, {"n": 2}),
        (RESPONSES, {"n_cmpl": 2}),
        (CHAT, {"stream_options": {"include_usage": "yes"}}),
        (CHAT, {"stream_options": {"include_usage": 1}}),
        (CHAT, {"timings_per_token": "yes"}),
        (CHAT, {"timings_per_token": 0}),
        (CHAT, {"return_progress": 7}),
    ],
)
def test_asked_as_it_is(path, options):
    assert rewritten(path, **options) is None


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (CHAT, {"stream": False}),
        (CHAT, {"stream": None}),
        (CHAT, {"verbose": False, "logprobs": None, "n_probs": 0, "n_indent": 0, "stream_options": None}),
        (CHAT, {"n": 3}),
        (CHAT, {"return_tokens": True}),
        (CHAT, {"reasoning_format": "none"}),
        (NATIVE, {"n_probs": 2, "stop": []}),
        (NATIVE, {"response_fields": [], "return_tokens": False}),
        (TEXT, {"logprobs": 2}),
        (RESPONSES, {"n": 1}),
        (
            MESSAGES,
            {"verbose": True, "n": 2, "logprobs": True, "return_progress": 7},
        ),  # not passed on from there
    ],
)
def test_asked_as_a_stream(path, options):
    assert rewritten(path, **options) is not None


TOLD_APART = [
    (CHAT, {}),
    (CHAT, {"return_progress": False}),
    (CHAT, {"messages": [{"role": "user", "content": "x"}]}),
    (TEXT, {"prompt": [1, 2, 3]}),
]
NOT_TOLD_APART = [
    (CHAT, {"n": 2}),
    (CHAT, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "On"}]}),
    (CHAT, {"reasoning_format": "none"}),
    (TEXT, {"prompt": ["x", "y"]}),
    (RESPONSES, {}),
    (MESSAGES, {}),
]


@pytest.mark.parametrize(("path", "options"), TOLD_APART)
def test_progress_is_asked_for_so_that_leaving_is_noticed_in_the_prompt(path, options):
    assert json.loads(rewritten(path, **options))["return_progress"] is True
    body = json.dumps({"prompt": "x", "stream": True} | options).encode()
    found = with_progress(path, body, json.loads(body))
    assert found is not None
    assert json.loads(found) == json.loads(body) | {"return_progress": True}


@pytest.mark.parametrize(("path", "options"), NOT_TOLD_APART)
def test_progress_that_would_not_stand_apart_is_turned_off(path, options):
    assert json.loads(rewritten(path, **options)).get("return_progress") in {None, False}
    if path != MESSAGES:  # it does not know the option
        asked = json.loads(rewritten(path, **options, return_progress=True))
        assert asked["return_progress"] is False
    body = json.dumps({"prompt": "x", "stream": True} | options).encode()
    assert with_progress(path, body, json.loads(body)) is None


@pytest.mark.parametrize("asked", [True, 7])
def test_a_stream_that_asks_for_progress_itself_is_left_alone(asked):
    body = json.dumps({"prompt": "x", "stream": True, "return_progress": asked}).encode()
    assert with_progress(CHAT, body, json.loads(body)) is None


class Asked(dict):
    """Notes which members are looked at."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looked_at = set()

    def get(self, name, default=None):
        self.looked_at.add(name)
        return super().get(name, default)


def test_every_member_an_exemption_looks_at_is_known_beforehand():
    looked_at = set()
    for row in EXEMPT:
        for given in ({}, dict.fromkeys(CONSIDERED, 7), {"logprobs": 1}):
            asked = Asked(given)
            row.when(asked)
            looked_at |= asked.looked_at
    assert looked_at - {"stop"} == CONSIDERED, "stop matters only beside one of the others"


def test_what_is_added_comes_last_so_that_it_counts():
    body = b'{"stream": false, "prompt": "x", "stream_options": {"include_usage": false}}\r\n'
    found = as_stream(CHAT, body, json.loads(body))
    assert found is not None
    assert found.startswith(body[:-3])
    assert json.loads(found)["stream"] is True
    assert json.loads(found)["stream_options"] == {"include_usage": True}


def test_a_brace_at_the_end_of_a_text_is_not_the_bodys():
    body = b'{"prompt": "}} \\"}"}  \n'
    assert (
        as_stream(NATIVE, body, json.loads(body))
        == b'{"prompt": "}} \\"}","stream":true,"return_progress":true}'
    )


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be", "utf-8-sig"])
def test_other_encodings_are_left_alone(encoding):
    assert as_stream(NATIVE, '{"prompt": "x"}'.encode(encoding), {"prompt": "x"}) is None


def test_an_empty_object_is_left_alone():
    assert as_stream(NATIVE, b"{}", {}) is None


def test_every_exception_has_a_reason_and_forms():
    for row in EXEMPT:
        assert row.why
        assert row.forms <= set(Form)


def test_why_not_tells_the_reason():
    assert why_not(Form.NATIVE, {"return_tokens": True}) == (
        "of characters of several tokens only the last is streamed"
    )
    assert why_not(Form.CHAT, {}) is None
