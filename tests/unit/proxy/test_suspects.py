"""`proxy.suspects`: who brought it down is found, its client's door closes, and nobody else pays for it."""

import pytest

from supervisor.errors import ClientBanned, Quarantined
from supervisor.events import Inside
from supervisor.proxy.inflight import LEFT, Client, Exchange
from supervisor.proxy.suspects import ALONE_S, DRAIN_S, HOLD_S, LEFT_S
from supervisor.types import Generation
from tests.support.desk import FIELDS, Desk

EVE, MALLORY, BOB, CAROL = "ip:192.0.2.66", "ip:192.0.2.67", "key:bob", "user:carol"


class Scene(Desk):
    """A desk at which llama-server dies. ``lives``: the generation in service."""

    def __init__(self, slots: int = 4) -> None:
        super().__init__(slots=slots, queue_size=50)
        self.lives = 1
        self.told: list[str] = []
        self.admission.tell_ban = lambda client, _: self.told.append(client)
        self.ready()

    @property
    def inside(self) -> set[Exchange]:
        return set(self.gate.active)

    def crash(self, cause: str = "segfault", *, told_first: bool = False) -> None:
        """With all that is inside; the next one is ready."""
        inside = list(self.gate.active)
        if told_first:
            self.died(self.lives, cause)
        for one in inside:
            self.attempt(one)
        if not told_first:
            self.died(self.lives, cause)
        self.lives += 1
        self.ready(generation=self.lives)

    def answered(self, exchange: Exchange) -> None:
        exchange.served = True
        self.gate.leave(exchange)

    def leaves(self, exchange: Exchange) -> None:
        """Its client does."""
        exchange.status = LEFT
        self.gate.leave(exchange)

    def banned(self, client: str) -> bool:
        return bool(self.admission.bans.left_s(client, self.time))

    def knows(self, body: bytes, client: str) -> bool:
        try:
            self.gate._suspects.check(asking(body, client))
        except Quarantined:
            return True
        return False


def asking(body: bytes, client: str) -> Exchange:
    exchange = Exchange(None, b"POST", b"/", FIELDS, "")  # type: ignore[arg-type]
    exchange.body, exchange.client = body, Client(client, client.encode())
    return exchange


# ---- alone


def test_nothing_is_let_in_beside_a_suspect_be_it_slotless() -> None:
    scene = Scene()
    one, two = scene.ask(client=BOB), scene.ask(client=CAROL)
    scene.crash()
    (first,) = scene.inside
    new = [scene.ask(client=EVE, body=b"poison"), scene.ask(client=EVE, needs_slot=False)]
    assert scene.inside == {first}
    scene.answered(first)
    (second,) = scene.inside
    assert {first, second} == {one, two}
    scene.answered(second)
    assert scene.inside == set(new)


def test_its_first_token_ends_that() -> None:
    scene = Scene()
    one = scene.ask(client=BOB)
    scene.crash()
    new = scene.ask(client=CAROL)
    assert scene.inside == {one}
    scene.gate.first_token(one)
    assert scene.inside == {one, new}


def test_and_so_does_time() -> None:
    scene = Scene()
    one = scene.ask(client=BOB)
    scene.crash()
    new = scene.ask(client=CAROL)
    scene.time += ALONE_S - 0.1
    scene.gate.sweep(scene.time)
    assert scene.inside == {one}
    scene.time += 0.1
    scene.gate.sweep(scene.time)
    assert scene.inside == {one, new}


def test_a_suspect_waits_until_the_child_is_empty_but_not_for_ever() -> None:
    scene = Scene()
    one, two = scene.ask(client=BOB), scene.ask(client=CAROL)
    scene.crash()
    (first,) = scene.inside
    scene.gate.first_token(first)  # and a long answer follows
    new = scene.ask(client=EVE)
    assert scene.inside == {first}, "newcomers wait, so that it gets empty"
    scene.time += DRAIN_S
    scene.gate.sweep(scene.time)
    assert scene.inside == {one, two}
    second = two if first is one else one
    scene.gate.first_token(second)
    assert new in scene.inside


