"""One line of clients: the lift, refunds, who is remembered, and that nothing grows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.ratelimit.vtc import GONE_MAX, STALE_MAX, UNIT, Account, Line


class Clients:
    """A line whose requests are numbers, driven by names."""

    def __init__(self) -> None:
        self.line: Line[int] = Line()
        self.number = 0

    def add(self, client: str, *, weight: float = 1.0) -> int:
        self.number += 1
        self.line.add(self.line.account(client, weight), self.number)
        return self.number

    def start(self, client: str, tokens: float = 0, *, weight: float = 1.0) -> None:
        """Without having waited."""
        self.line.start(self.line.account(client, weight))
        self.charge(client, tokens)

    def take(self, client: str) -> None:
        """The oldest of this client, whoever's turn it is."""
        account = self.line.accounts[client]
        self.line.discard(account, next(iter(account.waiting)))
        self.line.start(account)

    def cancel(self, client: str) -> None:
        account = self.line.accounts[client]
        self.line.discard(account, next(iter(account.waiting)))
        self.line.leave(account)

    def charge(self, client: str, tokens: float) -> None:
        self.line.charge(self.line.accounts[client], tokens)

    def end(self, client: str) -> None:
        self.line.end(self.line.accounts[client])

    def serve(self, client: str, tokens: float) -> None:
        self.take(client)
        self.charge(client, tokens)
        self.end(client)

    def order(self) -> list[int]:
        return list(self.line.in_turn())

    def tokens(self, client: str) -> float:
        return self.line.accounts[client].counter / UNIT


@pytest.fixture
def clients() -> Clients:
    return Clients()


# ---- the lift


def test_a_newcomer_comes_in_at_the_lowest_counter_of_those_that_wait(clients):
    for client in "aabb":
        clients.add(client)
    clients.order()
    clients.serve("a", 500)
    clients.serve("b", 300)
    clients.add("new")
    clients.order()
    assert clients.tokens("new") == 300


def test_newcomers_of_one_moment_come_in_at_the_same(clients):
    clients.add("a")
    clients.add("a")
    clients.order()
    clients.serve("a", 100)
    clients.add("new")
    clients.add("other")
    clients.order()
    assert clients.tokens("new") == clients.tokens("other") == 100


def test_idleness_saves_up_nothing(clients):
    clients.start("idler", 10)
    clients.add("a")
    clients.add("a")
    clients.order()
    clients.end("idler")
    clients.serve("a", 1000)
    clients.add("idler")
    clients.order()
    assert clients.tokens("idler") == 1000


def test_who_has_had_more_does_not_get_rid_of_it_by_leaving(clients):
    waiting = clients.add("a")
    clients.order()
    clients.start("greedy", 1000)
    clients.end("greedy")
    greedy = clients.add("greedy")
    assert clients.order() == [waiting, greedy]
    assert clients.tokens("greedy") == 1000


def test_where_nobody_waits_all_begin_with_what_the_last_one_left_with(clients):
    clients.start("light", 5)
    clients.start("heavy", 1000)
    clients.end("light")
    clients.end("heavy")
    clients.add("light")
    clients.order()
    assert clients.tokens("light") == 1000


def test_a_low_request_in_service_does_not_hold_newcomers_down(clients):
    clients.start("slow", 1)
    clients.add("a")
    clients.add("a")
    clients.order()
    clients.serve("a", 1000)
    clients.add("new")
    clients.order()
    assert clients.tokens("new") == 1000
    clients.add("slow")
    clients.order()
    assert clients.tokens("slow") == 1000, "it had nothing waiting, so it has missed nothing"


def test_one_that_is_passed_over_keeps_its_claim_and_newcomers_do_not_share_it(clients):
    passed = clients.add("large")
    for _ in range(5):
        clients.add("a")
    clients.order()
    for _ in range(4):
        clients.serve("a", 100)
        clients.order()
    clients.add("new")
    assert clients.order()[0] == passed
    assert clients.tokens("large") == 0
    assert clients.tokens("new") == 300, "what the one dispatched last had"


def test_a_newcomer_is_not_lifted_to_an_estimate_that_is_corrected_before_its_turn(clients):
    for _ in range(3):
        clients.add("flood")
    clients.order()
    clients.take("flood")
    clients.charge("flood", 8000)
    single = clients.add("single")
    clients.charge("flood", -7900)
    clients.end("flood")
    clients.order()
    assert clients.tokens("single") == 100
    clients.take("flood")
    clients.charge("flood", 100)
    assert clients.order()[0] == single


def test_of_equals_the_one_dispatched_longest_ago_goes_first(clients):
    for client in "abc":
        clients.add(client)
    clients.order()
    clients.serve("a", 10)
    clients.serve("b", 10)
    later, sooner = clients.add("b"), clients.add("a")
    assert clients.order()[1:] == [sooner, later]


def test_of_equals_a_newcomer_goes_before_whoever_has_just_had_a_turn_but_after_who_waits_longer(clients):
    waits, _, flood = (clients.add(client) for client in ("waits", "flood", "flood"))
    clients.order()
    clients.take("flood")
    single = clients.add("single")
    assert clients.order() == [waits, single, flood]


