"""The order against a model that scans and sorts, then a simulated server: who waits how long, who gets how much."""

import random
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.ratelimit.fairqueue import BATCH_EVERY, FairQueue, cost


class Item:
    """Without equality: told apart by identity, as requests are."""

    def __init__(self, client: str, *, batch: bool = False, weight: float = 1.0) -> None:
        self.client, self.batch, self.weight = client, batch, weight

    def __repr__(self) -> str:
        return f"{self.client}{'/batch' if self.batch else ''}"


def added(queue: FairQueue[Item], client: str, *, batch: bool = False, weight: float = 1.0) -> Item:
    item = Item(client, batch=batch, weight=weight)
    queue.add(item, client, batch=batch, weight=weight)
    return item


def take_next(queue: FairQueue[Item]) -> Item:
    item = next(queue.in_turn())
    queue.take(item)
    return item


def serve_next(queue: FairQueue[Item], tokens: float = 10) -> Item:
    item = take_next(queue)
    queue.charge(item.client, tokens, batch=item.batch)
    queue.ended(item.client, batch=item.batch)
    return item


# ---- the container


def test_what_waits_is_in_it_and_what_went_is_not():
    queue: FairQueue[Item] = FairQueue()
    assert not queue
    one, two = added(queue, "a"), added(queue, "b", batch=True)
    back = Item("c")
    queue.add_first(back, "c")
    assert queue
    assert len(queue) == 3
    assert set(queue) == {one, two, back}
    assert all(item in queue for item in (one, two, back))
    assert Item("a") not in queue
    assert queue.remove(two)
    assert not queue.remove(two)
    queue.take(one)
    assert not queue.remove(one)
    assert list(queue) == [back]
    assert queue.remove(back)
    assert not queue
    assert len(queue) == 0


def test_nothing_waits_twice():
    queue: FairQueue[Item] = FairQueue()
    item = added(queue, "a")
    with pytest.raises(ValueError, match="waits already"):
        queue.add(item, "a")
    with pytest.raises(ValueError, match="waits already"):
        queue.add_first(item, "a")
    back = Item("a")
    queue.add_first(back, "a")
    with pytest.raises(ValueError, match="waits already"):
        queue.add(back, "a")


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_weight_is_positive(weight):
    queue: FairQueue[Item] = FairQueue()
    with pytest.raises(ValueError, match="weight"):
        queue.add(Item("a"), "a", weight=weight)
    assert not queue
    with pytest.raises(ValueError, match="weight"):
        queue.dispatched("a", weight=weight)


def test_what_is_not_here_is_not_taken():
    queue: FairQueue[Item] = FairQueue()
    item = added(queue, "a")
    queue.take(item)
    with pytest.raises(KeyError):
        queue.take(item)
    with pytest.raises(KeyError):
        queue.ended("nobody")
    queue.charge("nobody", 5)
    assert not queue


def test_it_says_what_waits():
    queue: FairQueue[Item] = FairQueue()
    added(queue, "a")
    added(queue, "a", batch=True)
    queue.add_first(Item("b"), "b")
    assert repr(queue) == "<FairQueue: 1 first, 1 interactive, 1 batch>"


def test_a_client_whose_requests_have_all_gone_is_forgotten():
    queue: FairQueue[Item] = FairQueue()
    item, back = added(queue, "a"), Item("b")
    queue.add_first(back, "b")
    queue.remove(item)
    queue.remove(back)
    assert not queue._interactive.accounts


def test_clear_returns_everything_once_and_leaves_a_queue_that_works():
    queue: FairQueue[Item] = FairQueue()
    items = [added(queue, "a"), added(queue, "b", batch=True), added(queue, "a")]
    back = Item("b")
    queue.add_first(back, "b")
    assert queue.clear() == [back, *items]
    assert not queue
    assert list(queue.in_turn()) == []
    again = added(queue, "a")
    assert take_next(queue) is again


def test_what_was_put_first_goes_first_the_last_one_before_the_others():
    queue: FairQueue[Item] = FairQueue()
    added(queue, "a")
    one, two = Item("b"), Item("c", batch=True)
    queue.add_first(one, "b")
    queue.add_first(two, "c", batch=True)
    assert [repr(item) for item in queue.in_turn()] == ["c/batch", "b", "a"]
    assert take_next(queue) is two
    assert take_next(queue) is one


