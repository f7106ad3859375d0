"""The dashboard's files: as they should be, served under a strict policy, nothing from elsewhere."""

import asyncio
import hashlib
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.control import page
from supervisor.proxy.headers import read_request
from supervisor.proxy.inflight import Exchange
from tests.support.overseer import Surface, ask

FOLDER = resources.files("supervisor.control.dashboard")
# Of uplot 1.6.32 in the npm registry (dist/, LICENSE): a change of these files is a change of version.
VENDORED = {
    "uPlot.esm.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
OWN = sorted(set(page.assets()) - set(VENDORED))


SERVED = page.static_files()


def got(target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """As the port answers it."""
    fields = [(b"Host", b"localhost"), *((name.encode(), value.encode()) for name, value in headers.items())]
    asking = Exchange(SimpleNamespace(), b"GET", target.encode(), read_request(tuple(fields), small=True), "")  # type: ignore[arg-type]
    answer = SERVED.answer(asking, target.encode().removeprefix(b"/"))
    if answer is None:
        return 404, {}, b""
    lines = dict(line.split(": ", 1) for line in asking.lines.decode().lower().splitlines())
    return answer.status, lines | {"content-type": answer.kind.decode()}, answer.body


def test_what_is_vendored_is_what_was_published() -> None:
    for name, digest in VENDORED.items():
        assert hashlib.sha256(FOLDER.joinpath(name).read_bytes()).hexdigest() == digest, name


def test_the_page_and_all_it_names_are_served() -> None:
    status, fields, body = got("/")
    assert status == 200
    assert fields["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:src|href)="(assets/[^"]+)"', body.decode()))
    assert {"assets/app.js", "assets/style.css", "assets/uPlot.min.css"} <= named
    for path in named:
        assert got(f"/{path}")[0] == 200, path


def test_every_import_is_a_file_of_ours() -> None:
    found = 0
    for name in OWN:
        if name.endswith(".js"):
            for imported in re.findall(r'from "([^"]+)"', page.assets()[name].body.decode()):
                found += 1
                assert imported.startswith("./")
                assert imported[2:] in page.assets(), f"{imported} in {name}"
    assert found > 10


def test_the_policy_lets_nothing_else_in() -> None:
    for target in ("/", "/assets/app.js", "/assets/style.css"):
        _, fields, _ = got(target)
        policy = dict(part.strip().split(" ", 1) for part in fields["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert fields["x-content-type-options"] == "nosniff"
        assert "unsafe" not in fields["content-security-policy"]


def test_nothing_in_it_needs_a_weaker_policy_or_another_server() -> None:
    index = page.assets()[page.INDEX].body.decode()
    assert "<style" not in index
    assert not re.search(r"<script(?![^>]*\bsrc=)", index)
    assert not re.search(r"\s(?:on\w+|style)=", index)
    for name in OWN:
        body = page.assets()[name].body.decode()
        urls = set(re.findall(r"https?://[^\s\"'`)]+", body))
        assert urls <= {"http://www.w3.org/2000/svg"}, name


def test_text_never_becomes_markup() -> None:
    for name in OWN:
        if name.endswith(".js"):
            body = page.assets()[name].body.decode()
            for word in (
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "DOMParser",
            ):
                assert word not in body, f"{word} in {name}"


def test_an_unchanged_file_is_not_sent_again() -> None:
    _, fields, body = got("/assets/app.js")
    assert body
    status, again, nothing = got("/assets/app.js", **{"if-none-match": fields["etag"]})
    assert (status, nothing) == (304, b"")
    assert again["etag"] == fields["etag"]


@pytest.mark.parametrize("name", ["nothing.js", "uPlot.LICENSE", "__init__.py", "..%2fpage.py", "../page.py"])
def test_no_other_file_is_served(name: str) -> None:
    assert got(f"/assets/{name}")[0] == 404
    assert got(f"/{name}")[0] == 404


def test_the_control_socket_has_no_page(tmp_path: Path) -> None:
    assert asyncio.run(ask(Surface(tmp_path).app, "GET", "/"))[0] == 404
