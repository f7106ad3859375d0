"""Very many names, wrong keys, other people's doors, and web pages. (4, 10, 12, 14, 15, 16, 17, 18)"""

from tests.attack.attacker import Assault, Attacker
from tests.attack.poison import deep_grammar

# What a terminal obeys, and what ends a line in a log, a YAML file or a Python string.
ESCAPES = ("\x1b]0;owned\x07", "\x1b[2J", "\x9b31m", "\u2028", "\x85", "\x08" * 20, "\x7f")
PAGE = "https://evil.example"
ADMIN = (
    "/slots",
    "/slots/0?action=erase",
    "/props",
    "/metrics",
    "/lora-adapters",
    "/models/load",
    "/llmsup/status",
    "/llmsup/config",
    "/llmsup/logs",
    "/llmsup/events",
    "/llmsup/restart",
    "//slots",
    "/%73lots",
    "/v1/../slots",
    "/./slots",
    "/slots/",
    "/SLOTS",
    "/v1%2f..%2fslots",
    "/llmsup/../slots",
    "/health/../props",
)


def names(assault: Assault) -> None:
    """A name each time, and long ones."""
    long = "n" * assault.dice.choice([8, 200, 7000])
    unique = f"{assault.unique()}{long}"
    header = assault.dice.choice(["X-User-ID", "X-Session-ID", "Authorization", "X-Api-Key"])
    value = f"Bearer {unique}" if header == "Authorization" else unique
    assault.ask("POST", "/tokenize", {"content": "a"}, [(header, value)])


def addresses(assault: Assault) -> None:
    """Forwarded for others, tens of kilobytes of them, on a route without limits."""
    lines = [
        ("X-Forwarded-For", f"{assault.unique()}{n}" + "a" * assault.dice.choice([10, 7600]))
        for n in range(8)
    ]
    assault.ask("GET", "/health", headers=lines)


def wrong_keys(assault: Assault) -> None:
    unique = assault.unique()
    key = assault.dice.choice(
        [
            f"llmsup_{unique}",
            f"llmsup_{assault.dice.randrange(16**8):08x}_{'A' * 43}",
            "",
            " ",
            "\xff" * 40,
            "a" * 7000,
        ]
    )
    path = assault.dice.choice(["/v1/models", "/tokenize", "/llmsup/status", "/metrics"])
    method = "POST" if path == "/tokenize" else "GET"
    assault.ask(
        method, path, {"content": "a"} if method == "POST" else None, [("Authorization", f"Bearer {key}")]
    )


def admin(assault: Assault) -> None:
    path = assault.dice.choice(ADMIN)
    method = assault.dice.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS"])
    assault.ask(method, path, {} if method in {"POST", "PUT"} else None, [("X-Llmsup-Csrf", "1")])


def forged_logs(assault: Assault) -> None:
    """Escapes and line breaks in everything that is written down."""
    escape = assault.dice.choice(ESCAPES)
    text = f"{escape}{assault.unique()}"
    raw = text.encode("utf-8").decode("latin-1")  # the bytes, in a head
    where = assault.dice.randrange(5)
    if where == 0:
        head = f"GET /{raw}%0d%0aERROR%20forged HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assault.send(head.encode("latin-1"))
    elif where == 1:
        pairs = [
            (name, raw) for name in ("User-Agent", "X-Request-ID", "X-User-ID", "Traceparent", "Referer")
        ]
        assault.ask("GET", "/v1/models", headers=pairs)
    elif where == 2:
        assault.ask("POST", "/v1/chat/completions", {"model": f"{text}\nERROR", "messages": []})
    elif where == 3:
        body = {
            "prompt": text,
            "n_predict": 1,
            "samplers": [text],
            "grammar": f"root ::= {text}\nERROR forged",
        }
        assault.ask("POST", "/completion", body)
    else:
        assault.ask("GET", "/" + "a" * 7000)


def page(assault: Assault) -> None:
    """What somebody's browser sends for a page: a blind POST, a rebound name, a preflight."""
    poison = {"prompt": assault.unique(), "n_predict": 1, "grammar": deep_grammar()}
    kind = assault.dice.randrange(4)
    if kind == 0:
        pairs = [("Content-Type", "text/plain"), ("Origin", PAGE), ("Sec-Fetch-Site", "cross-site")]
        assault.ask("POST", "/completion", poison | {"samplers": ["insufficient memory"]}, pairs)
    elif kind == 1:
        pairs = [
            ("Host", "evil.example"),
            ("Origin", "http://evil.example"),
            ("Sec-Fetch-Site", "same-origin"),
        ]
        assault.ask("POST", "/completion", poison, pairs)
    elif kind == 2:
        pairs = [("Origin", PAGE), ("Access-Control-Request-Method", "POST")]
        assault.ask("OPTIONS", "/v1/chat/completions", headers=pairs)
    else:
        pairs = [("Origin", "null"), ("Cookie", "llmsup-session=x"), ("X-Llmsup-Csrf", "1")]
        assault.ask("POST", "/llmsup/restart", {}, pairs)


ATTACKERS = [
    Attacker("floods of names", (12, 14), names, 0.05),
    Attacker("floods of addresses", (12, 14), addresses, 0.05),
    Attacker("wrong keys", (6, 14), wrong_keys, 0.1),
    Attacker("other people's doors", (14, 16), admin, 0.1),
    Attacker("forged logs", (15, 18), forged_logs, 0.1),
    Attacker("web pages", (10, 17), page, 1.0),
]
