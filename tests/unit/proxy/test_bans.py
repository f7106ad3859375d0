"""`proxy.bans`: two strikes in ten minutes, an hour outside."""

from supervisor.proxy.bans import BAN_S, DOUBT, FIND_S, MAX_CLIENTS, MAX_STRIKES, Ban, Bans

EVE, BOB = "ip:192.0.2.66", "key:bob"


def test_the_second_strike_within_ten_minutes_closes_the_door_for_an_hour() -> None:
    bans = Bans()
    assert not bans.strike(EVE, 0.0)
    assert (len(bans), bans.left_s(EVE, 0.0)) == (0, 0.0)
    assert bans.strike(EVE, FIND_S - 1.0)
    assert bans.left_s(EVE, FIND_S) == BAN_S - 1.0
    assert bans.left_s(BOB, FIND_S) == 0.0
    assert bans.closed(FIND_S) == [Ban(EVE, BAN_S - 1.0)]
    assert bans.left_s(EVE, FIND_S - 1.0 + BAN_S) == 0.0
    assert len(bans) == 0, "over, and nothing is left of it"


def test_strikes_further_apart_are_accidents() -> None:
    bans = Bans()
    assert not any(bans.strike(EVE, n * FIND_S) for n in range(10))


def test_who_only_may_have_done_it_has_a_share() -> None:
    bans = Bans()
    assert [bans.strike(EVE, float(n), DOUBT) for n in range(4)] == [False, False, False, True]
    assert [bans.strike(BOB, float(n), DOUBT / 3) for n in range(12)] == [False] * 11 + [True]


def test_blamed_is_who_has_done_it_for_certain() -> None:
    bans = Bans()
    bans.strike(EVE, 0.0, DOUBT)
    assert not bans.blamed(EVE, 1.0)
    bans.strike(EVE, 1.0)
    assert bans.blamed(EVE, 2.0)
    assert not bans.blamed(EVE, 1.0 + FIND_S)


def test_a_door_that_is_closed_is_closed_anew_but_told_once() -> None:
    bans = Bans()
    assert [bans.strike(EVE, float(n)) for n in range(4)] == [False, True, False, False]
    assert bans.left_s(EVE, 3.0) == BAN_S


def test_an_operator_opens_it() -> None:
    bans = Bans()
    bans.strike(EVE, 0.0)
    bans.strike(EVE, 0.0)
    bans.clear()
    assert len(bans) == 0
    assert bans.left_s(EVE, 0.0) == 0.0
    assert not bans.strike(EVE, 1.0), "it begins anew"


def test_however_many_there_are_memory_is_bounded() -> None:
    bans = Bans()
    for number in range(3 * MAX_CLIENTS):
        for _ in range(2):
            bans.strike(f"user:{number}", 0.0)
        bans.strike(f"other:{number}", 0.0, DOUBT)
    assert (len(bans), len(bans._strikes)) == (MAX_CLIENTS, MAX_CLIENTS)
    assert bans.left_s(f"user:{3 * MAX_CLIENTS - 1}", 0.0), "the newest is there"
    for _ in range(100):
        bans.strike(BOB, 0.0, 0.001)
    assert len(bans._strikes[BOB]) == MAX_STRIKES
