"""The operator's page in a real browser, on the real daemon with the real binary: every view, actions, no complaint.

The pictures go to the folder $LLMSUP_ARTEFACTS, where it is set: each view in light, in dark, and 360 px wide.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import DaemonUnderTest, until

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWS = ("models", "requests", "clients", "deaths", "logs", "config", "chat")
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 360, "height": 740}
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
WAIT_MS = 15_000


@pytest.fixture(scope="module")
def daemon(llama_server_binary: Path, demo_model: Path) -> Iterator[DaemonUnderTest]:
    models = {"demo": {"parallel": 2, "context_size": 2048}, "spare": {"parallel": 1, "context_size": 1024}}
    with DaemonUnderTest(
        binary=llama_server_binary,
        model_path=demo_model,
        models=models,
        limits={"pools": {"anonymous": {"requests_per_minute": 600, "requests_per_hour": 10000}}},
    ) as living:
        living.run()
        living.wait_ready(within_s=120.0)
        living.wait_for(lambda one: one["state"] == "READY", "READY", "spare", within_s=120.0)
        generation = living.kill_child()
        living.wait_next(generation)
        yield living


@pytest.fixture(scope="module")
def key(daemon: DaemonUnderTest) -> str:
    done = daemon.cli("keys", "create", "ops", "--scope", "admin")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).exists():
        assert os.environ.get("CI") != "true", "there is no chromium"
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


class Looker:
    """A page that is signed in; everything its console or its network complains of is kept."""

    def __init__(self, browser: Any, daemon: DaemonUnderTest, key: str | None, **context: Any) -> None:
        self.complaints: list[str] = []
        self.context = browser.new_context(base_url=f"http://127.0.0.1:{daemon.port}", **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("dialog", self._dialog)
        self.page.goto("/llmsup/")
        if key is not None:
            self.sign_in(key)

    def _hear(self, message: Any) -> None:
        # The first look of a browser that is not signed in is answered 401, which the console names an error.
        if message.type in {"error", "warning"} and "401" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def _failed(self, request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # a stream that the page itself has closed
            self.complaints.append(f"{request.url}: {request.failure}")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"a script has spoken: {dialog.message}")
        dialog.dismiss()

    def sign_in(self, key: str) -> None:
        self.page.get_by_label("Admin key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        playwright.expect(self.page.get_by_text("live", exact=True)).to_be_visible()

    def open(self, view: str) -> Any:
        self.page.locator(f".tabs a[href='#{view}']").click()
        return self.page.locator("#view")

    def close(self) -> None:
        """Also where a test has failed: an open stream would keep a descriptor."""
        self.context.close()
        assert not self.complaints, self.complaints


@pytest.fixture
def looker(browser: Any, daemon: DaemonUnderTest, key: str) -> Iterator[Looker]:
    looking = Looker(browser, daemon, key, viewport=WIDE)
    yield looking
    looking.close()


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("LLMSUP_ARTEFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("dashboard")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def expect(locator: Any) -> Any:
    playwright.expect.set_options(timeout=WAIT_MS)
    return playwright.expect(locator)


@contextlib.contextmanager
def held(daemon: DaemonUnderTest) -> Iterator[Any]:
    """A request that stays in the middle of its answer: the demo model would have finished before anybody looks."""
    with daemon.streaming("Tell me a long story", max_tokens=1500, ignore_eos=True) as reader:
        child = daemon.child_pid
        os.kill(child, signal.SIGSTOP)
        try:
            yield reader
        finally:
            os.kill(child, signal.SIGCONT)


# ---- every view says what the daemon says


def test_without_a_key_it_asks_for_one_and_takes_no_wrong_one(browser, daemon, key):
    looker = Looker(browser, daemon, None, viewport=WIDE)
    expect(looker.page.get_by_role("heading", name="Sign in")).to_be_visible()
    looker.page.get_by_label("Admin key").fill("llmsup_00000000_" + "x" * 43)
    looker.page.get_by_role("button", name="Sign in").click()
    expect(looker.page.get_by_role("alert").filter(has_text="unknown")).to_be_visible()
    looker.sign_in(key)
    assert key not in str(looker.context.cookies())
    looker.page.reload()  # the session outlives the page
    expect(looker.page.get_by_role("heading", name="Models")).to_be_visible()
    looker.page.get_by_role("button", name="Sign out").click()
    expect(looker.page.get_by_role("heading", name="Sign in")).to_be_visible()
    looker.close()


def test_models_with_their_state_and_memory(looker, daemon):
    view = looker.open("models")
    for name in ("demo", "spare"):
        card = view.get_by_role("article", name=name)
        expect(card.get_by_text("READY", exact=True)).to_be_visible()
        expect(card.locator("canvas")).to_be_visible()
        expect(card.locator(".strip rect").first).to_be_attached()
    expect(view.get_by_text("killed", exact=False).first).to_be_visible()


def test_deaths_with_cause_evidence_and_last_words(looker, daemon):
    view = looker.open("deaths")
    newest = view.locator("details").first
    expect(newest).to_contain_text("killed")
    expect(newest).to_contain_text("demo")
    newest.locator("summary").click()
    expect(newest.get_by_text("SIGKILL", exact=True)).to_be_visible()
    expect(newest.get_by_label("Last output")).to_be_visible()


def test_logs_as_they_are_written(looker, daemon):
    view = looker.open("logs")
    expect(view.get_by_role("log")).to_contain_text("llama", timeout=WAIT_MS)
    view.get_by_label("Log", exact=True).select_option(label="llmsup")
    expect(view.get_by_role("log")).to_contain_text("listening")
    view.get_by_label("Show only lines with").fill("listening")
    shown = view.locator(".line:visible")
    expect(shown.first).to_contain_text("listening")
    assert shown.count() < view.locator(".line").count()


def test_the_effective_configuration(looker, daemon):
    view = looker.open("config")
    row = view.get_by_role("row", name="models.demo.parallel")
    expect(row).to_contain_text("2")
    expect(row).to_contain_text("llmsup.yaml:")
    view.get_by_label("Show only settings with").fill("queue_timeout")
    expect(view.locator("tbody tr")).to_have_count(1)
    expect(view.locator("tbody tr")).to_contain_text("default")


def test_a_chat_streams_through_the_port(looker, daemon):
    view = looker.open("chat")
    view.get_by_label("Message").fill("What is llmsup?")
    view.get_by_label("Message").press("Enter")
    answer = view.locator(".turn.assistant")
    expect(answer.locator(".words")).not_to_be_empty()
    expect(answer.locator(".foot")).to_contain_text("tokens/s")


def test_what_a_model_says_is_text(looker, daemon):
    """Whatever comes out of a model, a child or a client: the page shows it and runs none of it."""
    events = {"choices": [{"delta": {"content": HOSTILE}}]}
    body = f"data: {json.dumps(events)}\n\ndata: [DONE]\n\n"
    looker.page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream")
    )
    view = looker.open("chat")
    view.get_by_label("Message").fill(HOSTILE)
    view.get_by_label("Message").press("Enter")
    expect(view.locator(".turn.assistant .words")).to_have_text(HOSTILE)
    assert view.locator("img, script").count() == 0


# ---- actions


def test_restart_asks_first_and_shows_the_new_generation(looker, daemon):
    generation = daemon.model("spare")["generation"]
    card = looker.open("models").get_by_role("article", name="spare")
    card.get_by_role("button", name="Restart").click()
    expect(looker.page.get_by_role("dialog")).to_be_visible()
    looker.page.keyboard.press("Escape")
    expect(looker.page.get_by_role("dialog")).to_be_hidden()
    assert daemon.model("spare")["generation"] == generation
    card.get_by_role("button", name="Restart").click()
    looker.page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    expect(looker.page.get_by_text("spare is restarting")).to_be_visible()
    daemon.wait_next(generation, "spare")
    expect(card.locator(".facts div", has_text="Generation").locator("dd")).to_have_text(str(generation + 1))
    expect(card.get_by_text("READY", exact=True)).to_be_visible()


def test_unload_and_load(looker, daemon):
    card = looker.open("models").get_by_role("article", name="spare")
    card.get_by_role("button", name="Unload").click()
    looker.page.get_by_role("dialog").get_by_role("button", name="Unload").click()
    expect(card.get_by_text("STOPPED", exact=True)).to_be_visible()
    card.get_by_role("button", name="Load").click()
    looker.page.get_by_role("dialog").get_by_role("button", name="Load").click()
    expect(card.get_by_text("READY", exact=True)).to_be_visible()


def test_a_live_request_is_seen_and_cancelled(looker, daemon):
    with held(daemon) as reader:
        view = looker.open("requests")
        row = view.locator("tbody tr").first
        expect(row).to_contain_text("/v1/chat/completions")
        expect(row).to_contain_text("answering")
        expect(looker.open("clients").locator("tbody tr").first).to_contain_text("ip:127.0.0.1")
        looker.open("requests")
        row.get_by_role("button", name="Cancel").click()
        looker.page.get_by_role("dialog").get_by_role("button", name="Cancel request").click()
        expect(looker.page.get_by_text("Request cancelled")).to_be_visible()
        until(reader.is_closed, "the client is told")
    expect(view.get_by_text("No request is in flight")).to_be_visible()


def test_a_refused_configuration_is_said_until_it_is_mended(looker, daemon):
    good = daemon.config.read_text()
    try:
        daemon.config.write_text(good + "\nnonsense: 1\n")
        looker.open("models").get_by_role("button", name="Reload configuration").click()
        looker.page.get_by_role("dialog").get_by_role("button", name="Reload").click()
        expect(looker.page.locator(".toast.bad")).to_contain_text("nonsense")
        expect(looker.page.locator("#banner")).to_contain_text("nonsense")
        looker.complaints[:] = [one for one in looker.complaints if "422" not in one]  # as it should be
    finally:
        daemon.config.write_text(good)
    assert daemon.cli("reload").returncode == 0
    expect(looker.page.locator("#banner")).to_be_hidden()


# ---- by keyboard, and from far away


def test_tabs_by_number_and_focus_that_is_seen(looker, daemon):
    for number, view in enumerate(VIEWS[:6], 1):
        looker.page.keyboard.press(str(number))
        expect(looker.page.locator(f".tabs a[href='#{view}']")).to_have_attribute("aria-current", "page")
    looker.page.keyboard.press("1")
    looker.page.keyboard.press("Tab")
    outline = looker.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_everything_to_press_has_a_name(looker, daemon):
    for view in VIEWS:
        looker.open(view)
        nameless = looker.page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select, textarea")]
            .filter((one) => one.checkVisibility() && !(one.textContent.trim() || one.ariaLabel || one.labels?.length))
            .map((one) => one.outerHTML)"""
        )
        assert nameless == [], view


