"""Whose turn it is: slots, the queue, and what an instance's changes do to both (FAULTS 2, 26, 52)."""

import pytest

from supervisor.proxy.bounds import RetryBounds
from tests.support.proxyrig import until


def fill(rig, upstream, count: int) -> list:
    """So many requests that stay at the upstream until `go_on`."""
    before = len(upstream.arrived)
    clients = [rig.connect() for _ in range(count)]
    for client in clients:
        client.post("/gated")
    until(lambda: len(upstream.arrived) == before + count, "they are at the upstream")
    return clients


def queue(rig, *paths: str) -> list:
    clients = []
    for path in paths:
        waiting = rig.waiting()
        clients.append(rig.connect())
        clients[-1].post(path)
        until(lambda expected=waiting + 1: rig.waiting() == expected, f"{path} waits")
    return clients


def code(answer) -> str:
    return answer.json()["error"]["code"]


def test_no_more_requests_at_the_child_than_it_has_slots(make_rig, upstream):
    rig = make_rig(slots=2)
    inside = fill(rig, upstream, 2)
    outside = queue(rig, "/echo?1", "/echo?2")
    assert (rig.leases(), len(upstream.begun)) == (2, 2)
    upstream.go_on.set()
    assert [client.answer().status for client in inside + outside] == [200] * 4


def test_the_ceiling_over_all_models_holds(make_rig, upstream):
    rig = make_rig(slots=4, concurrent=1)
    [inside] = fill(rig, upstream, 1)
    [outside] = queue(rig, "/echo")
    upstream.go_on.set()
    assert [inside.answer().status, outside.answer().status] == [200, 200]


def test_first_come_first_served(make_rig, upstream):
    rig = make_rig(slots=1)
    fill(rig, upstream, 1)
    clients = queue(rig, *[f"/echo?{i}" for i in range(8)])
    upstream.go_on.set()
    answers = [client.answer() for client in clients]
    assert upstream.targets()[1:] == [f"/echo?{i}" for i in range(8)]
    assert all(int(answer.header("x-llmsup-queue-ms")) >= 0 for answer in answers)


def test_nobody_overtakes_who_waits(make_rig, upstream):
    """A slot that becomes free goes to the queue, not to who asks at that moment."""
    rig = make_rig(slots=1)
    [inside] = fill(rig, upstream, 1)
    [outside] = queue(rig, "/echo?first")
    inside.post("/echo?second")  # behind its own answer on the same connection
    upstream.go_on.set()
    assert inside.answer().status == 200
    assert outside.answer().status == 200
    assert inside.answer().status == 200
    assert upstream.targets() == ["/gated", "/echo?first", "/echo?second"]


@pytest.mark.parametrize("ask", [("GET", "/props"), ("POST", "/tokenize"), ("GET", "/health")])
def test_what_needs_no_slot_does_not_wait_for_one(make_rig, upstream, ask):
    rig = make_rig(slots=1)
    fill(rig, upstream, 1)
    queue(rig, "/echo")
    client = rig.connect()
    method, path = ask
    client.get(path) if method == "GET" else client.post(path)
    assert client.answer().status == 200
    upstream.go_on.set()


def test_a_full_queue_refuses_at_once(make_rig, upstream):
    rig = make_rig(slots=1, queue_size=2)
    fill(rig, upstream, 1)
    waiting = queue(rig, "/echo?1", "/echo?2")
    answer = rig.ask("/echo?3")
    assert (answer.status, code(answer)) == (503, "queue_full")
    assert answer.header("retry-after") in {"1", "2"}  # rounded up, and a tenth by chance
    upstream.go_on.set()
    assert [client.answer().status for client in waiting] == [200, 200]
    assert "/echo?3" not in upstream.targets()


def test_waiting_too_long_for_a_slot_is_a_queue_timeout(make_rig, upstream):
    rig = make_rig(slots=1, queue_timeout_s=0.1)
    [inside] = fill(rig, upstream, 1)
    [outside] = queue(rig, "/echo")
    answer = outside.answer()
    assert (answer.status, code(answer)) == (503, "queue_timeout")
    assert answer.header("retry-after")
    assert rig.waiting() == 0
    upstream.go_on.set()
    assert inside.answer().status == 200
    assert outside.ask("/echo").status == 200


def test_waiting_too_long_for_a_model_is_model_loading(make_rig):
    rig = make_rig(queue_timeout_s=0.1)
    rig.state("LOADING")
    answer = rig.ask("/echo")
    assert (answer.status, code(answer)) == (503, "model_loading")


def test_a_request_asked_again_does_not_hide_the_deadlines_behind_it(make_rig, upstream):
    """It stands first in line, with a deadline that began anew."""
    rig = make_rig(slots=1, queue_timeout_s=0.4)
    rig.answers_pokes = False
    [first] = fill(rig, upstream, 1)
    [second] = queue(rig, "/echo")
    second_since = rig.admission.clock.now()
    rig.state("BACKOFF")  # only then may it break: a READY one would be doubted and asked
    until(lambda: rig.call(lambda: rig.admission.clock.now() > second_since + 0.2), "half its time is over")
    rig.abort(1)
    assert code(second.answer()) == "model_loading"
    assert rig.waiting() == 1
    assert code(first.answer()) == "model_loading"


