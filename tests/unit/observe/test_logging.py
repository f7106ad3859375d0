"""Lines for machines and for people, and no reader or disk that can take the daemon along."""

import io
import json
import logging as standard
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from supervisor.observe import logging


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A pipe whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def said(style: str, stream: io.StringIO | None = None, level: str = "info") -> str:
    out = io.StringIO() if stream is None else stream
    logging.configure(level=level, style=style, stream=out)
    log = structlog.get_logger("test")
    log.debug("unimportant")
    log.info("ready", model="demo", port=40001)
    return out.getvalue()


@pytest.mark.parametrize("style", ["json", "auto"])
def test_a_file_gets_one_json_object_a_line(style: str) -> None:
    (line,) = said(style).splitlines()
    entry = json.loads(line)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"event": "ready", "level": "info", "model": "demo", "port": 40001}


def test_a_terminal_gets_colours() -> None:
    assert "\x1b[" in said("auto", Terminal())


def test_console_style_in_a_file_is_plain() -> None:
    text = said("console")
    assert "ready" in text
    assert "model=demo" in text
    assert "\x1b[" not in text


def test_the_level_decides_what_is_said() -> None:
    assert len(said("json", level="debug").splitlines()) == 2
    assert said("json", level="warning") == ""


def test_a_traceback_is_part_of_its_line() -> None:
    out = io.StringIO()
    logging.configure(level="info", style="json", stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger("test").exception("failed")
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["exception"][0]["exc_value"] == "broken"


def test_a_reader_that_has_left_is_survived() -> None:
    said("json", Broken())


def test_a_closed_stream_is_survived() -> None:
    stream = Terminal()
    logging.configure(level="info", style="json", stream=stream)
    stream.close()
    structlog.get_logger("test").info("nobody hears")


def test_no_stderr_at_all_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logging.configure(level="info", style="auto")
    structlog.get_logger("test").info("nobody hears")


# ---- the daemon's own files


@pytest.fixture
def files(tmp_path: Path) -> Iterator[logging.DaemonLogs]:
    root = standard.getLogger()
    before = root.handlers[:]
    it = logging.DaemonLogs(tmp_path)
    yield it
    it.close()
    root.handlers[:] = before


def lines(files: logging.DaemonLogs, name: str) -> list[dict[str, Any]]:
    files.close()
    path = files.folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_all_goes_to_the_general_file_and_errors_to_their_own(files: logging.DaemonLogs) -> None:
    out = io.StringIO()
    logging.configure(level="info", style="auto", stream=out, files=files)
    log = structlog.get_logger("test")
    log.debug("unimportant")
    log.info("ready")
    log.error("broken")
    assert [line["event"] for line in lines(files, logging.GENERAL)] == ["ready", "broken"]
    assert [line["event"] for line in lines(files, logging.ERRORS)] == ["broken"]
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["ready", "broken"]


def test_files_are_json_beside_a_terminal_and_text_when_asked_for(files: logging.DaemonLogs) -> None:
    out = Terminal()
    logging.configure(level="info", style="auto", stream=out, files=files)
    structlog.get_logger("test").info("first")
    logging.configure(level="info", style="console", stream=out, files=files)
    structlog.get_logger("test").info("second")
    files.close()
    first, second = (files.folder / logging.GENERAL).read_text().splitlines()
    assert json.loads(first)["event"] == "first"
    assert "second" in second
    assert "\x1b" not in second
    assert "\x1b" in out.getvalue()


def test_in_the_background_nothing_goes_to_the_stream(files: logging.DaemonLogs) -> None:
    out = io.StringIO()
    logging.configure(level="info", style="auto", stream=out, files=files, background=True)
    structlog.get_logger("test").error("broken")
    assert len(lines(files, logging.GENERAL)) == 1
    assert out.getvalue() == ""


def test_what_libraries_say_comes_too(files: logging.DaemonLogs) -> None:
    logging.configure(level="info", style="auto", files=files, background=True)
    standard.getLogger("asyncio").info("chatter")
    try:
        raise ValueError("broken")
    except ValueError as error:
        caught = error
    # Outside of the except: what is said is the record's, not what is being handled.
    standard.getLogger("asyncio").error("Task exception was never retrieved, %s", "really", exc_info=caught)
    (line,) = lines(files, logging.ERRORS)
    assert line["exception"][0]["exc_value"] == "broken"
    assert line["event"] == "Task exception was never retrieved, really"
    assert line["logger"] == "asyncio"


# ---- secrets


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_masked_by_name_and_by_look_also_in_tracebacks(style: str) -> None:
    out = io.StringIO()
    logging.configure(level="info", style=style, stream=out)
    log = structlog.get_logger("test")
    log.info("one", api_key="verysecret1", nested={"Authorization": "verysecret2"})
    log.info("Bearer verysecret3")
    local = "verysecret4"
    try:
        raise ValueError("--api-key verysecret5")
    except ValueError:
        log.exception("failed")
    assert local
    assert "verysecret" not in out.getvalue()
    assert out.getvalue().count("***") >= 4
