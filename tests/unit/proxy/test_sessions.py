"""Browser sessions: random, bounded, over in time, never the key itself."""

from supervisor.keys.key import Presented
from supervisor.proxy.sessions import LIFE_S, MOST, Sessions, set_cookie, token_in

SHOWN = Presented("12345678", b"digest")


def test_a_session_stands_for_what_was_shown_until_it_is_over() -> None:
    sessions = Sessions()
    token = sessions.open(SHOWN, now=100.0)
    assert sessions.find(token, now=100.0 + LIFE_S - 1) is SHOWN
    assert sessions.find(token, now=100.0 + LIFE_S) is None
    assert sessions.find(token, now=100.0) is None  # over is over


def test_tokens_are_long_and_never_alike_and_are_not_kept() -> None:
    sessions = Sessions()
    tokens = {sessions.open(SHOWN, now=0.0) for _ in range(10)}
    assert len(tokens) == 10
    assert all(len(token) >= 43 for token in tokens)
    assert not tokens & set(sessions._open)
    assert sessions.find(b"", now=0.0) is None
    assert sessions.find(next(iter(tokens))[:-1], now=0.0) is None


def test_a_closed_one_is_gone() -> None:
    sessions = Sessions()
    token = sessions.open(SHOWN, now=0.0)
    sessions.close(token)
    sessions.close(b"never was")
    assert sessions.find(token, now=0.0) is None


def test_the_oldest_go_when_there_are_too_many() -> None:
    sessions = Sessions()
    tokens = [sessions.open(SHOWN, now=0.0) for _ in range(MOST + 1)]
    assert sessions.find(tokens[0], now=0.0) is None
    assert sessions.find(tokens[1], now=0.0) is SHOWN


def test_the_token_in_a_cookie_field() -> None:
    assert token_in(b"a=b; llmsup_session=abc; c=d") == b"abc"
    assert token_in(b"xllmsup_session=abc") == b""
    assert token_in(b"") == b""
    assert token_in(None) == b""


def test_the_cookie_is_for_our_pages_and_no_script() -> None:
    line = set_cookie(b"abc", secure=False)
    assert line.startswith(b"Set-Cookie: llmsup_session=abc; Path=/llmsup/; ")
    assert b"HttpOnly" in line
    assert b"SameSite=Strict" in line
    assert b"Secure" not in line
    assert b"; Secure\r\n" in set_cookie(b"abc", secure=True)
    assert b"Max-Age=0;" in set_cookie(b"", secure=False)
