"""`proxy.identity`: who asks, by the first rule that applies; one client has one name."""

import ipaddress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import Unauthorized
from supervisor.keys import key as keys
from supervisor.keys.key import Key, Scope
from supervisor.proxy.forwarded import address_of, network_of, within
from supervisor.proxy.headers import read_request
from supervisor.proxy.identity import Identity, Rules, client_name
from supervisor.proxy.inflight import Exchange

PROXIES = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)


def name(
    peer: str,
    user: bytes | None = None,
    session: bytes | None = None,
    forwarded: bytes | None = None,
    *,
    standard: bytes | None = None,
    ipv6_prefix: int = 64,
) -> bytes:
    """``forwarded``: as X-Forwarded-For; ``standard``: as Forwarded."""
    return client_name(
        peer,
        user,
        session,
        forwarded,
        standard,
        trusted=PROXIES,
        trusted_uids={33},
        ipv6_prefix=ipv6_prefix,
    )


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
        (("uid:1000",), b"uid:1000"),
        (("uid:1000", b"u", b"s", b"1.2.3.4"), b"uid:1000"),
        (("uid:33",), b"uid:33"),
        (("uid:33", b"u", b"s", b"1.2.3.4"), b"user:u"),
        (("uid:33", b"", b"s", b"1.2.3.4"), b"session:s"),
        (("uid:33", None, None, b"1.2.3.4"), b"ip:1.2.3.4"),
        (("uid:33", None, None, b"6.6.6.6, 1.2.3.4, 10.0.0.9"), b"ip:1.2.3.4"),
        (("uid:33", None, None, b"unknown"), b"uid:33"),
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


def elements(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[bytes]:
    """The same as elements of `Forwarded`, where IPv6 needs brackets and quotes (RFC 7239, 6)."""
    quoted = [f'for="{text}"' for text in spellings(address) if "[" in text or ":" not in text]
    plain = [f"for={address}", f"FOR={address}"] if address.version == 4 else []
    texts = plain + quoted + [f"proto=https;{text};by=10.0.0.1" for text in quoted]
    return [text.encode() for text in texts]


@given(st.ip_addresses())
def test_any_spelling_of_an_address_is_one_client(address):
    assert len({name(text) for text in spellings(address)}) == 1
    seen = {name("127.0.0.1", forwarded=text.encode()) for text in spellings(address)}
    seen |= {name("127.0.0.1", standard=text) for text in elements(address)}
    assert len(seen) == 1
    if not within(address_of(str(address)), PROXIES):
        assert seen == {name(str(address))}


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


@given(st.ip_addresses(v=6), st.integers(1, 128))
def test_the_prefix_is_the_configured_one(address, prefix):
    if address.ipv4_mapped is None:
        network = ipaddress.ip_network((int(address), prefix), strict=False)
        assert name(str(address), ipv6_prefix=prefix) == f"ip:{network}".encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"for=192.0.2.43", b"ip:192.0.2.43"),
        (b'For="[2001:db8:cafe::17]:4711"', b"ip:2001:db8:cafe::/64"),
        (b"for=192.0.2.60;proto=http;by=203.0.113.43", b"ip:192.0.2.60"),
        (b"proto=http; for=192.0.2.60", b"ip:192.0.2.60"),
        (b"for=6.6.6.6, for=192.0.2.43", b"ip:192.0.2.43"),
        (b"for=192.0.2.43, for=10.0.0.1", b"ip:192.0.2.43"),
        (b'for="192.0.2.43:80";', b"ip:192.0.2.43"),
        (b'for="192\\.0.2.43"', b"ip:192.0.2.43"),
        (b"for=192.0.2.43, for=_hidden", b"ip:127.0.0.1"),
        (b"for=unknown", b"ip:127.0.0.1"),
        (b"proto=https", b"ip:127.0.0.1"),
        (b"for=1.1.1.1;for=2.2.2.2", b"ip:127.0.0.1"),
        (b"192.0.2.43", b"ip:127.0.0.1"),
        (b"for = 192.0.2.43", b"ip:127.0.0.1"),
        (b"", b"ip:127.0.0.1"),
        # What a client has left open does not swallow what the proxy wrote behind it,
        (b'for="6.6.6.6, for=192.0.2.43', b"ip:192.0.2.43"),
        # nor can it write an element of its own into what the proxy quotes of it.
        (b'host="x;for=6.6.6.6";for=192.0.2.43', b"ip:192.0.2.43"),
        (b'for=192.0.2.43;host="a, for=6.6.6.6"', b"ip:127.0.0.1"),
        (b'for=192.0.2.43;host="a, for=6.6.6.6;x=\\"b\\""', b"ip:127.0.0.1"),
    ],
)
def test_the_standard_header_is_read_from_the_right_too(value, expected):
    assert name("127.0.0.1", standard=value) == expected


