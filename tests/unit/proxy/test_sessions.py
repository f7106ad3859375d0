"""Browser sessions: two secrets, random, bounded, over in time, never the key itself."""

from supervisor.keys.key import Presented
from supervisor.proxy.sessions import LIFE_S, MOST, MOST_PAGES, Sessions, set_cookie, token_in

SHOWN = Presented("12345678", b"digest")
ANOTHER = Presented("87654321", b"another")


def test_a_session_stands_for_what_was_shown_until_it_is_over() -> None:
    sessions = Sessions()
    opened = sessions.open(SHOWN, now=100.0)
    assert sessions.find(opened.cookie, opened.page, now=100.0 + LIFE_S - 1) is SHOWN
    assert sessions.find(opened.cookie, opened.page, now=100.0 + LIFE_S) is None
    assert sessions.find(opened.cookie, opened.page, now=100.0) is None  # over is over


def test_the_cookie_alone_is_nothing_and_neither_is_the_page_alone() -> None:
    """The cookie goes to every port of the host."""
    sessions = Sessions()
    opened, other = sessions.open(SHOWN, now=0.0), sessions.open(SHOWN, now=0.0)
    for page in (b"", b"1", opened.cookie, other.page, opened.page[:-1], opened.page + b"x"):
        assert sessions.find(opened.cookie, page, now=0.0) is None
    assert sessions.find(b"", opened.page, now=0.0) is None
    assert sessions.find(other.cookie, opened.page, now=0.0) is None


def test_a_second_tab_has_a_token_of_its_own_in_the_same_session() -> None:
    sessions = Sessions()
    first = sessions.open(SHOWN, now=0.0)
    second = sessions.open(SHOWN, now=1.0, cookie=first.cookie)
    assert second.cookie == first.cookie
    assert second.page != first.page
    assert sessions.find(first.cookie, first.page, now=2.0) is SHOWN
    assert sessions.find(first.cookie, second.page, now=2.0) is SHOWN
    for _ in range(MOST_PAGES):
        sessions.open(SHOWN, now=2.0, cookie=first.cookie)
    assert sessions.find(first.cookie, first.page, now=2.0) is None


def test_another_key_or_a_made_up_cookie_begins_a_session_of_its_own() -> None:
    sessions = Sessions()
    first = sessions.open(SHOWN, now=0.0)
    other = sessions.open(ANOTHER, now=0.0, cookie=first.cookie)
    assert other.cookie != first.cookie
    assert sessions.find(first.cookie, first.page, now=0.0) is None  # the browser has forgotten it
    assert sessions.open(SHOWN, now=0.0, cookie=b"chosen by somebody").cookie != b"chosen by somebody"


def test_tokens_are_long_and_never_alike_and_are_not_kept() -> None:
    sessions = Sessions()
    opened = [sessions.open(SHOWN, now=0.0) for _ in range(10)]
    tokens = {token for one in opened for token in (one.cookie, one.page)}
    assert len(tokens) == 20
    assert all(len(token) >= 43 for token in tokens)
    assert not tokens & set(sessions._open)
    assert not tokens & {page for session in sessions._open.values() for page in session.pages}
    assert sessions.find(b"", b"", now=0.0) is None


def test_a_closed_one_is_gone() -> None:
    sessions = Sessions()
    opened = sessions.open(SHOWN, now=0.0)
    sessions.close(opened.cookie)
    sessions.close(b"never was")
    assert sessions.find(opened.cookie, opened.page, now=0.0) is None


def test_the_oldest_go_when_there_are_too_many() -> None:
    sessions = Sessions()
    opened = [sessions.open(SHOWN, now=0.0) for _ in range(MOST + 1)]
    assert sessions.find(opened[0].cookie, opened[0].page, now=0.0) is None
    assert sessions.find(opened[1].cookie, opened[1].page, now=0.0) is SHOWN


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
