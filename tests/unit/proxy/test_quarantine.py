"""`proxy.quarantine`: what has killed twice is known again."""

from supervisor.proxy.quarantine import KEPT_S, MAX_ENTRIES, Quarantine, fingerprint

PATH = b"/completion"


def test_the_same_question_is_known_and_another_is_not() -> None:
    held = Quarantine()
    assert not held.holds(PATH, b"poison", 1.0)
    held.add(fingerprint(PATH, b"poison"), 1.0)
    assert held.holds(PATH, b"poison", 2.0)
    assert not held.holds(PATH, b"poison ", 2.0)
    assert not held.holds(b"/v1/completions", b"poison", 2.0)


def test_it_forgets_in_time() -> None:
    held = Quarantine()
    held.add(fingerprint(PATH, b"poison"), 1.0)
    assert held.holds(PATH, b"poison", KEPT_S)
    assert not held.holds(PATH, b"poison", KEPT_S + 1.0)
    assert len(held) == 0


def test_it_is_bounded_and_the_oldest_go_first() -> None:
    held = Quarantine()
    for number in range(MAX_ENTRIES + 10):
        held.add(fingerprint(PATH, b"%d" % number), 1.0)
    assert len(held) == MAX_ENTRIES
    assert not held.holds(PATH, b"0", 1.0)
    assert held.holds(PATH, b"%d" % (MAX_ENTRIES + 9), 1.0)


def test_a_path_of_any_length_can_be_held() -> None:
    held = Quarantine()
    held.add(fingerprint(b"/x" * 4000, b"poison"), 1.0)
    assert held.holds(b"/x" * 4000, b"poison", 1.0)


def test_what_was_not_alone_is_known_for_its_client_only() -> None:
    held = Quarantine()
    held.add(fingerprint(PATH, b"hello"), 1.0, "ip:192.0.2.1")
    assert held.holds(PATH, b"hello", 2.0, "ip:192.0.2.1")
    assert not held.holds(PATH, b"hello", 2.0, "ip:192.0.2.2")
    assert not held.holds(PATH, b"hello", 2.0)
    assert not held.holds(PATH, b"hello", 2.0 + KEPT_S, "ip:192.0.2.1")