def test_x_forwarded_for_wins_over_the_standard_header():
    assert name("127.0.0.1", forwarded=b"1.2.3.4", standard=b"for=6.6.6.6") == b"ip:1.2.3.4"
    assert name("127.0.0.1", forwarded=b"unknown", standard=b"for=6.6.6.6") == b"ip:127.0.0.1"


@pytest.mark.fault(47)
@given(
    st.ip_addresses(),
    st.tuples(*[st.one_of(st.none(), st.binary(max_size=60), st.just(b"1.2.3.4"))] * 3),
    st.one_of(st.just(b"for=1.2.3.4"), st.binary(max_size=60)),
)
def test_an_untrusted_peer_is_who_it_is_whatever_it_says(address, said, standard):
    if not within(address_of(str(address)), PROXIES):
        assert name(str(address), *said, standard=standard) == name(str(address))


def test_a_chain_longer_than_any_real_one_is_not_read_to_its_end():
    assert name("127.0.0.1", forwarded=b"1.2.3.4" + b",10.0.0.1" * 900) == b"ip:10.0.0.1"


def test_a_long_header_costs_little():
    for value in (
        b"for=1;" * 1300,
        b" " * 8000,
        b'for="' + b"\\a" * 3900,
        b"a=b; " * 1500 + b"!",
        b"," * 8000,
    ):
        assert name("127.0.0.1", standard=value) == b"ip:127.0.0.1"


def test_a_mapped_network_trusts_the_addresses_it_maps():
    assert network_of("::ffff:10.0.0.0/104") == ipaddress.ip_network("10.0.0.0/8")
    assert network_of("::/0") == ipaddress.ip_network("::/0")


# ---- with keys

TEXT = keys.token("0123abcd", "s" * 43)
KEY = Key(
    id="0123abcd", name="ci", digest=keys.digest(TEXT.encode()), created=datetime(2026, 5, 1, tzinfo=UTC)
)


class Ring:
    def __init__(self, *known: Key) -> None:
        self.known = {key.id: key for key in known}

    def find(self, shown: keys.Presented) -> Key | None:
        key = self.known.get(shown.id)
        return key if key is not None and keys.matches(key, shown) else None


def identity(*known: Key, require_key: bool = False) -> Identity:
    return Identity(Rules(trusted=("127.0.0.0/8",), require_key=require_key), Ring(*known))


def asking(*fields: tuple[bytes, bytes], path: bytes = b"/completion", peer: str = "127.0.0.1") -> Exchange:
    exchange = Exchange(None, b"POST", path, read_request(fields, small=True), peer)
    exchange.path = path
    return exchange


BEARER = (b"Authorization", b"Bearer " + TEXT.encode())


@pytest.mark.parametrize(
    "shown",
    [
        BEARER,
        (b"authorization", b"bearer   " + TEXT.encode()),
        (b"X-Api-Key", TEXT.encode()),
    ],
)
def test_a_key_names_its_client_before_anything_else_and_from_anywhere(shown):
    who = identity(KEY)
    for peer in ("127.0.0.1", "198.51.100.7", "unix", "uid:1000"):
        exchange = asking(shown, (b"X-User-ID", b"u"), peer=peer)
        who.resolve(exchange)
        client = exchange.client
        assert (client.name, client.label, client.pool, client.key) == ("key:ci", b"key:ci", "user", KEY)


