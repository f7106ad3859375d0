"""Overrides: which key is meant, what the value is, who wins."""

import pytest

from supervisor.settings import env, yamlio

FILE = b"""
models:
  qwen-2.5: {path: a, threads: 1}
  tiny: {path: b}
default_model: qwen-2.5
"""


def apply(environ: dict[str, str], raw: bytes = FILE) -> yamlio.Document:
    document = yamlio.parse(raw, "f.yaml")
    env.apply(document, environ)
    return document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("true", True),
        ("no", "no"),
        ("", None),
        ("[a, 1]", ["a", 1]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ('"4"', "4"),
        ("[::1]:8005", "[::1]:8005"),
        ("C:\\x # y", "C:\\x # y"),
    ],
)
def test_values_read_as_in_the_file(text: str, value: object) -> None:
    assert apply({"LLMSUP__PROXY__X": text}).data["proxy"]["x"] == value


@pytest.mark.parametrize("name", ["QWEN_2_5", "qwen-2.5", "Qwen_2.5"])
def test_an_underscore_stands_for_any_punctuation_of_a_models_name(name: str) -> None:
    document = apply({f"LLMSUP__MODELS__{name}__THREADS": "8"})
    assert document.data["models"]["qwen-2.5"] == {"path": "a", "threads": 8}
    assert document.values["models", "qwen-2.5", "threads"].source == f"env LLMSUP__MODELS__{name}__THREADS"


def test_two_names_that_could_be_meant_are_a_problem() -> None:
    document = apply({"LLMSUP__MODELS__A_B__PATH": "x"}, b"models: {a-b: {}, a.b: {}}")
    assert "env LLMSUP__MODELS__A_B__PATH: could be any of a-b, a.b" in str(document.problems[0])


def test_the_exact_name_wins_over_a_similar_one() -> None:
    document = apply({"LLMSUP__MODELS__A_B__PATH": "x"}, b"models: {a-b: {}, a_b: {}}")
    assert document.data["models"]["a_b"] == {"path": "x"}


def test_outer_keys_go_first() -> None:
    document = apply({"LLMSUP__MODELS__M__THREADS": "2", "LLMSUP__MODELS": "{m: {path: x}}"})
    assert document.data["models"] == {"m": {"path": "x", "threads": 2}}
    assert ("models", "tiny") not in document.keys


def test_variables_of_the_child_keep_case_and_text() -> None:
    document = apply({"LLMSUP__MODELS__TINY__ENV__CUDA__Visible": "0"})
    assert document.data["models"]["tiny"]["env"] == {"CUDA__Visible": "0"}


def test_single_underscores_are_other_things() -> None:
    assert apply({"LLMSUP_CONFIG": "x", "LLMSUP_CACHE_DIR": "y", "LLM_OTHER": "z"}).data == apply({}).data


@pytest.mark.parametrize(
    "name", ["LLMSUP__", "LLMSUP__A____B", "LLMSUP__DEFAULT_MODEL__X", 'LLMSUP__MODELS__TINY__PATH__"']
)
def test_what_cannot_be_a_key_is_a_problem_naming_the_variable(name: str) -> None:
    document = apply({name: "1"})
    assert [p.place.file for p in document.problems] == [f"env {name}"]


def test_cleverness_is_no_better_in_a_variable() -> None:
    assert "alias" in str(apply({"LLMSUP__PROXY": "[&a 1, *a]"}).problems[1])


def test_the_llm_variables_go_to_the_default_model() -> None:
    variables = {"LLM_MODEL_PATH": "5", "LLM_CONTEXT_SIZE": "8", "LLM_MAX_TOKENS": "9", "LLM_MAX_HISTORY": ""}
    document = apply(variables)
    assert document.data["models"]["qwen-2.5"] == {
        "path": "5",
        "threads": 1,
        "context_size": 8,
        "max_tokens": 9,
    }
    assert document.values["models", "qwen-2.5", "path"].source == "env LLM_MODEL_PATH"


def test_the_default_model_may_itself_come_from_the_environment() -> None:
    document = apply({"LLMSUP__DEFAULT_MODEL": "tiny", "LLM_MODEL_PATH": "x"})
    assert document.data["models"]["tiny"]["path"] == "x"


def test_the_more_precise_variable_wins() -> None:
    document = apply({"LLM_CONTEXT_SIZE": "8", "LLMSUP__MODELS__QWEN_2_5__CONTEXT_SIZE": "16"})
    assert document.data["models"]["qwen-2.5"]["context_size"] == 16


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[1]",
        b"models: 3",
        b"models: {a: 1}",
        b"models: {a: {}, b: {}}",
        b"default_model: x\nmodels: {a: }",
    ],
)
def test_without_a_default_model_the_llm_variables_do_nothing(raw: bytes) -> None:
    document = apply({"LLM_MODEL_PATH": "x"}, raw)
    assert document.problems == []
    assert "path" not in str(document.data)


def test_a_model_left_empty_takes_its_path_from_the_environment() -> None:
    assert apply({"LLM_MODEL_PATH": "x"}, b"models: {a: }").data["models"] == {"a": {"path": "x"}}


@pytest.mark.parametrize(
    ("variables", "level", "source"),
    [
        ({"LOG_LEVEL": "DEBUG"}, "debug", "env LOG_LEVEL"),
        ({"LOG_LEVEL": " warning "}, "warning", "env LOG_LEVEL"),
        ({"LOG_LEVEL": "debug", "LLMSUP__LOG__LEVEL": "error"}, "error", "env LLMSUP__LOG__LEVEL"),
    ],
)
def test_log_level_has_the_name_that_most_programs_read(
    variables: dict[str, str], level: str, source: str
) -> None:
    document = apply(variables)
    assert document.data["log"]["level"] == level
    assert document.values["log", "level"].source == source


def test_an_empty_log_level_is_none() -> None:
    assert "log" not in apply({"LOG_LEVEL": ""}).data
