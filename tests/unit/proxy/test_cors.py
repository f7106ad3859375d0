"""`proxy.cors`: what a browser is told, and that it is told nothing else."""

import pytest

from supervisor.proxy.cors import Cors, CorsRules
from supervisor.proxy.decision import Answer
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange

APP = "https://app.example"


def cors(*origins: str, headers: tuple[str, ...] = ("*",), credentials: bool = False) -> Cors:
    return Cors(CorsRules(origins=origins, headers=headers, credentials=credentials, max_age_s=600))


def asked(method: bytes = b"POST", **fields: str) -> Exchange:
    lines = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in fields.items())
    return Exchange(None, method, b"/v1/models", read_request(lines, small=True), "127.0.0.1")


def told(rules: Cors, exchange: Exchange) -> dict[str, str]:
    """The lines set, and that nothing was answered."""
    assert rules.apply(exchange) is None
    return lines(exchange)


def lines(exchange: Exchange) -> dict[str, str]:
    text = exchange.lines.decode()
    assert text == "" or text.endswith("\r\n")
    return dict(line.split(": ", 1) for line in text.splitlines())


def preflight(rules: Cors, origin: str = APP, **more: str) -> dict[str, str]:
    exchange = asked(b"OPTIONS", origin=origin, access_control_request_method="POST", **more)
    assert rules.apply(exchange) == Answer(204, b"")
    return lines(exchange)


def test_a_listed_origin_is_named_and_may_read_our_fields() -> None:
    said = told(cors("http://localhost:3000", APP), asked(origin=APP))
    assert said["Access-Control-Allow-Origin"] == APP
    assert said["Vary"] == "Origin"
    exposed = said["Access-Control-Expose-Headers"].split(", ")
    assert {"x-request-id", "x-llmsup-queue-ms", "RateLimit", "Retry-After", "retry-after-ms"} <= set(exposed)
    assert "Access-Control-Allow-Credentials" not in said


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://app.example", APP + ".evil.example", APP + ":8443", APP.upper(), "null"],
)
def test_another_origin_is_told_nothing(origin: str) -> None:
    assert told(cors(APP), asked(origin=origin)) == {"Vary": "Origin"}
    assert preflight(cors(APP), origin) == {"Vary": "Origin"}


def test_who_has_no_origin_is_told_nothing_but_caches_are() -> None:
    assert told(cors(APP), asked()) == {"Vary": "Origin"}
    assert told(cors("*"), asked()) == {}


def test_every_origin_is_a_star_that_is_the_same_for_all() -> None:
    said = told(cors("*"), asked(origin=APP))
    assert said["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in said


def test_credentials_are_allowed_by_name_only() -> None:
    rules = cors(APP, credentials=True)
    assert told(rules, asked(origin=APP))["Access-Control-Allow-Credentials"] == "true"
    assert preflight(rules)["Access-Control-Allow-Credentials"] == "true"
    assert "Access-Control-Allow-Credentials" not in told(rules, asked(origin="http://b"))


def test_a_preflight_is_granted() -> None:
    said = preflight(cors(APP), access_control_request_headers="authorization, content-type,x-stainless-os")
    assert said["Access-Control-Allow-Origin"] == APP
    assert "POST" in said["Access-Control-Allow-Methods"].split(", ")
    assert said["Access-Control-Allow-Headers"] == "authorization, content-type,x-stainless-os"
    assert said["Access-Control-Max-Age"] == "600"


def test_listed_header_fields_are_what_is_granted() -> None:
    rules = cors(APP, headers=("authorization", "content-type"))
    said = preflight(rules, access_control_request_headers="x-other")
    assert said["Access-Control-Allow-Headers"] == "authorization, content-type"


@pytest.mark.parametrize("asks", ["", "a: b", 'a"b', "a" * 2049, "caf\xe9"])
def test_what_is_no_list_of_names_is_not_repeated(asks: str) -> None:
    assert "Access-Control-Allow-Headers" not in preflight(cors(APP), access_control_request_headers=asks)


@pytest.mark.parametrize("fields", [{}, {"origin": APP}, {"access_control_request_method": "POST"}])
def test_another_options_request_is_no_preflight(fields: dict[str, str]) -> None:
    assert cors(APP).apply(asked(b"OPTIONS", **fields)) is None


def test_the_lines_are_there_before_the_request_is_refused() -> None:
    def refuse(exchange: Exchange) -> None:
        raise PermissionError

    exchange = asked(origin=APP)
    with pytest.raises(PermissionError):
        cors(APP).before(refuse)(exchange)
    assert lines(exchange)["Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize(
    "target", [b"/metrics", b"/metrics?x=1", b"/%6detrics", b"//metrics", b"http://h/metrics"]
)
def test_figures_of_all_clients_are_for_no_page(target: bytes) -> None:
    for origins in (("*",), (APP,)):
        for method, more in ((b"GET", {}), (b"OPTIONS", {"access_control_request_method": "GET"})):
            exchange = asked(method, origin=APP, **more)
            exchange.target = target
            cors(*origins).apply(exchange)
            assert "Access-Control-Allow-Origin" not in lines(exchange)
