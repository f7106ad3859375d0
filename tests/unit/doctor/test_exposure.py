"""Each unsafe combination is a finding with its remedy; what is safe has none."""

import stat
from pathlib import Path
from typing import Any

import pytest

from supervisor.doctor.exposure import Facts, exposure, is_loopback
from supervisor.doctor.finding import Finding, Level
from supervisor.settings.schema import Settings

PUBLIC: dict[str, Any] = {"listen": "0.0.0.0:8005"}
KEYED: dict[str, Any] = {"proxy": {"require_key": True, "trusted_proxies": []}}
TLS: dict[str, Any] = {"tls": {"cert_file": "/c.pem", "key_file": "/k.pem"}}
NOT_OPEN: dict[str, Any] = {"metrics": {"open_on_loopback": False}}
KEYLESS: dict[str, Any] = {"proxy": {"trusted_proxies": []}}
ONE_KEY = Facts(usable_keys=1)
NONE = {"requests_per_minute": None, "requests_per_hour": None, "concurrent": None, "shared": None}


def settings(*parts: dict[str, Any]) -> Settings:
    sections: dict[str, Any] = {"models": {"demo": {"path": "/m.gguf"}}, **NOT_OPEN}
    for part in parts:
        sections |= part
    return Settings.model_validate(sections)


def warned(*parts: dict[str, Any], facts: Facts = ONE_KEY) -> list[Finding]:
    return [one for one in exposure(settings(*parts), facts) if one.level is not Level.OK]


@pytest.mark.parametrize("parts", [(KEYLESS,), (KEYED,), (PUBLIC, KEYED, TLS)])
def test_what_is_safe_is_well_and_says_who_may_ask(parts: tuple[dict[str, Any], ...]) -> None:
    (one,) = exposure(settings(*parts), ONE_KEY)
    assert one.level is Level.OK
    assert ("with a key" in one.detail) == (KEYED in parts)
    assert ("the network" in one.detail) == (PUBLIC in parts)


