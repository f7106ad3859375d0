"""Every table and memo that clients can fill, filled with the worst they can send: each keeps so many bytes and no more.

One row a table; whoever adds a table that clients can fill adds a row. What is measured is what stays allocated.
"""

import gc
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.clock import SystemClock
from supervisor.keys.ring import Keyring
from supervisor.proxy import headers
from supervisor.proxy.accesslog import AccessLog
from supervisor.proxy.bans import Bans
from supervisor.proxy.heads import Heads, KnownHead
from supervisor.proxy.identity import Identity, Rules
from supervisor.proxy.inflight import LEFT, Client
from supervisor.proxy.meters import KEYS_MAX, Meters
from supervisor.proxy.outline import Outline
from supervisor.proxy.prefills import HASHED_BYTES, Prefills
from supervisor.proxy.quarantine import Quarantine, fingerprint
from supervisor.proxy.server_names import ServerNames
from supervisor.proxy.suspects import Suspects
from supervisor.proxy.upload import BodyBudget
from supervisor.ratelimit.fairqueue import FairQueue
from supervisor.ratelimit.gcra import SECOND_NS
from supervisor.ratelimit.limiter import MAX_ACCOUNTS, Grant, Limiter
from supervisor.ratelimit.pools import pool
from supervisor.ratelimit.store_refusals import Refusals
from supervisor.ratelimit.tokens import OutputLengths
from supervisor.ratelimit.violations import Violations
from supervisor.types import KIB, MIB
from tests.support.finished import exchange

ALL_BYTES = 115 * MIB  # the daemon has 60 at rest, and each of these takes a flood of its own
LONGEST_NAME = "user:" + "%C3" * 97  # what identity makes of the longest and oddest


def long_name(number: int) -> str:
    return LONGEST_NAME[:-8] + f"{number:08d}"


def small_head(number: int) -> headers.Fields:
    """As many bytes as are remembered, in as many fields."""
    size = headers.MEMO_BYTES // headers.MEMO_FIELDS - 16
    return tuple((b"x-%03d-%07d" % (field, number), b"v" * size) for field in range(headers.MEMO_FIELDS))


def identities() -> object:
    who = Identity(Rules(trusted=("127.0.0.0/8",)), Keyring(None, SystemClock().wall))
    for number in range(4096):
        lines = [(b"X-Forwarded-For", b"%d," % number + b"a" * 7600) for _ in range(7)]
        lines += [(b"Forwarded", b"for=%d," % number + b"b" * 7600), (b"X-User-ID", b"")]
        fields = headers.read_request(tuple(lines), small=False)
        who.name(SimpleNamespace(fields=fields, peer="127.0.0.1", client=None))  # type: ignore[arg-type]  # of paper
    for number in range(4096):
        fields = headers.read_request(((b"X-User-ID", b"%d" % number + b"u" * 7600),), small=False)
        who.name(SimpleNamespace(fields=fields, peer="127.0.0.1", client=None))  # type: ignore[arg-type]  # of paper
    return who


def request_fields() -> object:
    for number in range(3000):
        headers.read_request(small_head(number), small=True)
    return None


def many_request_fields() -> object:
    for number in range(3000):
        headers.read_request(tuple((b"x%d" % field, b"%d" % number) for field in range(100)), small=True)
    return None


def answer_heads() -> object:
    for number in range(3000):
        head = b"HTTP/1.1 200 OK\r\nX: %d" % number
        headers.read_response(head + b"a" * (headers.MEMO_ANSWER_BYTES - len(head)))
    return None


def heads() -> object:
    known = Heads()
    for number in range(2000):
        text = b"GET /%d" % number + b"a" * 1000 + b" HTTP/1.1\r\nHost: x\r\nX: " + b"b" * 900 + b"\r\n\r\n"
        fields = headers.read_request(((b"Host", b"x"), (b"X", b"b" * 900 + b"%d" % number)), small=False)
        known.learn(text, KnownHead(b"GET", b"/" + b"a" * 1000, fields), b"")
    return known


def accounts() -> object:
    limiter = Limiter(
        {"anonymous": pool("anonymous", requests_per_minute=9, requests_per_hour=9, tokens_per_day=9)}
    )
    for number in range(MAX_ACCOUNTS + 5000):
        grant = limiter.admit(long_name(number), "anonymous", 1, SECOND_NS * 100)
        assert isinstance(grant, Grant)
        grant.settle(None, SECOND_NS * 100)
    return limiter


def violations() -> object:
    kept = Violations()
    for number in range(5000):
        for limit in ("rpm", "rph", "tpm", "tpd"):
            kept.add(long_name(number), limit, 1)
    return kept


