"""What a page of another site can do with a real Chromium to the real daemon and binary: nothing, and read nothing.

Its names mean this machine; so does, today, that of a page that was loaded from elsewhere ("DNS rebinding").
"""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.real.test_dashboard import ARGUMENTS, CHROMIUM, WAIT_MS
from tests.support.daemon import DaemonUnderTest, until

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

NAMES = "--host-resolver-rules=MAP evil.test 127.0.0.1,MAP rebound.test 127.0.0.1"
ASK = """async (asked) => {
  const outcomes = {};
  for (const [url, options] of asked) {
    try {
      const answer = await fetch(url, options);
      outcomes[url] = [answer.type, answer.status, await answer.text()];
    } catch (error) { outcomes[url] = ["failed", 0, ""]; }
  }
  return outcomes;
}"""
CHAT = {
    "method": "POST",
    "body": json.dumps({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}),
}


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another program of this machine; what browsers have sent it is kept."""

    cookies: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.cookies.append(self.headers.get("Cookie") or "")
        body = b"<p>cat pictures</p>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def daemon(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    with DaemonUnderTest(binary=llama_server_binary, model_path=demo_model) as living:
        living.run()
        living.wait_ready(within_s=120.0)
        yield living


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, NAMES])
        yield running
        running.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    yield opened
    context.close()


def accesses(daemon: DaemonUnderTest) -> list[dict[str, Any]]:
    path = daemon.state_dir / "logs" / "llmsup-access.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_page_of_another_site_gets_nothing_done(page: Any, daemon: DaemonUnderTest, elsewhere: int) -> None:
    page.goto(f"http://evil.test:{elsewhere}/")
    before = daemon.model()["tokens"]
    own = f"http://127.0.0.1:{daemon.port}"
    blind = {"mode": "no-cors", "credentials": "include"}
    asked = [
        [f"{own}/v1/chat/completions", CHAT | blind],
        [f"{own}/completion", {"method": "POST", "body": '{"prompt": "x"}'} | blind],
        [f"{own}/llmsup/stop", {"method": "POST"} | blind],
        [f"{own}/v1/models", {}],
        [f"{own}/metrics", blind],
    ]
    outcomes = page.evaluate(ASK, asked)
    assert {text for _, _, text in outcomes.values()} == {""}
    until(lambda: len(accesses(daemon)) == len(asked), "each has come, and is written down")
    assert {one["status"] for one in accesses(daemon)} == {403}
    assert daemon.model()["tokens"] == before
    assert not daemon.status()["stopping"]


def test_a_rebound_page_reads_nothing(page: Any, daemon: DaemonUnderTest) -> None:
    answer = page.goto(f"http://rebound.test:{daemon.port}/health")
    assert answer.status == 421
    outcomes = page.evaluate(
        ASK, [["/v1/chat/completions", CHAT], ["/v1/models", {}], ["/metrics", {}], ["/llmsup/status", {}]]
    )
    assert {status for _, status, _ in outcomes.values()} == {421}


def test_what_another_port_is_sent_of_a_session_is_not_enough(
    page: Any, daemon: DaemonUnderTest, elsewhere: int
) -> None:
    key = daemon.cli("keys", "create", "ops", "--scope", "admin").stdout.strip()
    page.goto(f"http://127.0.0.1:{daemon.port}/llmsup/")
    page.get_by_label("Admin key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    playwright.expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.reload()
    playwright.expect(page.get_by_role("heading", name="Models")).to_be_visible()  # the tab keeps its token
    Elsewhere.cookies.clear()
    other = page.context.new_page()
    other.goto(f"http://127.0.0.1:{elsewhere}/llmsup/")
    stolen = next(cookie for cookie in Elsewhere.cookies if cookie)
    assert "llmsup_session=" in stolen
    for method, path in (
        ("GET", "/llmsup/status"),
        ("POST", "/llmsup/reload"),
        ("GET", "/llmsup/events?follow=1"),
    ):
        reply = daemon.ask(method, path, **{"Cookie": stolen, "x-llmsup-csrf": "1"})
        assert reply.status == 401, path
    other.goto(f"http://127.0.0.1:{daemon.port}/llmsup/")  # a new tab has the cookie, and asks for the key
    playwright.expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
