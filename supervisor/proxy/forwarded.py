"""The address behind trusted proxies, and one form for every way to write an address. Pure.

``X-Forwarded-For`` and ``Forwarded`` (RFC 7239) are both read from the right: each proxy adds what it sees at the
end, and what is left of the first address that is no proxy of ours the client may have made up.

With both, ``X-Forwarded-For`` wins: it is what most proxies write, and those that write only it pass a ``Forwarded``
on as it came, so that a client could choose its own address with it.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from itertools import islice

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HOPS = 32  # no chain of proxies is as long; each costs microseconds to read
HOPS_BYTES = MAX_HOPS * 48  # an address, its port and what a proxy writes around them
NAME_MAX = 128  # of a user or a session
MAPPED_BITS = 96  # ::ffff:0:0/96 holds the IPv4 addresses (RFC 4291, 2.5.5.2)
# One element of `Forwarded`. Quoted strings with a comma inside are none of an honest proxy's address; taking commas
# as ends wherever they are keeps what a client has left open from swallowing what a proxy wrote behind it.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  RFC 9110, 5.6.2: no secret
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PAIR = rf"{_TOKEN}=(?:{_TOKEN}|{_QUOTED})"
_ELEMENT = re.compile(rf"{_PAIR}(?:;[ \t]?{_PAIR})*;?\Z")
_PAIRS = re.compile(rf"({_TOKEN})=({_TOKEN}|{_QUOTED})")
_ESCAPED = re.compile(r"\\(.)")


def network_of(text: str) -> Network:
    """A configured network; mapped ones in the form that addresses have here."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


def address_of(text: str) -> Address | None:
    """One form for an address: no zone, brackets or port; ``::ffff:a.b.c.d`` is ``a.b.c.d``."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def behind(xff: bytes | None, forwarded: bytes | None, trusted: tuple[Network, ...]) -> Address | None:
    """The client's address as the proxies tell it; None: they do not."""
    if xff:
        return _rightmost(_listed(xff), trusted)
    if forwarded:
        return _rightmost(_elements(forwarded), trusted)
    return None


def nearest(value: bytes | None) -> bytes | None:
    """What is read of a list of hops, from the right; so much of it is remembered by client, and no more."""
    if value is None or len(value) <= HOPS_BYTES:
        return value
    return value[-HOPS_BYTES:].partition(b",")[2]  # the first is cut, perhaps


def shortened(name: bytes | None) -> bytes | None:
    """A long name's end hashed: no two look the same."""
    if name is None or len(name) <= NAME_MAX:
        return name
    return name[: NAME_MAX // 2] + b"~" + hashlib.sha256(name).hexdigest()[:32].encode()


def _rightmost(addresses: Iterable[Address | None], trusted: tuple[Network, ...]) -> Address | None:
    """From the right: the first that is no proxy of ours, else the last that makes sense."""
    found: Address | None = None
    for address in islice(addresses, MAX_HOPS):
        if address is None:
            break
        found = address
        if not within(address, trusted):
            break
    return found


def _listed(value: bytes) -> Iterator[Address | None]:
    return (address_of(part) for part in reversed(value.decode("latin-1").split(",")))


def _elements(value: bytes) -> Iterator[Address | None]:
    """``for=192.0.2.1;proto=https, for="[2001:db8::1]:4711"``; None for ``unknown`` and hidden names."""
    for part in reversed(value.decode("latin-1").split(",")):
        element = part.strip()
        pairs = _PAIRS.findall(element) if _ELEMENT.match(element) else []
        told = [value for name, value in pairs if name.lower() == "for"]
        yield address_of(_unquoted(told[0])) if len(told) == 1 else None


def _unquoted(text: str) -> str:
    return _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text