UNSAFE: dict[str, tuple[list[dict[str, Any]], Facts, str, str]] = {
    "beyond loopback without a key": ([PUBLIC, KEYLESS, TLS], ONE_KEY, "without a key", "proxy.require_key"),
    "beyond loopback without TLS": (
        [PUBLIC, KEYED, {"dashboard": {"enabled": False}}],
        ONE_KEY,
        "no TLS",
        "tls.cert_file",
    ),
    "open metrics behind a proxy here": (
        [
            {"metrics": {"open_on_loopback": True}},
            {"proxy": {"require_key": True, "trusted_proxies": ["127.0.0.1/32"]}},
        ],
        ONE_KEY,
        "read /metrics",
        "metrics.open_on_loopback: false",
    ),
    "open dashboard behind a proxy here": (
        [
            {"dashboard": {"open_on_loopback": True}},
            {"proxy": {"require_key": True, "trusted_proxies": ["::1/128"]}},
        ],
        ONE_KEY,
        "strangers may restart",
        "dashboard.open_on_loopback: false",
    ),
    "open dashboard": (
        [KEYED, {"dashboard": {"open_on_loopback": True}}],
        ONE_KEY,
        "every user and program",
        "dashboard.open_on_loopback: false",
    ),
    "everybody is a proxy": (
        [{"proxy": {"trusted_proxies": ["0.0.0.0/0"]}}],
        ONE_KEY,
        "0.0.0.0/0",
        "name the",
    ),
    "everybody is a proxy, in IPv6": (
        [{"proxy": {"trusted_proxies": ["::/0"]}}],
        ONE_KEY,
        "::/0",
        "name the",
    ),
    "a wide network of proxies": (
        [{"proxy": {"trusted_proxies": ["10.0.0.0/8"]}}],
        ONE_KEY,
        "10.0.0.0/8",
        "name the addresses",
    ),
    "every web page": (
        [{"proxy": {"trusted_proxies": [], "cors": {"allow_origins": ["*"]}}}],
        ONE_KEY,
        "every web page",
        "name the origins",
    ),
    "any name": (
        [{"proxy": {"trusted_proxies": [], "server_names": ["*"]}}],
        ONE_KEY,
        "made to point here",
        "name the names",
    ),
    "credentials for a plain page": (
        [
            {
                "proxy": {
                    "trusted_proxies": [],
                    "cors": {"allow_origins": ["http://app.example"], "allow_credentials": True},
                }
            }
        ],
        ONE_KEY,
        "http://app.example",
        "https://",
    ),
    "no limits in public": (
        [PUBLIC, KEYED, TLS, {"limits": {"pools": {"user": NONE}}}],
        ONE_KEY,
        "no limits",
        "limits.pools",
    ),
    "a key is required and there is none": ([KEYED], Facts(usable_keys=0), "there is no key", "keys create"),
    "anybody can put a socket there": (
        [KEYED, {"listen_unix": "/run/x/s.sock"}],
        Facts(1, stat.S_IFDIR | 0o777),
        "anybody may write in /run/x",
        "chmod o-w /run/x",
    ),
    "a group without a key": (
        [KEYED, {"listen_unix": "/run/x/s.sock"}],
        Facts(1, stat.S_IFDIR | 0o2750, "ai"),
        "the group ai",
        "chmod g-s /run/x",
    ),
    "limits readable on the way": (
        [KEYED, {"limits": {"store": "redis://:word@10.0.0.9/0"}}],
        ONE_KEY,
        "10.0.0.9",
        "rediss://",
    ),
    "no bound on memory": (
        [KEYED, {"memory": {"growth_limit_mb": 0}}],
        ONE_KEY,
        "all memory of the machine",
        "leave it out",
    ),
    "limits without a password": (
        [KEYED, {"limits": {"store": "redis://127.0.0.1/0"}}],
        ONE_KEY,
        "no password",
        "requirepass",
    ),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_each_unsafe_combination_is_one_finding_with_its_remedy(name: str) -> None:
    parts, facts, said, remedy = UNSAFE[name]
    (one,) = warned(*parts, facts=facts)
    assert one.level is Level.WARN
    assert said in one.detail
    assert remedy in one.remedy


def test_the_worst_of_all_says_all_of_it() -> None:
    said = " ".join(one.detail for one in warned(PUBLIC, {"proxy": {"trusted_proxies": ["0.0.0.0/0"]}}))
    for words in ("without a key", "no TLS", "dashboard is on 0.0.0.0:8005 without TLS", "0.0.0.0/0"):
        assert words in said


def test_what_is_not_known_is_no_finding() -> None:
    assert not warned(KEYED, {"listen_unix": "/run/x/s.sock"}, facts=Facts())


def test_a_private_folder_of_the_socket_is_well() -> None:
    assert not warned(KEYED, {"listen_unix": "/run/x/s.sock"}, facts=Facts(1, stat.S_IFDIR | 0o750))


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("ai.example", False),
    ],
)
def test_which_addresses_are_this_machine_s_own(host: str, here: bool) -> None:
    assert is_loopback(host) is here


def test_limits_of_those_with_a_key_are_enough_where_one_is_required() -> None:
    pools = {"pools": {"anonymous": NONE, "session": NONE}}
    assert not warned(PUBLIC, KEYED, TLS, {"limits": pools})
    shared = {"pools": {"user": NONE | {"shared": {"requests_per_minute": 5}}}}
    assert not warned(PUBLIC, KEYED, TLS, {"limits": shared})


def test_a_path_is_only_looked_at_where_there_is_a_socket() -> None:
    assert settings(KEYED).listen_unix is None
    assert not warned(KEYED, facts=Facts(1, stat.S_IFDIR | 0o777))
    assert Path("/run/x/s.sock").parent == settings({"listen_unix": "/run/x/s.sock"}).listen_unix.parent  # type: ignore[union-attr]