def test_many_suspects_hold_up_nobody_for_longer_than_that() -> None:
    scene = Scene(slots=8)
    suspects = [scene.ask(client=EVE, needs_slot=False) for _ in range(30)]
    scene.crash()
    new = scene.ask(client=BOB)
    began = scene.time
    while new not in scene.inside:
        scene.time += 1.0
        scene.gate.sweep(scene.time)
        assert scene.time - began <= HOLD_S + ALONE_S
    assert sum(one in scene.inside for one in suspects) < 5, "the others of them are still tried one by one"


# ---- blame


@pytest.mark.parametrize("told_first", [True, False], ids=["exit first", "connections first"])
def test_three_that_differ_by_a_byte_close_the_door_of_their_client_only(told_first: bool) -> None:
    scene = Scene()
    poison = scene.ask(client=EVE, body=b"p0")
    scene.crash(told_first=told_first)
    assert scene.inside == {poison}
    scene.crash(told_first=told_first)
    assert (scene.refused[poison], scene.told) == ("request_quarantined", [])
    assert scene.knows(b"p0", BOB), "for everybody: nothing else was there"
    another = scene.ask(client=EVE, body=b"p1")
    scene.crash(told_first=told_first)
    assert (scene.refused[another], scene.told) == ("client_banned", [EVE])
    third = scene.ask(client=EVE, body=b"p2")
    assert scene.refused[third] == "client_banned"
    assert scene.ask(client=BOB) in scene.inside
    assert scene.lives == 4


def test_the_ban_says_for_how_long() -> None:
    scene = Scene()
    for _ in range(2):
        scene.admission.bans.strike(EVE, scene.time)
    with pytest.raises(ClientBanned) as told:
        scene.gate._suspects.check(asking(b"", EVE))
    assert (told.value.status, told.value.retry_after_s) == (403, 3600.0)


def test_what_a_banned_client_has_waiting_goes_too() -> None:
    scene = Scene(slots=1)
    scene.admission.bans.strike(EVE, scene.time)
    scene.ask(client=EVE, body=b"p1")
    waits, other = scene.ask(client=EVE, body=b"p2"), scene.ask(client=BOB)
    scene.crash()
    assert scene.refused[waits] == "client_banned"
    assert scene.inside == {other}


def test_who_was_beside_it_is_cleared_when_it_is_found() -> None:
    scene = Scene()
    poison, hello = scene.ask(client=EVE, body=b"p0"), scene.ask(client=BOB, body=b"hello")
    scene.crash()
    (first,) = scene.inside
    if first is hello:
        scene.answered(hello)
    scene.crash()
    assert scene.refused == {poison: "request_quarantined"}
    assert not scene.knows(b"hello", BOB)
    assert not scene.banned(BOB)
    if first is not hello:
        assert (hello.crashes, hello.excused) == (0, 1)
        assert scene.inside == {hello}
    assert not scene.gate._suspects.cases or hello in scene.inside


def test_new_poison_does_not_bring_blame_on_an_innocent_question() -> None:
    """The fault that was: poison let in beside a suspect had it quarantined for everybody."""
    scene = Scene()
    hello = scene.ask(client=BOB, body=b"hello")
    scene.ask(client=EVE, body=b"p0")
    for number in range(1, 20):
        scene.crash()
        scene.ask(client=EVE, body=b"p%d" % number)
        if scene.inside == {hello}:
            scene.gate.first_token(hello)
            scene.time += DRAIN_S
            scene.gate.sweep(scene.time)  # poison comes in beside it
        assert scene.inside != {hello} or scene.banned(EVE)
        if scene.banned(EVE):
            break
    assert hello not in scene.refused
    assert not scene.knows(b"hello", CAROL)
    assert not scene.banned(BOB)
    assert scene.banned(EVE)