def refusals_of_the_store() -> object:
    kept: Any = Refusals()
    for number in range(15_000):
        kept.keep(long_name(number), "anonymous", SimpleNamespace(now_ns=number))
    return kept


def output_lengths() -> object:
    kept = OutputLengths()
    for number in range(10_000):
        kept.of(long_name(number), "demo").learn(7)
    return kept


def fair_queue() -> object:
    queue: FairQueue[object] = FairQueue()
    for number in range(10_000):
        queue.dispatched(long_name(number))
        queue.charge(long_name(number), 1000.0)
        queue.ended(long_name(number))
    return queue


def prefills() -> object:
    kept = Prefills()
    for number in range(50):
        kept.served(b"/v1/completions", b"%d" % number + bytes(HASHED_BYTES - 8))
    return kept


def quarantine() -> object:
    kept = Quarantine()
    for number in range(5000):
        known = fingerprint(b"/" + b"a" * 8000, b"%d" % number)
        kept.add(known, 1.0, long_name(number) if number % 2 else "")
    return kept


def bans() -> object:
    kept = Bans()
    for number in range(1500):
        for _ in range(20):
            kept.strike(long_name(number), float(number) / 10, 0.01)
        for _ in range(2):
            kept.strike(long_name(number + 5000), float(number) / 10)
    return kept


def suspects() -> object:
    """Requests that leave the child without their answer, with crashes in between."""
    now = SimpleNamespace(now=lambda: 1.0)
    kept: Any = Suspects(Quarantine(), Bans(), now)
    for number in range(3000):
        row = SimpleNamespace(
            client=Client(long_name(number), b""), body=b"b" * 9000, path=b"/" + b"a" * 8000, crashes=0,
            served=False, sent_to=number, status=LEFT,
        )  # fmt: skip
        kept.ended(row, was_inside=True)
        kept.died(SimpleNamespace(generation=number, cause="segfault", exit_code=None), [])
        kept.ended(row, was_inside=True)
    return kept


def host_names() -> object:
    names = ServerNames(["*"])
    for number in range(5000):
        names.know(b"%d." % number + b"a" * 240)
    return names


def meters() -> object:
    kept: Any = Meters()
    for number in range(3000):
        row: Any = exchange(status=400 + number % 100)
        row.path = b"/" + b"%d" % number
        kept.count(row, 1.0)
        kept._count_key(f"{number:0100d}", row)
    assert len(kept._keys) <= KEYS_MAX + 1
    return kept


def access_log() -> object:
    log = AccessLog(lambda _: None, lambda *_: None)
    for number in range(20_000):
        row: Any = exchange(status=429, client=Client(long_name(number), b"", "user"))
        row.unserved, row.path = True, b"/" + b"\xff" * 7000
        log.tell(row, number / 10_000)
    return log


def budget() -> object:
    kept = BodyBudget()
    for number in range(5000):
        sender: Any = SimpleNamespace(owner=long_name(number))
        kept.take(sender, 1)
        kept.drop(sender, 1)
    return kept


def outlines() -> object:
    """Of bodies that were refused for it, as long as they are held."""
    kept = []
    for _ in range(8):
        one = Outline()
        for _ in range(64):
            one.feed(b'{"x":[' + b"[]," * 50_000)
        assert one.trouble is not None
        kept.append(one)
    return kept


TABLES: tuple[tuple[Callable[[], object], int], ...] = (
    (identities, 6 * MIB),
    (request_fields, 12 * MIB),
    (many_request_fields, 1 * MIB),
    (answer_heads, 6 * MIB),
    (heads, 6 * MIB),
    (accounts, 56 * MIB),
    (violations, 2 * MIB),
    (refusals_of_the_store, 10 * MIB),
    (output_lengths, 4 * MIB),
    (fair_queue, 1 * MIB),
    (prefills, 2 * MIB),
    (quarantine, 1 * MIB),
    (bans, 3 * MIB // 2),
    (suspects, 512 * KIB),
    (host_names, 1 * MIB),
    (meters, 3 * MIB),
    (access_log, 1 * MIB),
    (budget, 256 * KIB),
    (outlines, 256 * KIB),
)


@pytest.mark.parametrize(("fill", "most"), TABLES, ids=lambda one: getattr(one, "__name__", ""))
def test_it_keeps_so_many_bytes_and_no_more(fill: Callable[[], object], most: int) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = fill()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    del kept
    assert held <= most, f"{held / MIB:.2f} MiB"


def test_all_of_them_together_leave_the_daemon_small() -> None:
    assert sum(most for _, most in TABLES) <= ALL_BYTES
