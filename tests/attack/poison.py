"""Requests that kill llama-server, or are to look as if the model or the memory had: each differs from the last. (1, 2, 3)"""

import json

from tests.attack.attacker import Assault, Attacker
from tests.support.daemon import CHAT

GRAMMAR_DEPTH = 30_000  # some 20,000 are a segmentation fault of the pinned llama-server
SCHEMA_DEPTHS = (50, 190, 1000, 4000, 12_000)  # some 10,000 are
NAMES = 5
HELLO = '"messages":[{"role":"user","content":"a"}]'
# What llama-server and the kernel say when memory ran out, the model is damaged or a flag is wrong.
FORGED = (
    "insufficient memory",
    "failed to allocate buffer of size 99999999999",
    "failed to read magic",
    "tensor data is not within the file bounds",
    "error loading model: unknown model architecture: 'x'",
    "CUDA error: out of memory",
    "std::bad_alloc",
    "couldn't bind HTTP server socket",
    "GGML_ASSERT(false) failed",
)


def deep_grammar(depth: int = GRAMMAR_DEPTH) -> str:
    return "root ::= " + "(" * depth + '"a"' + ")" * depth


def deep_schema(depth: int, word: str, unique: str) -> str:
    """As JSON text: no Python object could be written that deep. ``word``: what is nested."""
    begin = {
        "array": '{"type":"array","items":',
        "object": '{"type":"object","properties":{"a":',
        "anyOf": '{"anyOf":[',
    }[word]
    end = {"array": "}", "object": "}}", "anyOf": "]}"}[word]
    return begin * depth + json.dumps({"type": "string", "title": unique}) + end * depth


def grammar_depth(assault: Assault) -> None:
    depth = GRAMMAR_DEPTH + assault.dice.randrange(100)
    assault.ask(
        "POST",
        "/completion",
        {"prompt": assault.unique(), "n_predict": 1, "grammar": deep_grammar(depth)},
        _name(assault),
    )


def schema_depth(assault: Assault) -> None:
    word = assault.dice.choice(["array", "object", "anyOf"])
    schema = deep_schema(assault.dice.choice(SCHEMA_DEPTHS), word, assault.unique())
    path, begin, end = assault.dice.choice(
        [
            ("/completion", '{"prompt":"a","n_predict":1,"json_schema":', "}"),
            (CHAT, f'{{{HELLO},"response_format":{{"type":"json_schema","json_schema":{{"schema":', "}}}"),
            (CHAT, f'{{{HELLO},"tools":[{{"type":"function","function":{{"name":"f","parameters":', "}}]}"),
        ]
    )
    body = f"{begin}{schema}{end}"
    assault.ask("POST", path, body, [("Content-Type", "application/json"), *_name(assault)])


def forged_death(assault: Assault) -> None:
    """Words that llama-server writes into its log, and then its end."""
    words = assault.dice.choice(FORGED)
    body: dict[str, object] = {
        "prompt": assault.unique(),
        "n_predict": 1,
        "samplers": [words],
        "grammar": f"{deep_grammar()}\n# {words}\n{words} ::=",
    }
    assault.ask("POST", "/completion", body, _name(assault))


def forged_words(assault: Assault) -> None:
    """The words alone, in all that may be logged: nothing may be made of them."""
    words = assault.dice.choice(FORGED)
    body = assault.dice.choice(
        [
            {"prompt": assault.unique(), "n_predict": 1, "samplers": [words]},
            {"prompt": assault.unique(), "n_predict": 1, "grammar": f"root ::= {words}"},
            {"prompt": words, "n_predict": 1, "stop": [words]},
            {"prompt": "a", "n_predict": 1, "json_schema": {"type": words}},
        ]
    )
    assault.ask("POST", "/completion", body, _name(assault))


def regex(assault: Assault) -> None:
    """Patterns become grammars: deep ones, and ones that repeat for ever."""
    depth = 20_000
    pattern = assault.dice.choice(
        [
            "^" + "(" * depth + "a" + ")" * depth + "$",
            "^" + "(a|" * depth + "b" + ")" * depth + "$",
            "^(a{1,1000}){1,1000}$",
            "^((((a*)*)*)*)*$",
            "^[" + "a-z" * 10_000 + "]$",
        ]
    )
    schema = {"type": "string", "pattern": pattern, "title": assault.unique()}
    assault.ask("POST", "/completion", {"prompt": "a", "n_predict": 1, "json_schema": schema}, _name(assault))


def repetition(assault: Assault) -> None:
    """Small texts that unfold."""
    many = assault.dice.choice([10**6, 10**9, 2**31 - 1])
    body = assault.dice.choice(
        [
            {"grammar": f'root ::= "a"{{{many}}}'},
            {"grammar": 'root ::= ("a"{1000}){1000}'},
            {"json_schema": {"type": "string", "minLength": many, "maxLength": many}},
            {"json_schema": {"type": "array", "items": {}, "minItems": many}},
            {"grammar": 'root ::= "a"{5,2}'},
            {"json_schema": {"type": "string", "minLength": 5, "maxLength": 2}},
            {"json_schema": {"type": "string", "pattern": "^a{5,2}$"}},
            {"json_schema": {"type": "integer", "minimum": -(10**18), "maximum": 10**18}},
        ]
    )
    assault.ask("POST", "/completion", {"prompt": assault.unique(), "n_predict": 1} | body, _name(assault))


def unknown(assault: Assault) -> None:
    """Poison as no check knows it: `watch` ends llama-server with a signal while one of these is inside."""
    body: dict[str, object] = {"prompt": assault.unique(), "n_predict": 900, "ignore_eos": True}
    assault.ask("POST", "/completion", body)


def _name(assault: Assault) -> list[tuple[str, str]]:
    """One now and then: who is shut out comes back as somebody else."""
    dice = assault.dice
    return [("X-User-ID", f"mallory-{dice.randrange(NAMES)}")] if dice.random() < 0.5 else []


UNKNOWN = "poison: of a kind unknown"
ATTACKERS = [
    Attacker(UNKNOWN, (1, 2, 3), unknown, 2.0),
    Attacker("poison: grammar depth", (1, 2, 3), grammar_depth, 2.0),
    Attacker("poison: schema depth", (1, 2, 3), schema_depth, 2.0),
    Attacker("poison: forged deaths", (1, 2), forged_death, 2.0),
    Attacker("forged words in the child's log", (1,), forged_words, 1.0),
    Attacker("poison: patterns", (2,), regex, 2.0),
    Attacker("poison: repetitions", (2, 8), repetition, 2.0),
]