def test_one_clients_requests_go_in_order_of_arrival_and_any_may_be_skipped():
    queue: FairQueue[Item] = FairQueue()
    items = [added(queue, "a") for _ in range(5)]
    assert list(queue.in_turn()) == items
    queue.take(items[2])
    queue.remove(items[0])
    assert list(queue.in_turn()) == [items[1], items[3], items[4]]


def test_who_was_served_least_goes_first_and_of_equals_who_came_first():
    queue: FairQueue[Item] = FairQueue()
    for client in "abc":
        added(queue, client)
        added(queue, client)
    assert [serve_next(queue, tokens).client for tokens in (30, 10, 20)] == ["a", "b", "c"]
    assert [repr(item) for item in queue.in_turn()] == ["b", "c", "a"]


def test_an_output_token_weighs_twice_an_input_token():
    assert cost(100, 10) == 120


# ---- classes


def test_interactive_before_batch_whoever_asks():
    queue: FairQueue[Item] = FairQueue()
    added(queue, "a", batch=True)
    added(queue, "a")
    added(queue, "b", batch=True)
    added(queue, "b")
    assert [repr(serve_next(queue)) for _ in range(4)] == ["a", "b", "a/batch", "b/batch"]


def test_what_was_had_in_one_class_does_not_count_in_the_other():
    queue: FairQueue[Item] = FairQueue()
    added(queue, "a", batch=True)
    added(queue, "b")
    added(queue, "a")
    added(queue, "b")
    queue.charge("a", 1000, batch=True)
    assert serve_next(queue).client == "b"
    assert serve_next(queue).client == "a"


def test_under_a_flood_of_interactive_requests_every_eighth_is_a_batch_one():
    queue: FairQueue[Item] = FairQueue()
    for _ in range(40):
        added(queue, "a")
        added(queue, "b", batch=True)
    assert [serve_next(queue).batch for _ in range(24)] == ([False] * 7 + [True]) * 3


def test_a_batch_request_that_may_not_go_yet_keeps_its_claim():
    queue: FairQueue[Item] = FairQueue()
    batch = added(queue, "b", batch=True)
    for _ in range(20):
        item = added(queue, "a")
        assert item in list(queue.in_turn())
        queue.take(item)
        queue.ended("a")
    added(queue, "a")
    assert take_next(queue) is batch


def test_what_is_put_first_is_not_counted_for_either_class():
    queue: FairQueue[Item] = FairQueue()
    batch = added(queue, "b", batch=True)
    for _ in range(BATCH_EVERY - 1):
        added(queue, "a")
        serve_next(queue)
        back = Item("c", batch=True)
        queue.add_first(back, "c", batch=True)
        assert serve_next(queue) is back
    added(queue, "a")
    assert take_next(queue) is batch


arrivals = st.lists(
    st.tuples(st.sampled_from(["add", "add", "serve", "cancel"]), st.sampled_from("abc"), st.booleans()),
    max_size=150,
)


@given(arrivals)
def test_of_any_eight_in_a_row_that_go_while_batch_waits_one_is_batch(steps):
    queue: FairQueue[Item] = FairQueue()
    waiting: list[Item] = []
    passed = 0
    for index, (what, client, batch) in enumerate(steps):
        if what == "add":
            waiting.append(added(queue, client, batch=batch))
        elif what == "cancel" and waiting:
            assert queue.remove(waiting.pop(index % len(waiting)))
        elif what == "serve" and waiting:
            batch_waits = any(item.batch for item in waiting)
            item = serve_next(queue, 1 + index % 7)
            waiting.remove(item)
            passed = 0 if item.batch or not batch_waits else passed + 1
            assert passed < BATCH_EVERY


@given(arrivals, st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=20))
def test_the_head_of_the_batch_class_goes_within_eight(before, later):
    queue: FairQueue[Item] = FairQueue()
    for what, client, batch in before:
        if what == "add":
            added(queue, client, batch=batch)
        elif queue and what == "serve":
            serve_next(queue)
    head = added(queue, "z", batch=True)
    for item in [item for item in queue if item.batch and item is not head]:
        queue.remove(item)
    for _ in range(BATCH_EVERY):
        for client, many in later:
            for _ in range(many):
                added(queue, client)
        if serve_next(queue) is head:
            return
    pytest.fail("it still waits")


# ---- the model: nothing is kept in order, everything is looked for


@dataclass
class Known:
    counter: Fraction
    turn: tuple[int, bool, int]  # its own dispatch, or the one after which it came; whether it was its own
    floor: Fraction
    weight: Fraction = Fraction(1)
    held: int = 0
    waiting: list[Item] = field(default_factory=list)
    seated: bool = False


