"""Lines for machines and for people, and no reader or disk that can take the daemon along."""

import io
import json
import sys
from collections.abc import Iterator

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