def test_the_choice_of_light_or_dark_is_kept(looker, daemon):
    def ground() -> object:
        return looker.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = ground()
    button = looker.page.get_by_role("button", name="Theme")
    button.click()
    assert ground() == light
    button.click()
    dark = ground()
    assert dark != light
    looker.page.reload()
    expect(looker.page.get_by_role("heading", name="Models")).to_be_visible()
    assert ground() == dark


@pytest.mark.parametrize("look", ["light", "dark", "narrow"])
def test_a_picture_of_every_view(browser, daemon, key, artefacts, look):
    options = {
        "viewport": NARROW if look == "narrow" else WIDE,
        "color_scheme": "dark" if look == "dark" else "light",
    }
    looker = Looker(browser, daemon, key, **options)
    try:
        with held(daemon):
            for view in ("requests", "clients"):
                picture(looker, view, artefacts / f"{view}-{look}.png")
        for view in [view for view in VIEWS if view not in {"requests", "clients"}]:
            picture(looker, view, artefacts / f"{view}-{look}.png")
    finally:
        looker.context.close()
    assert not looker.complaints, looker.complaints


def picture(looker: Looker, view: str, path: Path) -> None:
    looker.open(view)
    prepare(looker.page, view)
    too_wide = looker.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    looker.page.screenshot(path=str(path), full_page=view in {"models", "deaths"})
    assert too_wide <= 0, f"{view} is {too_wide} px too wide"
    assert path.stat().st_size > 5000


def prepare(page: Any, view: str) -> None:
    """Wait for what the picture is to show."""
    if view == "models":
        expect(page.locator(".events li").first).to_be_visible()
        expect(page.locator("canvas").first).to_be_visible()
    elif view == "deaths":
        page.locator("details.death summary").first.click()
    elif view == "logs":
        expect(page.locator(".line").first).to_be_visible()
    elif view == "chat":
        page.get_by_label("Message").fill("What is llmsup?")
        page.get_by_label("Message").press("Enter")
        expect(page.locator(".turn.assistant .foot")).not_to_be_empty()
    else:
        expect(page.locator("tbody tr").first).to_be_visible()