class ModelLine:
    """One class, as the docstring of `vtc` says it."""

    def __init__(self) -> None:
        self.level, self.ticks, self.dispatches = Fraction(0), 0, 0
        self.known: dict[str, Known] = {}

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def find(self, client: str) -> Known:
        one = self.known.get(client)
        if one is None or (not one.waiting and not one.held and one.counter <= self.level):
            one = self.known[client] = Known(self.level, (self.dispatches, False, self.tick()), self.level)
        return one

    def waits(self) -> list[Known]:
        return [one for one in self.known.values() if one.waiting]

    def order(self) -> list[Item]:
        seated = [one.counter for one in self.waits() if one.seated]
        if len(seated) < len(self.waits()):
            self.level = max([self.level, *([min(seated)] if seated else [])])
        for one in self.waits():
            if not one.seated:
                one.seated, one.floor = True, max(one.floor, self.level)
                one.counter = max(one.counter, one.floor)
        return [
            item
            for one in sorted(self.waits(), key=lambda one: (one.counter, one.turn))
            for item in one.waiting
        ]

    def unseat(self, one: Known, item: Item) -> None:
        one.waiting.remove(item)
        one.seated = one.seated and bool(one.waiting)

    def start(self, one: Known) -> None:
        if not one.waiting and one.counter < self.level:
            one.counter = one.floor = self.level
        if not one.held:
            one.floor = one.counter
        one.held += 1
        self.dispatches += 1
        one.turn = (self.dispatches, True, 0)
        self.level = max(self.level, one.counter)

    def charge(self, one: Known, tokens: int) -> None:
        one.counter = max(one.floor, one.counter + tokens / one.weight)

    def leave(self, one: Known) -> None:
        if not one.waiting and not one.held and not self.waits():
            self.level = max(self.level, one.counter)


class Pair:
    """A queue and its model, fed with the same; `check` compares the whole order."""

    def __init__(self) -> None:
        self.queue: FairQueue[Item] = FairQueue()
        self.lines = {False: ModelLine(), True: ModelLine()}
        self.first: list[Item] = []
        self.passed = 0
        self.serving: list[Item] = []

    def order(self) -> list[Item]:
        sides = [self.lines[False].order(), self.lines[True].order()]
        if self.passed >= 7:
            sides.reverse()
        return [*self.first, *sides[0], *sides[1]]

    def check(self) -> list[Item]:
        order = self.order()
        assert list(self.queue.in_turn()) == order
        assert len(self.queue) == len(order)
        assert set(self.queue) == set(order)
        self.check_counts([len(one.waiting) for line in self.lines.values() for one in line.waits()])
        return order

    def check_counts(self, waiting: list[int]) -> None:
        assert self.queue.clients == len(waiting)
        longest = self.queue.longest()
        assert longest.count == max(waiting, default=0)
        if longest.newest is None:
            assert not waiting
        else:
            fullest = self.lines[longest.newest.batch].known[longest.newest.client]
            assert fullest.waiting[-1] is longest.newest
            assert len(fullest.waiting) == longest.count
        for client in CLIENTS:
            mine = [line.known[client] for line in self.lines.values() if client in line.known]
            assert self.queue.waiting_of(client) == sum(len(one.waiting) for one in mine)

    def add(self, item: Item) -> None:
        self.queue.add(item, item.client, weight=item.weight, batch=item.batch)
        one = self.lines[item.batch].find(item.client)
        one.weight = Fraction(item.weight)
        one.waiting.append(item)

    def add_first(self, item: Item) -> None:
        self.queue.add_first(item, item.client, weight=item.weight, batch=item.batch)
        one = self.lines[item.batch].find(item.client)
        one.weight = Fraction(item.weight)
        one.held += 1
        self.first.insert(0, item)

    def take(self, item: Item) -> None:
        self.queue.take(item)
        self.serving.append(item)
        if item in self.first:
            self.first.remove(item)
            return
        line = self.lines[item.batch]
        one = line.known[item.client]
        line.unseat(one, item)
        line.start(one)
        if item.batch:
            self.passed = 0
        elif self.lines[True].waits():
            self.passed += 1

    def remove(self, item: Item) -> None:
        assert self.queue.remove(item)
        line = self.lines[item.batch]
        one = line.known[item.client]
        if item in self.first:
            self.first.remove(item)
            one.held -= 1
        else:
            line.unseat(one, item)
        line.leave(one)

    def dispatched(self, item: Item) -> None:
        self.queue.dispatched(item.client, weight=item.weight, batch=item.batch)
        line = self.lines[item.batch]
        one = line.find(item.client)
        one.weight = Fraction(item.weight)
        line.start(one)
        self.serving.append(item)

    def charge(self, item: Item, tokens: int) -> None:
        self.queue.charge(item.client, tokens, batch=item.batch)
        line = self.lines[item.batch]
        line.charge(line.known[item.client], tokens)

    def ended(self, item: Item) -> None:
        self.serving.remove(item)
        self.queue.ended(item.client, batch=item.batch)
        line = self.lines[item.batch]
        one = line.known[item.client]
        one.held -= 1
        line.leave(one)