def test_one_key_is_one_client_until_it_is_read_again():
    who, again = identity(KEY), replace(KEY, pool="batch")
    first, second, third = asking(BEARER), asking(BEARER), asking(BEARER)
    who.resolve(first)
    who.resolve(second)
    assert first.client is second.client
    who._keyring.known[KEY.id] = again
    who.resolve(third)
    assert third.client.pool == "batch"


@pytest.mark.parametrize(
    ("fields", "pool"),
    [((), "anonymous"), (((b"X-User-ID", b"u"),), "user"), (((b"X-Session-ID", b"s"),), "session")],
)
def test_the_pool_follows_from_how_one_is_known(fields, pool):
    exchange = asking(*fields)
    identity().resolve(exchange)
    assert exchange.client.pool == pool
    assert exchange.client.key is None


def test_a_local_user_is_in_the_pool_of_users_and_cannot_choose_a_name():
    exchange = asking((b"X-User-ID", b"u"), (b"X-Forwarded-For", b"1.2.3.4"), peer="uid:1000")
    who = identity()
    who.resolve(exchange)
    client = exchange.client
    assert (client.name, client.label, client.pool, client.key) == ("uid:1000", b"uid:1000", "user", None)
    assert who.at("uid:1000").label == b"uid:1000"


def test_only_named_users_are_proxies_on_the_unix_socket():
    rules = Rules(trusted=("0.0.0.0/0", "::/0"), trusted_uids=frozenset({33}))
    who = Identity(rules, Ring())
    for peer, expected in (("uid:33", "user:u"), ("uid:34", "uid:34")):
        exchange = asking((b"X-User-ID", b"u"), peer=peer)
        who.resolve(exchange)
        assert exchange.client.name == expected


@pytest.mark.parametrize("said", [b"uid:0", b"0", b"unix"])
def test_no_header_makes_a_client_a_local_user(said):
    names = {name("127.0.0.1", user=said), name("127.0.0.1", session=said), name("127.0.0.1", forwarded=said)}
    assert not {each for each in names if each.startswith(b"uid:")}


def test_a_key_that_is_none_of_ours_is_refused_and_still_has_an_address():
    who, exchange = identity(), asking(BEARER)
    with pytest.raises(Unauthorized):
        who.resolve(exchange)
    who.name(exchange)
    assert exchange.client.name == "ip:127.0.0.1"


@pytest.mark.parametrize(
    "foreign",
    [(b"Authorization", b"Bearer sk-none"), (b"Authorization", b"Basic eDp5"), (b"x-api-key", b"dummy")],
)
def test_a_foreign_key_is_nobodys_unless_one_is_required(foreign):
    exchange = asking(foreign)
    identity(KEY).resolve(exchange)
    assert exchange.client.name == "ip:127.0.0.1"
    with pytest.raises(Unauthorized, match="required"):
        identity(KEY, require_key=True).resolve(asking(foreign))


def test_of_two_keys_ours_counts():
    exchange = asking((b"Authorization", b"Bearer sk-none"), (b"x-api-key", TEXT.encode()))
    identity(KEY).resolve(exchange)
    assert exchange.client.name == "key:ci"


def test_where_a_key_is_required_nobody_else_is_heard_but_at_health():
    who = identity(KEY, require_key=True)
    who.resolve(asking(BEARER))
    who.resolve(asking(path=b"/health"))
    for path in (b"/completion", b"/v1/models"):
        with pytest.raises(Unauthorized, match="required"):
            who.resolve(asking((b"X-User-ID", b"u"), path=path))


def test_an_administrator_is_who_has_a_key_for_it():
    admin = replace(KEY, scopes=frozenset({Scope.ADMIN}))
    assert identity(admin).is_admin(asking(BEARER))
    assert not identity(KEY).is_admin(asking(BEARER))
    assert not identity(KEY).is_admin(asking((b"X-User-ID", b"admin")))
    with pytest.raises(Unauthorized):
        identity().is_admin(asking(BEARER))


@pytest.mark.fault(55)
def test_a_requests_fields_do_not_keep_the_secret():
    assert "s" * 43 not in repr(asking(BEARER).fields)