def test_beside_a_long_answer_the_entry_binds_its_client_only() -> None:
    scene = Scene()
    one, two = scene.ask(client=BOB, body=b"story"), scene.ask(client=EVE, body=b"p0")
    scene.crash()
    (first,) = scene.inside
    second = two if first is one else one
    scene.gate.first_token(first)
    scene.time += DRAIN_S
    scene.gate.sweep(scene.time)
    assert scene.inside == {first, second}
    scene.crash()
    assert scene.knows(second.body, second.client.name)
    assert not scene.knows(second.body, CAROL)
    assert first not in scene.refused
    assert (first.crashes, first.excused) == (0, 2)


def test_who_has_done_it_before_goes_last() -> None:
    scene = Scene()
    scene.admission.bans.strike(EVE, scene.time)
    poison, hello = scene.ask(client=EVE, body=b"p1"), scene.ask(client=BOB, body=b"hello")
    scene.crash()
    assert scene.inside == {hello}
    scene.answered(hello)
    assert scene.inside == {poison}
    scene.crash()
    assert scene.refused == {poison: "request_quarantined"}
    assert scene.told == [EVE]


def test_an_operator_who_begins_anew_opens_all_doors() -> None:
    scene = Scene()
    for _ in range(2):
        scene.admission.bans.strike(EVE, scene.time)
    scene.ask(client=BOB, body=b"p0")
    scene.crash()
    scene.crash()
    assert scene.knows(b"p0", CAROL)
    scene.admission.forgive()
    assert not scene.knows(b"p0", CAROL)
    assert not scene.banned(EVE)


def test_a_crash_that_does_not_happen_again_is_held_against_nobody() -> None:
    scene = Scene()
    for number in range(10):
        one = scene.ask(client=BOB, body=b"%d" % number)
        scene.crash()
        scene.answered(one)
    assert not scene.admission.bans
    assert not scene.admission.bans._strikes


# ---- who does not wait for the verdict


def test_who_leaves_after_each_crash_is_found_by_elimination() -> None:
    scene = Scene()
    for number in range(4):
        assert scene.told == []
        poison, hello = scene.ask(client=EVE, body=b"%d" % number), scene.ask(client=BOB)
        scene.crash()
        scene.leaves(poison)
        scene.answered(hello)
    assert scene.told == [EVE]
    assert not scene.banned(BOB)


def test_who_leaves_before_the_crash_is_found_as_well() -> None:
    scene = Scene()
    for number in range(4):
        assert scene.told == []
        poison = scene.ask(client=EVE, body=b"%d" % number)
        scene.leaves(poison)
        scene.time += LEFT_S / 2
        assert scene.gate._suspects.inside(Generation(scene.lives), ()) == Inside(1, 1)
        scene.crash()
    assert scene.told == [EVE]


def test_who_left_long_before_was_not_inside() -> None:
    scene = Scene()
    for _ in range(9):
        scene.leaves(scene.ask(client=BOB))
        scene.time += LEFT_S + 1.0
        assert scene.gate._suspects.inside(Generation(scene.lives), ()) == Inside()
        scene.crash()
    assert not scene.admission.bans._strikes


def test_two_that_are_always_seen_together_share_it() -> None:
    scene = Scene()
    crashes = 0
    while not scene.told:
        pair = [scene.ask(client=EVE), scene.ask(client=MALLORY)]
        scene.crash()
        crashes += 1
        for one in pair:
            scene.leaves(one)
    assert crashes == 8


def test_a_suspect_that_leaves_while_it_is_tried_is_known_all_the_same() -> None:
    scene = Scene()
    one = scene.ask(client=EVE, body=b"p0")
    scene.crash()
    assert scene.inside == {one}
    scene.leaves(one)
    scene.crash()
    assert scene.knows(b"p0", BOB)


def test_an_answer_that_needs_no_slot_is_over_when_it_is_over() -> None:
    scene = Scene()
    scene.answered(scene.ask(client=BOB, needs_slot=False))
    assert scene.gate._suspects.inside(Generation(1), ()) == Inside()


def test_what_the_daemon_is_told_counts_requests_and_clients() -> None:
    scene = Scene()
    for client in (BOB, BOB, CAROL):
        scene.ask(client=client)
    assert scene.gate.abort(Generation(1)) == Inside(3, 2)
