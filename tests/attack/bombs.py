"""Small words that cost much: parameters, counts, sizes. (6, 8, 9)"""

import json

from supervisor.types import MIB
from tests.attack.attacker import Assault, Attacker

HUGE = 2**31 - 1
JSON_UNITS = (b"[],", b"{},", b'"a",', b"1,", b"[[]],")


def numbers(assault: Assault) -> None:
    """One parameter each, beyond all reason."""
    bomb = assault.dice.choice(
        [
            {"repeat_last_n": HUGE, "repeat_penalty": 1.1},
            {"repeat_last_n": 10**8, "frequency_penalty": 0.5},
            {"dry_penalty_last_n": HUGE, "dry_multiplier": 0.8},
            {"n_probs": HUGE},
            {"n_probs": 100_000},
            {"min_keep": HUGE, "top_k": HUGE},
            {"n_keep": HUGE},
            {"n_keep": -HUGE},
            {"n_discard": HUGE},
            {"id_slot": 9999},
            {"top_p": 1e308, "temperature": 1e308},
            {"mirostat": 2, "mirostat_tau": 1e308},
            {"seed": -HUGE},
            {"n_indent": HUGE},
        ]
    )
    assault.ask("POST", "/completion", {"prompt": assault.unique(), "n_predict": 2} | bomb)


def odd_numbers(assault: Assault) -> None:
    """What a parser makes infinity or nothing of."""
    key = assault.dice.choice(["temperature", "n_predict", "top_k", "seed", "repeat_last_n"])
    value = assault.dice.choice(["1e400", "-1e400", "NaN", "Infinity", "9" * 400, "-0.0e-999", "null", '"7"'])
    body = f'{{"prompt":"{assault.unique()}","n_predict":2,"{key}":{value}}}'
    assault.ask("POST", "/completion", body, [("Content-Type", "application/json")])


def several(assault: Assault) -> None:
    """One request, many sequences."""
    path, body = assault.dice.choice(
        [
            ("/completion", {"prompt": ["a"] * 32, "n_predict": 300, "ignore_eos": True}),
            ("/v1/completions", {"prompt": ["a"] * 32, "max_tokens": 300, "ignore_eos": True}),
            ("/v1/chat/completions", {"messages": _messages(1), "n": 64, "max_tokens": 300}),
            ("/completion", {"prompt": "a", "n_cmpl": 64, "n_predict": 300}),
            ("/v1/embeddings", {"input": ["a"] * 5000}),
        ]
    )
    assault.ask("POST", path, body)


def members(assault: Assault) -> None:
    """Objects and lists of very many."""
    many = assault.dice.choice([1000, 30_000, 200_000])
    body: dict[str, object] = assault.dice.choice(
        [
            lambda: {"logit_bias": [[n % 500, -1.0] for n in range(many)]},
            lambda: {"logit_bias": {str(n): 1 for n in range(many)}},
            lambda: {f"k{n}": n for n in range(many)},
            lambda: {"stop": [f"s{n}" for n in range(many)]},
            lambda: {"samplers": ["top_k"] * many},
            lambda: {"dry_sequence_breakers": [f"b{n}" for n in range(many)]},
            lambda: {"json_schema": {"type": "object", "properties": {f"p{n}": {} for n in range(many)}}},
            lambda: {"json_schema": {"enum": [f"e{n}" for n in range(many)]}},
            lambda: {"grammar": "\n".join(f'r{n} ::= "{n}"' for n in range(many))},
        ]
    )()
    assault.ask("POST", "/completion", {"prompt": assault.unique(), "n_predict": 1} | body)


def messages(assault: Assault) -> None:
    many = assault.dice.choice([1000, 30_000])
    path = assault.dice.choice(["/v1/chat/completions", "/apply-template"])
    assault.ask("POST", path, {"messages": _messages(many), "max_tokens": 1, "user": assault.unique()})


def _messages(many: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "a"} for _ in range(many)]


def big_texts(assault: Assault) -> None:
    """Megabytes to routes that answer a line."""
    path, key = assault.dice.choice(
        [
            ("/tokenize", "content"),
            ("/v1/embeddings", "input"),
            ("/completion", "prompt"),
            ("/detokenize", "tokens"),
        ]
    )
    size = assault.dice.choice([MIB, 8 * MIB, 31 * MIB])
    start = json.dumps({"n_predict": 1, "user": assault.unique()})[:-1].encode()
    filler = b'"' + b"word " * (size // 5) + b'"' if key != "tokens" else b"[" + b"1," * (size // 2) + b"1]"
    assault.ask("POST", path, start + b', "' + key.encode() + b'": ' + filler + b"}")


def big_json(assault: Assault) -> None:
    """Megabytes of structure: what they become in memory is many times that."""
    size = assault.dice.choice([8, 16, 31]) * MIB
    unit = assault.dice.choice(JSON_UNITS)
    head = json.dumps({"messages": _messages(1), "max_tokens": 1, "user": assault.unique()})[:-1].encode()
    assault.ask("POST", "/v1/chat/completions", head + b', "x":[' + unit * (size // len(unit)) + b"0]}")


def deep_json(assault: Assault) -> None:
    depth = assault.dice.choice([1000, 100_000, MIB])
    body = b'{"prompt":"a","x":' + b"[" * depth + b"]" * depth + b"}"
    assault.ask("POST", "/completion", body)


ATTACKERS = [
    Attacker("bombs: numbers", (8,), numbers, 1.0),
    Attacker("bombs: odd numbers", (8,), odd_numbers, 0.5),
    Attacker("bombs: several sequences", (9, 11), several, 2.0),
    Attacker("bombs: members", (8,), members, 2.0),
    Attacker("bombs: messages", (8,), messages, 2.0),
    Attacker("bombs: big texts", (8,), big_texts, 3.0),
    Attacker("bombs: big JSON", (6,), big_json, 3.0),
    Attacker("bombs: deep JSON", (6, 8), deep_json, 2.0),
]
