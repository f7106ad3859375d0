"""2 Who asks? First that applies: user, session, address, anonymous (CONTRACT, "Identity").

Pure. The two headers and ``X-Forwarded-For`` count only from trusted proxies. Answers are memoised:
a client's requests look alike.
"""

import hashlib
import ipaddress
from collections.abc import Callable, Iterable
from functools import lru_cache
from urllib.parse import quote_from_bytes

from supervisor.proxy.inflight import Client, Exchange

NAME_MAX = 128
MEMO_ENTRIES = 4096
IPV6_PREFIX = 64  # a customer's network: single addresses there are free to change
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def resolver(trusted: Iterable[str]) -> Callable[[Exchange], None]:
    """Stage 2 for these trusted proxies (CIDR networks)."""
    networks = tuple(ipaddress.ip_network(text, strict=False) for text in trusted)

    @lru_cache(MEMO_ENTRIES)
    def client(peer: str, user: bytes | None, session: bytes | None, forwarded: bytes | None) -> Client:
        label = client_name(peer, user, session, forwarded, networks)
        return Client(label.decode("ascii"), label)

    def resolve(exchange: Exchange) -> None:
        fields = exchange.fields
        exchange.client = client(exchange.peer, fields.user_id, fields.session_id, fields.forwarded_for)

    return resolve


def client_name(
    peer: str,
    user: bytes | None,
    session: bytes | None,
    forwarded: bytes | None,
    trusted: tuple[_Network, ...],
) -> bytes:
    """``user:ID``, ``session:ID``, ``ip:ADDRESS`` or ``anonymous``, safe to put in a header."""
    address = _address(peer)
    if address is None:
        return b"anonymous"
    if _within(address, trusted):
        if user:
            return b"user:" + _quoted(user)
        if session:
            return b"session:" + _quoted(session)
        if forwarded:
            address = _forwarded(forwarded, trusted) or address
    if isinstance(address, ipaddress.IPv6Address):
        return b"ip:%b" % str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False)).encode()
    return b"ip:%b" % str(address).encode()


def _quoted(name: bytes) -> bytes:
    """Printable ASCII as it is, the rest %-escaped, and a long one's end hashed: no two names look the same."""
    if len(name) > NAME_MAX:
        name = name[: NAME_MAX // 2] + b"~" + hashlib.sha256(name).hexdigest()[:32].encode()
    return quote_from_bytes(name, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()


def _address(text: str) -> _Address | None:
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


def _within(address: _Address, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _forwarded(value: bytes, trusted: tuple[_Network, ...]) -> _Address | None:
    """The rightmost address that is no proxy of ours: what is further left, the client may have made up."""
    found: _Address | None = None
    for part in reversed(value.decode("latin-1").split(",")):
        address = _address(part)
        if address is None:
            break
        found = address
        if not _within(address, trusted):
            break
    return found
