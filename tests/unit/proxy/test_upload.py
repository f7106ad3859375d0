"""`proxy.upload`: what bodies may occupy together, and that nobody waits for ever."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proxy.upload import BodyBudget


@dataclass(eq=False)
class Client:
    """A sender of bodies, as the wire is one."""

    budget: BodyBudget
    owner: str
    to_send: int = 0
    sent: int = 0
    held: bool = False
    whole: list[int] = field(default_factory=list)  # bodies being answered

    def wait_for_budget(self) -> None:
        assert not self.held, "told to wait twice"
        self.held = True

    def budget_free(self) -> None:
        assert self.held, "told to go on while reading"
        self.held = False

    def send(self, size: int) -> None:
        """One read; what was read already is taken, held or not."""
        size = min(size, self.to_send - self.sent)
        self.sent += size
        self.budget.take(self, size)
        if self.sent == self.to_send:
            self.budget.complete(self, self.sent)
            self.whole.append(self.sent)
            self.sent = self.to_send = 0

    def leave(self) -> None:
        size, self.sent, self.to_send = self.sent, 0, 0
        self.budget.drop(self, size)
        self.held = False

    def answered(self) -> None:
        self.budget.give(self.owner, self.whole.pop())


def clients(limit: int, *bodies: int, owners: str = "abcdefgh") -> tuple[BodyBudget, list[Client]]:
    budget = BodyBudget(limit)
    return budget, [Client(budget, owner, to_send=size) for size, owner in zip(bodies, owners, strict=False)]


def test_below_the_limit_nobody_waits():
    budget, [one, two] = clients(100, 60, 40)
    one.send(60)
    two.send(40)
    assert (one.held, two.held, budget.used_bytes) == (False, False, 100)


def test_over_the_limit_one_is_exempt_and_the_next_waits():
    _, [one, two] = clients(100, 200, 200)
    one.send(90)
    two.send(90)
    one.send(10)
    assert (one.held, two.held) == (True, False)


def test_with_a_complete_body_about_nobody_is_exempt():
    _, [whole, late] = clients(100, 100, 50)
    whole.send(100)
    late.send(10)
    assert late.held
    whole.answered()
    assert not late.held


def test_who_waits_is_let_on_in_order():
    _, [whole, second, third] = clients(100, 100, 60, 60)
    whole.send(100)
    second.send(10)
    third.send(10)
    whole.answered()
    assert (second.held, third.held) == (False, False)


def test_the_exemption_passes_on_when_its_holder_leaves():
    _, [one, two, three] = clients(10, 100, 100, 100)
    for client in (one, two, three):
        client.send(20)
    assert [client.held for client in (one, two, three)] == [False, True, True]
    one.leave()
    assert [client.held for client in (two, three)] == [False, True]


def test_a_sender_that_leaves_while_waiting_is_not_woken():
    _, [one, two, three] = clients(10, 100, 100, 100)
    for client in (one, two, three):
        client.send(20)
    two.leave()
    one.leave()
    assert (two.held, three.held) == (False, False)


def test_several_pieces_in_one_read_wait_once():
    _, [one, two] = clients(10, 100, 100)
    one.send(20)
    two.send(5)
    two.send(5)
    one.leave()
    assert not two.held


def test_whose_last_piece_was_one_too_many_is_read_from_again():
    _, [whole, last] = clients(100, 100, 20)
    whole.send(100)
    last.send(20)
    assert not last.held


def test_beyond_its_share_a_client_sends_one_body_at_a_time_and_others_go_on():
    budget, [one, two, three, other] = clients(100, 40, 40, 40, 40, owners="aaab")
    one.send(30)
    two.send(30)
    assert (one.held, two.held) == (False, False), "the first beyond the share is exempt"
    three.send(10)
    assert three.held
    assert budget.crowded
    other.send(20)
    assert not other.held


def test_a_client_waits_for_its_own_complete_bodies_only():
    _, [one, two, other] = clients(100, 60, 30, 30, owners="aab")
    one.send(60)
    two.send(10)
    other.send(30)
    assert two.held
    other.answered()
    assert two.held
    one.answered()
    assert not two.held


def test_nothing_is_kept_of_who_has_nothing_here():
    budget, [one] = clients(100, 60)
    one.send(60)
    one.answered()
    assert not budget._shares


def test_it_prints_itself():
    assert repr(BodyBudget(7)) == "<BodyBudget 0 of 7 bytes, 0 waiting>"


STEPS = st.lists(
    st.tuples(
        st.integers(0, 4), st.sampled_from(["send", "send", "send", "leave", "answered"]), st.integers(1, 40)
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from(["abcde", "aaaaa", "aabbb"]))
def test_whatever_happens_everybody_is_served_in_the_end(steps, owners):
    budget, crowd = clients(100, *[0] * 5, owners=owners)
    for who, what, size in steps:
        client = crowd[who]
        if what == "answered":
            if client.whole:
                client.answered()
        elif what == "leave":
            client.leave()
        elif not client.held:
            if not client.to_send:
                client.to_send = size * 4
            client.send(size)
    for _ in range(1000):  # all go on as far as they may; complete bodies are answered
        moving = [client for client in crowd if client.whole or (client.to_send and not client.held)]
        if not moving:
            break
        for client in moving:
            if client.whole:
                client.answered()
            elif client.to_send and not client.held:
                client.send(10)
    assert not any(client.to_send or client.held or client.whole for client in crowd)
    assert budget.used_bytes == 0


@given(STEPS, st.sampled_from(["abcde", "aaaaa", "aabbb"]))
def test_what_is_held_is_bounded_by_the_limit_and_one_read_each(steps, owners):
    budget, crowd = clients(100, *[0] * 5, owners=owners)
    largest = 160  # of one body: the exempt one is read in full
    for who, what, size in steps:
        client = crowd[who]
        if what != "answered" and not client.held:
            client.to_send = client.to_send or size * 4
            client.send(size)
        assert budget.used_bytes <= 100 + largest + 5 * 40
