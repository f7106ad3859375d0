"""Defaults, ranges, strictness and what validation resolves."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from supervisor.settings import values
from supervisor.settings.schema import Pool, Settings
from supervisor.unixsocket import SUN_PATH_MAX


def build(**keys: object) -> Settings:
    return Settings.model_validate({"models": {"demo": {"path": "/m/demo.gguf"}}, **keys})


def errors(**keys: object) -> list[tuple[str, ...]]:
    with pytest.raises(ValidationError) as caught:
        build(**keys)
    return [tuple(str(part) for part in error["loc"]) for error in caught.value.errors()]


def test_what_is_left_out_is_resolved() -> None:
    settings = build(state_dir="/s")
    assert settings.default_model == "demo"
    assert settings.models["demo"].threads == values.physical_cores() >= 1
    assert settings.log.dir == settings.log_dir == Path("/s/logs")
    assert (settings.listen_host, settings.listen_port) == ("127.0.0.1", 8005)


def test_an_ipv6_address_has_its_brackets_taken() -> None:
    settings = build(listen="[::1]:9")
    assert (settings.listen_host, settings.listen_port) == ("::1", 9)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        build().listen = "x"  # type: ignore[misc]


def test_an_empty_section_means_its_defaults() -> None:
    assert build(proxy=None, retry=None, limits=None) == build()


def test_changing_one_pool_keeps_the_others() -> None:
    pools = build(limits={"pools": {"anonymous": {"concurrent": 1}, "gold": {"weight": 2}}}).limits.pools
    assert set(pools) == {"anonymous", "session", "user", "gold"}
    assert pools["anonymous"].concurrent == 1
    assert pools["user"] == Pool().model_copy(update={"shared": pools["user"].shared})
    assert pools["gold"].shared is None


@pytest.mark.parametrize("name", ["anonymous", "session", "user"])
def test_names_that_cost_nothing_share_one_bucket(name: str) -> None:
    shared = build().limits.pools[name].shared
    assert shared is not None
    assert (shared.requests_per_minute, shared.requests_per_hour, shared.concurrent) == (600, 10_000, 40)
    required = build(proxy={"require_key": True}).limits.pools[name].shared
    assert (required is None) is (name != "anonymous")
    assert build(limits={"pools": {name: {"shared": None}}}).limits.pools[name].shared is None


def test_loopback_is_trusted_for_nothing() -> None:
    settings = build()
    assert settings.proxy.trusted_proxies == []
    assert not settings.metrics.open_on_loopback
    assert not settings.dashboard.open_on_loopback


@pytest.mark.parametrize(
    "name", ["llm.example.com", "LLM.example", "*.example.com", "*", "llmsup", "my_host"]
)
def test_a_server_name(name: str) -> None:
    assert build(proxy={"server_names": [name]}).proxy.server_names == [name.lower()]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "llm.example:8005",
        "https://llm.example",
        "a b",
        "*.",
        "*example.com",
        "a.*.example",
        "-a",
        "a/b",
        "a..b",
    ],
)
def test_no_server_name(name: str) -> None:
    assert errors(proxy={"server_names": [name]}) == [("proxy", "server_names", "0")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"listen": "8005"},
        {"listen": "::1:8005"},
        {"listen": "1.2.3.999:1"},
        {"listen": "a:65536"},
        {"listen": ":8005"},
        {"listen": "a b:1"},
        {"listen": "[x]:1"},
        {"state_dir": ""},
        {"state_dir": "a\0b"},
        {"state_dir": 5},
        {"default_model": "other"},
        {"default_model": 3},
        {"models": {}},
    ],
)
def test_wrong_top_level_values_are_refused(wrong: dict[str, object]) -> None:
    assert errors(**wrong)[0][0] == next(iter(wrong))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("proxy", "queue_size", "4"),
        ("proxy", "queue_size", True),
        ("proxy", "queue_size", 4.0),
        ("proxy", "queue_timeout_s", 0),
        ("proxy", "queue_timeout_s", float("inf")),
        ("proxy", "max_concurrent_requests", 0),
        ("proxy", "continue_after_crash", "no"),
        ("proxy", "drain_timeout_s", -1),
        ("retry", "backoff_multiplier", 0.5),
        ("log", "level", "warn"),
        ("limits", "store", "redis://"),
        ("limits", "store", "redis://[x"),
        ("limits", "store", "redis://h:99999/0"),
        ("limits", "store", "redis://h/one"),
        ("llama_server", "binary", ""),
        ("memory", "limit_mb", 0),
        ("cleanup", "interval_s", 0),
        ("circuit_breaker", "failure_threshold", 0),
    ],
)
def test_types_are_strict_and_ranges_sensible(section: str, key: str, value: object) -> None:
    assert errors(**{section: {key: value}}) == [(section, key)]


@pytest.mark.parametrize("item", ["NOPE", 200, True, None, []])
def test_retryable_is_an_errno_name_or_a_5xx(item: object) -> None:
    assert errors(retry={"retryable": ["EPIPE", 502, item]}) == [("retry", "retryable", "2")]


@pytest.mark.parametrize("network", ["10.0.0.1/8", "example.org", "1.2.3", ""])
def test_trusted_proxies_are_networks(network: str) -> None:
    assert errors(proxy={"trusted_proxies": ["10.0.0.1", network]}) == [("proxy", "trusted_proxies", "1")]


@pytest.mark.parametrize("uid", [-1, 2**32 - 1, "33", True, 1.0])
def test_trusted_uids_are_numbers_of_users(uid: object) -> None:
    assert errors(proxy={"trusted_uids": [0, 33, uid]}) == [("proxy", "trusted_uids", "2")]


def test_a_unix_socket_is_absolute_and_short_enough() -> None:
    assert build().listen_unix is None
    assert build(listen_unix="x.sock").listen_unix == Path.cwd() / "x.sock"
    assert build(listen_unix="/" + "x" * (SUN_PATH_MAX - 1)).listen_unix is not None
    assert errors(listen_unix="/" + "x" * SUN_PATH_MAX) == [("listen_unix",)]
    assert errors(listen_unix="") == [("listen_unix",)]
    assert errors(listen_unix=7) == [("listen_unix",)]


@pytest.mark.parametrize("name", ["", "-a", "a b", "x" * 129, "ä"])
def test_model_names_are_checked(name: str) -> None:
    assert errors(models={name: {"path": "/m"}}) == [("models", name, "[key]")]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://app.example",
        "http://localhost:3000",
        "http://[::1]:8080",
        "chrome-extension://abcdef",
        "tauri://localhost",
    ],
)
def test_origins_are_written_as_browsers_send_them(origin: str) -> None:
    assert build(proxy={"cors": {"allow_origins": [origin]}}).proxy.cors.allow_origins == [origin]


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("app.example", "expected an origin such as"),
        ("https://app.example/", r"did you mean https://app\.example\?"),
        ("HTTPS://App.Example", r"did you mean https://app\.example\?"),
        ("https://app.example/path", "expected an origin such as"),
        ("https://*.example", "expected an origin such as"),
        ("https://a:b@c", "expected an origin such as"),
        ("https://app.example:443", r"browsers leave the default port out: https://app\.example$"),
        ("http://app.example:80", "browsers leave the default port out"),
        ("null", "expected an origin such as"),
        ("https://a\r\nX: y", "expected an origin such as"),
    ],
)
def test_what_no_browser_would_send_is_no_origin(origin: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        values.check_origin(origin)


@pytest.mark.parametrize(
    ("cors", "where"),
    [
        ({"allow_origins": ["*"], "allow_credentials": True}, ("proxy", "cors", "allow_credentials")),
        ({"allow_headers": ["a b"]}, ("proxy", "cors", "allow_headers", "0")),
        ({"max_age_s": -1}, ("proxy", "cors", "max_age_s")),
        ({"allow_methods": ["GET"]}, ("proxy", "cors", "allow_methods")),
    ],
)
def test_wrong_cors_is_refused(cors: dict[str, object], where: tuple[str, ...]) -> None:
    assert errors(proxy={"cors": cors}) == [where]


def test_tls_is_two_files_or_none() -> None:
    assert build().tls.cert_file is build(tls=None).tls.key_file is None
    both = build(tls={"cert_file": "/c.pem", "key_file": "/k.pem"}).tls
    assert (both.cert_file, both.key_file) == (Path("/c.pem"), Path("/k.pem"))
    for half in ({"cert_file": "/c.pem"}, {"key_file": "/k.pem"}, {"cert_file": None, "key_file": "/k.pem"}):
        assert errors(tls=half) == [("tls", "key_file")]


def test_model_names_may_look_like_those_of_registries() -> None:
    name = "qwen/Qwen2.5-0.5B:q4_k_m"
    assert build(models={name: {"path": "/m"}}).default_model == name


def test_int_is_good_for_a_float_key() -> None:
    assert build(proxy={"queue_timeout_s": 5}).proxy.queue_timeout_s == 5.0


def test_binary_is_auto_a_path_or_a_bare_name() -> None:
    assert build(llama_server={"binary": "llama-server"}).llama_server.binary == "llama-server"
    assert build(llama_server={"binary": "./b/llama-server"}).llama_server.binary == str(
        Path.cwd() / "b/llama-server"
    )


def test_store_takes_redis() -> None:
    url = "rediss://user:secret@[::1]:6379/2"
    assert build(limits={"store": url}).limits.store == url


def test_a_long_list_of_models_is_cut() -> None:
    with pytest.raises(ValidationError, match=r"m9, \.\.\. \(12 in all\)"):
        build(models={f"m{n}": {"path": "/m"} for n in range(12)})


def test_the_json_schema_can_be_made() -> None:
    schema = Settings.model_json_schema()
    assert schema["required"] == ["models"]
    assert set(schema["properties"]) == set(Settings.model_fields)