def test_requests_wait_while_the_model_loads(rig, upstream):
    rig.state("LOADING")
    clients = queue(rig, "/echo?1", "/tokenize", "/echo?3")
    assert upstream.begun == []
    rig.ready(upstream.port)
    assert [client.answer().status for client in clients] == [200] * 3


def test_a_restart_in_mid_queue_costs_nobody_the_place(make_rig, upstream):
    rig = make_rig(slots=1)
    fill(rig, upstream, 1)
    clients = queue(rig, "/echo?1", "/echo?2")
    rig.abort(1)
    rig.state("BACKOFF")
    upstream.go_on.set()
    rig.ready(upstream.port, generation=2, slots=1)
    assert [client.answer().status for client in clients] == [200, 200]
    assert upstream.targets()[1:] == ["/gated", "/echo?1", "/echo?2"]


def test_a_request_is_asked_again_a_limited_number_of_times(make_rig, upstream):
    rig = make_rig(retry=RetryBounds(max_retries=2, delay_s=0.05))
    client = rig.connect()
    client.post("/gated")
    for generation in (1, 2, 3):
        until(lambda expected=generation: len(upstream.begun) == expected, "it is at the upstream")
        rig.abort(generation)
        rig.state("BACKOFF")
        if generation < 3:
            rig.ready(upstream.port, generation=generation + 1)
    answer = client.answer()
    assert (answer.status, code(answer)) == (502, "upstream_crashed")


@pytest.mark.parametrize("state", ["FAILED", "STOPPED", "UNKILLABLE"])
def test_when_nothing_will_come_who_waits_is_told_at_once(rig, state):
    rig.state("LOADING")
    [client] = queue(rig, "/echo")
    rig.state(state)
    answer = client.answer()
    assert (answer.status, code(answer)) == (503, "model_unavailable")
    assert state in answer.json()["error"]["message"]
    assert code(rig.ask("/echo")) == "model_unavailable"


def test_a_next_try_too_far_away_is_not_waited_for(make_rig):
    rig = make_rig(queue_timeout_s=5.0)
    rig.state("CRASHLOOP", next_try_s=300.0)
    answer = rig.ask("/echo")
    assert code(answer) == "model_unavailable"
    assert 290 <= int(answer.header("retry-after")) <= 330


def test_a_next_try_soon_is_waited_for(rig, upstream):
    rig.state("BACKOFF", next_try_s=1.0)
    [client] = queue(rig, "/echo")
    rig.ready(upstream.port, generation=2)
    assert client.answer().status == 200


def test_draining_refuses_who_waits_and_lets_the_others_finish(make_rig, upstream):
    rig = make_rig(slots=1)
    [inside] = fill(rig, upstream, 1)
    [outside] = queue(rig, "/echo")
    rig.call(rig.admission.drain)
    assert code(outside.answer()) == "model_unavailable"
    upstream.go_on.set()
    assert inside.answer().status == 200
    answer = inside.ask("/echo")  # the model is READY still, and has a free slot
    assert (answer.status, code(answer)) == (503, "model_unavailable")
    assert answer.header("retry-after")


def test_a_drained_instance_is_reported_when_its_last_request_is_over(make_rig, upstream):
    rig = make_rig(slots=2)
    inside = fill(rig, upstream, 2)
    done = rig.start(rig.admission.drained("demo", 1, 5.0))
    assert not done.is_set()
    upstream.go_on.set()
    for client in inside:
        client.answer()
    until(done.is_set, "it is drained")


def test_shutting_closes_the_idle_at_once_and_the_others_after_their_answer(make_rig, upstream):
    rig = make_rig(slots=1)
    idle = rig.connect()
    assert idle.ask("/echo").status == 200
    [inside] = fill(rig, upstream, 1)
    rig.call(rig.pipeline.shut)
    assert idle.ends()
    upstream.go_on.set()
    assert inside.answer().header("connection") == "close"
    assert inside.ends()


def test_more_slots_let_more_in(make_rig, upstream):
    rig = make_rig(slots=1)
    fill(rig, upstream, 1)
    clients = queue(rig, "/gated", "/gated")
    rig.ready(upstream.port, slots=3)
    until(lambda: len(upstream.begun) == 3, "both are sent")
    upstream.go_on.set()
    assert [client.answer().status for client in clients] == [200, 200]


def test_a_model_that_is_down_does_not_hold_up_another(make_rig, upstream):
    rig = make_rig(models=("demo", "other"))
    client = rig.connect()
    client.post("/echo", b'{"model": "other"}')
    until(lambda: rig.waiting() == 1, "the other model loads")
    assert rig.ask("/echo", b'{"model": "demo"}').status == 200