ACTS = (
    "add",
    "add",
    "add",
    "add_first",
    "take",
    "take",
    "take",
    "skip",
    "remove",
    "dispatched",
    "charge",
    "charge",
    "ended",
    "ended",
    "lost",
)
CLIENTS = "abcd"
WEIGHTS = [1.0, 1.0, 2.0, 0.5]  # their quotients are exact
Step = tuple[str, str, bool, float, int, bool]
operations = st.lists(
    st.tuples(
        st.sampled_from(ACTS),
        st.sampled_from(CLIENTS),
        st.booleans(),
        st.sampled_from(WEIGHTS),
        st.integers(-40, 60),
        st.booleans(),
    ),
    max_size=60,
)


def compare(steps: Iterable[Step]) -> None:
    pair = Pair()
    for act, client, batch, weight, number, look in steps:
        item = Item(client, batch=batch, weight=weight)
        if act in {"add", "add_first", "dispatched"}:
            getattr(pair, act)(item)
        elif act in {"take", "skip", "remove"} and pair.queue:
            order = pair.check()  # who takes has looked
            index = 0 if act == "take" else number % len(order)
            (pair.remove if act == "remove" else pair.take)(order[index])
        elif act in {"charge", "ended", "lost"} and pair.serving:
            item = pair.serving[number % len(pair.serving)]
            if act == "charge":
                pair.charge(item, number)
            else:
                pair.ended(item)
                if act == "lost":
                    pair.add_first(item)
        if look:
            pair.check()
    while pair.queue:  # work-conserving: as long as something waits there is somebody whose turn it is
        pair.take(pair.check()[0])
    pair.check()


@settings(max_examples=150, deadline=None)
@given(operations)
def test_the_order_is_that_of_the_model_and_nothing_is_lost_or_doubled(steps):
    compare(steps)


@pytest.mark.parametrize("seed", range(60))
def test_it_stays_that_of_the_model_for_long(seed):
    pick = random.Random(seed)
    looks, rarely_batch = pick.random(), pick.random() / 2
    compare(
        (
            pick.choice(ACTS),
            pick.choice(CLIENTS),
            pick.random() < rarely_batch,
            pick.choice(WEIGHTS),
            pick.randint(-40, 60),
            pick.random() < looks,
        )
        for _ in range(400)
    )


# ---- a simulated server: `slots` requests at a time, one output token of each in every tick


@dataclass(eq=False)
class Job:
    client: str
    prompt: int
    output: int
    weight: float = 1.0
    estimate: int = 0  # of the output, charged at dispatch
    done: int = 0
    came: int = 0
    began: int = 0


class Fifo(FairQueue[Job]):
    """For comparison: first come, first served."""

    def in_turn(self) -> Iterator[Job]:
        return iter(sorted(self, key=lambda job: job.came))


class Server:
    def __init__(self, slots: int, queue: FairQueue[Job] | None = None) -> None:
        self.slots, self.now = slots, 0
        self.queue: FairQueue[Job] = FairQueue() if queue is None else queue
        self.serving: list[Job] = []
        self.served: dict[str, float] = {}  # weighted tokens of each client, for real
        self.finished: list[Job] = []

    def ask(self, job: Job) -> Job:
        job.came = self.now
        self.queue.add(job, job.client, weight=job.weight)
        return job

    def count(self, job: Job, tokens: float) -> None:
        self.served[job.client] = self.served.get(job.client, 0) + tokens

    def tick(self) -> None:
        for job in list(self.serving):
            job.done += 1
            self.count(job, cost(0, 1))
            if job.done > job.estimate:
                self.queue.charge(job.client, cost(0, 1))
            if job.done == job.output:
                self.queue.charge(job.client, cost(0, min(0, job.output - job.estimate)))
                self.serving.remove(job)
                self.queue.ended(job.client)
                self.finished.append(job)
        while self.queue and len(self.serving) < self.slots:
            job = next(self.queue.in_turn())
            self.queue.take(job)
            job.began = self.now
            self.serving.append(job)
            self.count(job, cost(job.prompt, 0))
            self.queue.charge(job.client, cost(job.prompt, job.estimate))
        self.now += 1


