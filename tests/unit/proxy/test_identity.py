"""`proxy.identity`: who asks, by the first rule that applies; one client has one name."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.proxy.identity import client_name

PROXIES = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


def name(
    peer: str, user: bytes | None = None, session: bytes | None = None, forwarded: bytes | None = None
) -> bytes:
    return client_name(peer, user, session, forwarded, PROXIES)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("127.0.0.1", b"u", b"s", b"1.2.3.4"), b"user:u"),
        (("127.0.0.1", None, b"s", b"1.2.3.4"), b"session:s"),
        (("127.0.0.1", b"", b"", b"1.2.3.4"), b"ip:1.2.3.4"),
        (("127.0.0.1",), b"ip:127.0.0.1"),
        (("::ffff:127.0.0.1", b"u"), b"user:u"),
        (("::1", b"u"), b"user:u"),
        (("198.51.100.7", b"u", b"s", b"1.2.3.4"), b"ip:198.51.100.7"),
        (("2001:db8:1:2:3::4",), b"ip:2001:db8:1:2::/64"),
        (("fe80::1%eth0",), b"ip:fe80::/64"),
        (("unix", b"u"), b"anonymous"),
        (("",), b"anonymous"),
    ],
)
def test_the_first_rule_that_applies(args, expected):
    assert name(*args) == expected


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (b"1.2.3.4", b"ip:1.2.3.4"),
        (b"6.6.6.6, 1.2.3.4", b"ip:1.2.3.4"),
        (b"1.2.3.4, 10.0.0.1, 10.0.0.2", b"ip:1.2.3.4"),
        (b"6.6.6.6,1.2.3.4,127.0.0.1", b"ip:1.2.3.4"),
        (b"10.0.0.9, 10.0.0.1", b"ip:10.0.0.9"),
        (b"unknown", b"ip:127.0.0.1"),
        (b"1.2.3.4, unknown", b"ip:127.0.0.1"),
        (b"unknown, 1.2.3.4", b"ip:1.2.3.4"),
        (b"1.2.3.4, unknown, 10.0.0.1", b"ip:10.0.0.1"),
        (b"", b"ip:127.0.0.1"),
        (b",", b"ip:127.0.0.1"),
        (b"1.2.3.4:5678", b"ip:1.2.3.4"),
        (b"[2001:db8::1]:443", b"ip:2001:db8::/64"),
        (b"01.2.3.4", b"ip:127.0.0.1"),
        (b"\xff\xfe", b"ip:127.0.0.1"),
    ],
)
def test_forwarded_addresses_are_read_from_the_right(forwarded, expected):
    assert name("127.0.0.1", forwarded=forwarded) == expected


def spellings(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[str]:
    if isinstance(address, ipaddress.IPv4Address):
        mapped = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
        plain, six = (
            [str(address)],
            [mapped.exploded, mapped.compressed, f"::ffff:{address}", f"::FFFF:{address}"],
        )
    else:
        plain = []
        six = [address.exploded, address.compressed, address.exploded.upper(), f"{address}%eth0"]
    ported = [f"{text}:8080" for text in plain] + [f"[{text}]:8080" for text in six]
    return [*plain, *six, *[f"[{text}]" for text in six], *ported, *[f"  {text} " for text in plain + six]]


@given(st.ip_addresses())
def test_any_spelling_of_an_address_is_one_client(address):
    assert len({name(text) for text in spellings(address)}) == 1
    seen = {name("127.0.0.1", forwarded=text.encode()) for text in spellings(address)}
    assert len(seen) == 1


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_one_ipv6_network_is_one_client(address, host):
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert name(str(address)) == name(str(neighbour))


@given(st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_two_ipv4_addresses_are_two_clients(one, other):
    assert (name(str(one)) == name(str(other))) == (one == other)


@given(st.binary(min_size=1, max_size=128), st.binary(min_size=1, max_size=128))
def test_names_are_printable_and_tell_users_apart(one, other):
    names = [name("127.0.0.1", user=user) for user in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for each in names:
        assert each.isascii()
        assert not set(each) & set(b' \r\n\t\0"')


@given(st.text(max_size=40), st.one_of(st.none(), st.binary(max_size=60)))
def test_nothing_a_peer_says_breaks_it(peer, forwarded):
    assert name(peer, forwarded=forwarded).startswith((b"ip:", b"anonymous"))