def test_an_endless_row_of_new_clients_does_not_keep_an_older_one_from_its_turn(clients):
    clients.add("old")
    clients.add("new0")
    clients.order()
    clients.serve("old", 1)  # so that it is above the level all others come in at
    mine = clients.add("old")
    for number in range(3 * GONE_MAX):
        clients.add(f"new{number + 1}")
        head = clients.order()[0]
        if head == mine:
            return
        clients.serve(f"new{number}", 1)
    pytest.fail("it has starved")


# ---- what is charged


def test_a_weight_divides_what_is_charged(clients):
    clients.start("a", 30, weight=3.0)
    assert clients.tokens("a") == 10


@given(
    charges=st.lists(st.floats(0, 1e7), min_size=1, max_size=20),
    weight=st.sampled_from([0.1, 1 / 3, 1.0, 7.0]),
)
def test_what_is_given_back_is_what_was_charged_to_the_last_unit_after_centuries(charges, weight):
    clients = Clients()
    clients.line.level = 10**15 * UNIT  # a thousand tokens a second for thirty thousand years
    clients.start("a", 1, weight=weight)
    before = clients.line.accounts["a"].counter
    for tokens in charges:
        clients.charge("a", tokens)
    for tokens in charges:
        clients.charge("a", -tokens)
    assert clients.line.accounts["a"].counter == before


def test_a_refund_goes_no_further_than_before_what_is_in_service(clients):
    clients.start("a", 100)
    clients.end("a")
    clients.start("a", 50)
    clients.start("a", 50)
    clients.charge("a", -1000)
    assert clients.tokens("a") == 100


def test_a_refund_gives_no_credit_below_the_level_one_came_in_at(clients):
    clients.add("a")
    clients.add("a")
    clients.order()
    clients.start("b", 2000)  # an estimate
    clients.serve("a", 1000)
    clients.order()
    clients.add("b")
    clients.order()
    clients.charge("b", -1900)
    assert clients.tokens("b") == 1000


def test_a_refund_moves_one_that_waits_forward_at_once(clients):
    clients.start("b", 300)
    clients.line.level = 0  # nobody had to wait for that
    one, other = clients.add("a"), clients.add("b")
    clients.charge("a", 100)
    assert clients.order() == [one, other]
    clients.charge("b", -250)
    assert clients.order() == [other, one]


# ---- who is remembered


def test_clients_that_come_one_after_the_other_are_forgotten(clients):
    for number in range(200_000):
        clients.start(f"c{number}", 10)
        clients.end(f"c{number}")
    assert len(clients.line.accounts) <= 1
    assert not clients.line._gone


def test_clients_that_were_served_past_one_that_cannot_go_are_forgotten_but_for_the_last(clients):
    clients.add("stuck")
    clients.order()
    for number in range(5000):
        clients.add(f"c{number}")
        clients.order()
        clients.serve(f"c{number}", 10)
    assert len(clients.line.accounts) <= 1 + GONE_MAX
    assert len(clients.line._gone) <= GONE_MAX
    assert len(clients.line._heap) <= 2 * len(clients.line.accounts) + STALE_MAX + 1


@pytest.mark.parametrize("looks", [False, True])
def test_clients_that_come_and_give_up_are_forgotten_whether_or_not_anybody_looks(clients, looks):
    clients.add("stuck")
    for number in range(5000):
        clients.add(f"c{number}")
        if looks:
            clients.order()
        clients.cancel(f"c{number}")
    assert set(clients.line.accounts) == {"stuck"}
    assert len(clients.line._coming) <= 1
    assert len(clients.line._heap) <= 2 + STALE_MAX + 1


def test_refunds_do_not_fill_the_heap(clients):
    clients.add("a")
    clients.add("b")
    clients.order()
    clients.start("a")
    for _ in range(5000):
        clients.charge("a", 1000)
        clients.order()  # files it higher
        clients.charge("a", -1000)  # and lower
    assert len(clients.line._heap) <= 2 * 2 + STALE_MAX + 1
    assert len(clients.order()) == 2


def test_one_that_comes_back_is_not_forgotten_for_having_been_gone(clients):
    clients.add("a")
    clients.add("a")
    clients.order()
    clients.start("b", 100)
    clients.end("b")  # gone, and above the level
    clients.start("b", 400)  # and back
    clients.serve("a", 200)
    clients.order()  # the level passes what it was gone with
    assert clients.tokens("b") == 500
    clients.end("b")
    assert clients.tokens("b") == 500
    clients.charge("a", 400)
    clients.order()
    clients.add("c")
    clients.order()
    assert "b" not in clients.line.accounts


def test_what_is_charged_late_to_one_that_is_gone_is_remembered(clients):
    clients.add("a")
    clients.add("a")
    clients.order()
    clients.start("b", 100)
    clients.end("b")
    clients.charge("b", 400)
    clients.serve("a", 200)
    clients.order()
    assert clients.tokens("b") == 500


def test_things_print_themselves(clients):
    clients.start("a", 2)
    clients.add("a")
    assert repr(clients.line) == "<Line at 0.0 tokens: 1 waiting, 1 clients>"
    assert repr(clients.line.accounts["a"]) == "<Account a: 2.0 tokens, 1 waiting, 1 in service>"
    assert isinstance(clients.line.accounts["a"], Account)