def waits_beside_a_flood(server: Server, seed: int, estimate: int = 0) -> list[int]:
    """A flood of 200, and another client that asks for one thing after the other."""
    sizes = random.Random(seed)
    for _ in range(200):
        server.ask(Job("flood", 20, sizes.randint(20, 60), estimate=estimate))
    waits: list[int] = []
    job: Job | None = None
    next_at = 25
    while len(waits) < 25 and server.now < 20_000:
        if job is None and server.now >= next_at:
            job = server.ask(Job("single", 20, sizes.randint(20, 60), estimate=estimate))
        server.tick()
        if job is not None and job in server.finished:
            waits.append(job.began - job.came)
            job, next_at = None, server.now + sizes.randint(0, 50)
    return waits


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("estimate", [0, 40, 400])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_single_request_beside_a_flood_waits_less_than_twice_a_service_time(slots, estimate, seed):
    waits = waits_beside_a_flood(Server(slots), seed, estimate)
    assert len(waits) == 25
    assert statistics.median(waits) < 2 * 40


def test_first_come_first_served_would_make_it_wait_a_hundred_times_as_long():
    assert waits_beside_a_flood(Server(1, Fifo()), 1)[0] > 100 * 40


def two_floods(server: Server, ticks: int, weight: float = 1.0, estimate: int = 0) -> tuple[float, float]:
    """Both always have something waiting; one asks for little, the other for much. What they were served."""
    sizes = random.Random(7)
    for _ in range(200):
        server.ask(Job("little", 10, sizes.randint(5, 15), weight, estimate))
        server.ask(Job("much", 80, sizes.randint(50, 90), 1.0, estimate))
    for _ in range(ticks):
        server.tick()
    assert {job.client for job in server.queue} == {"little", "much"}, "one has run dry; nothing is shown"
    return server.served["little"], server.served["much"]


def jain(one: float, other: float) -> float:
    return (one + other) ** 2 / (2 * (one**2 + other**2))


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("estimate", [0, 40])
def test_two_floods_get_the_same_however_they_cut_it(slots, estimate):
    assert jain(*two_floods(Server(slots), 3000 // slots, estimate=estimate)) >= 0.98


def test_first_come_first_served_would_share_badly():
    assert jain(*two_floods(Server(1, Fifo()), 3000)) < 0.7


@pytest.mark.parametrize("slots", [1, 4])
def test_weights_of_three_to_one_give_three_to_one(slots):
    sizes = random.Random(5)
    server = Server(slots)
    for _ in range(900):
        server.ask(Job("three", 10, sizes.randint(5, 15), 3.0))
        server.ask(Job("one", 10, sizes.randint(5, 15)))
    for _ in range(8000 // slots):
        server.tick()
    assert {job.client for job in server.queue} == {"three", "one"}
    assert server.served["three"] / server.served["one"] == pytest.approx(3, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 4),
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=2, max_size=12),
    others=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 30)), max_size=15),
)
def test_two_that_always_have_something_waiting_differ_by_twice_a_batch_at_most(slots, sizes, others):
    """The paper's theorem, for any interval, with clients that come and go beside them."""
    server = Server(slots)
    most = max(cost(prompt, output) for prompt, output in sizes)
    differences = [0.0]
    asked = {"a": 0, "b": 0}
    for now in range(300):
        waiting = [job.client for job in server.queue]
        for client, offset in (("a", 0), ("b", 1)):
            while waiting.count(client) < slots + 1:
                prompt, output = sizes[(asked[client] * 2 + offset) % len(sizes)]
                server.ask(Job(client, prompt, output))
                asked[client] += 1
                waiting.append(client)
        for at, output in others:
            if at == now:
                server.ask(Job(f"other{at}-{output}", 1, output))
        server.tick()
        differences.append(server.served.get("a", 0) - server.served.get("b", 0))
    assert max(differences) - min(differences) <= 2 * slots * most
