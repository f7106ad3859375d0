"""2 Who asks? First that applies: key, user, session, local user or address, anonymous (CONTRACT, "Identity").

Memoised: a client's requests look alike. The two headers and the address that a proxy names count only from
trusted proxies; a key counts from everywhere. On the UNIX socket a proxy is trusted by its user, and who is not one is
that user: by number, since a name depends on where it is looked up. What only looks like a key of ours is refused; a foreign one is
nobody's (SDKs always send something).
"""

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote_from_bytes

from supervisor.errors import Unauthorized
from supervisor.keys.key import Key, Presented, Scope
from supervisor.keys.ring import Keyring
from supervisor.proxy import cached
from supervisor.proxy.forwarded import Address, Network, address_of, behind, network_of, shortened, within
from supervisor.proxy.inflight import Client, Exchange
from supervisor.unixsocket import UID

MEMO_ENTRIES = 1024  # of up to 3.5 KiB: what is remembered by has been cut (`forwarded.nearest`)
IPV6_PREFIX = 64  # a customer's network: single addresses there are free to change
POOL_OF_KEYS = "user"  # of those that name none
_ADMIN = frozenset({Scope.ADMIN})
_POOLS = {b"user": "user", b"session": "session", b"uid": "user"}  # the kernel's word is as good as a proxy's


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Whose word counts. ``trusted``: proxies, as CIDR networks; ``trusted_uids``: those on the UNIX socket, by user;
    ``require_key``: nobody without one.
    """

    trusted: tuple[str, ...]
    trusted_uids: frozenset[int] = frozenset()
    ipv6_prefix: int = IPV6_PREFIX
    require_key: bool = False


class Identity:
    """Stage 2."""

    def __init__(self, rules: Rules, keyring: Keyring) -> None:
        self._keyring = keyring
        self._require_key = rules.require_key
        self._of_keys: dict[str, Client] = {}
        self._without_key = _namer(rules)
        self._is_proxy = _proxies(rules)

    def resolve(self, exchange: Exchange) -> None:
        """Set ``client``.

        Raises:
            Unauthorized: its key is none of ours any more, or it has none where one is required.
        """
        shown = exchange.fields.key
        if shown is None:
            if self._require_key and exchange.path not in cached.HEALTH:
                raise Unauthorized(
                    "an API key is required", hint="send it as Authorization: Bearer or as x-api-key"
                )
            self.name(exchange)
            return
        key = self._keyring.find(shown)
        if key is None:
            raise Unauthorized("this API key is unknown, revoked or expired")
        exchange.client = self._of_key(key)

    def name(self, exchange: Exchange) -> None:
        """Set ``client`` as if no key had been shown; refuses nobody."""
        fields = exchange.fields
        exchange.client = self._without_key(
            exchange.peer, fields.user_id, fields.session_id, fields.forwarded_for, fields.forwarded
        )

    def name_refused(self, exchange: Exchange) -> None:
        """Set ``client`` for an answer that says no: whoever it is, this is not where they are refused for it."""
        try:
            self.resolve(exchange)
        except Unauthorized:
            self.name(exchange)

    def at(self, peer: str) -> Client:
        """One that is known by its address only."""
        return self._without_key(peer, None, None, None, None)

    def trusts(self, peer: str) -> bool:
        """Whether it is a proxy, behind which there are many."""
        return self._is_proxy(peer)

    def is_admin(self, exchange: Exchange) -> bool:
        """Whether the request has an admin key. Raises Unauthorized as `resolve` does."""
        return self.has_scope(exchange, _ADMIN)

    def has_scope(self, exchange: Exchange, wanted: frozenset[Scope]) -> bool:
        """Whether the request has a key that is good for one of these. Raises Unauthorized as `resolve` does."""
        self.resolve(exchange)
        key = exchange.client.key
        return key is not None and not wanted.isdisjoint(key.scopes)

    def is_admin_key(self, shown: Presented) -> bool:
        """Whether what was shown earlier is an admin key still."""
        key = self._keyring.find(shown)
        return key is not None and Scope.ADMIN in key.scopes

    def _of_key(self, key: Key) -> Client:
        client = self._of_keys.get(key.id)
        if client is None or client.key is not key:  # new, or read again from a changed file
            if len(self._of_keys) >= MEMO_ENTRIES:
                self._of_keys.clear()
            name = f"key:{key.name}"
            client = Client(name, name.encode("ascii"), key.pool or POOL_OF_KEYS, key)
            self._of_keys[key.id] = client
        return client


def _namer(rules: Rules) -> Callable[..., Client]:
    networks = tuple(network_of(text) for text in rules.trusted)

    @lru_cache(MEMO_ENTRIES)
    def client(
        peer: str, user: bytes | None, session: bytes | None, xff: bytes | None, forwarded: bytes | None
    ) -> Client:
        label = client_name(
            peer,
            user,
            session,
            xff,
            forwarded,
            trusted=networks,
            trusted_uids=rules.trusted_uids,
            ipv6_prefix=rules.ipv6_prefix,
        )
        return Client(label.decode("ascii"), label, _POOLS.get(label.partition(b":")[0], "anonymous"))

    return client


def _proxies(rules: Rules) -> Callable[[str], bool]:
    networks = tuple(network_of(text) for text in rules.trusted)

    def trusted(peer: str) -> bool:
        if peer.startswith(UID):
            return int(peer.removeprefix(UID)) in rules.trusted_uids
        address = address_of(peer)
        return address is not None and within(address, networks)

    return trusted


def client_name(
    peer: str,
    user: bytes | None = None,
    session: bytes | None = None,
    xff: bytes | None = None,
    forwarded: bytes | None = None,
    *,
    trusted: tuple[Network, ...],
    trusted_uids: Collection[int] = (),
    ipv6_prefix: int = IPV6_PREFIX,
) -> bytes:
    """``user:ID``, ``session:ID``, ``uid:NUMBER``, ``ip:ADDRESS`` or ``anonymous``, safe to put in a header.

    ``xff``: X-Forwarded-For; ``forwarded``: the header of that name. Pure.
    """
    address: Address | None = None
    if peer.startswith(UID):
        is_proxy = int(peer.removeprefix(UID)) in trusted_uids
    else:
        address = address_of(peer)
        if address is None:
            return b"anonymous"
        is_proxy = within(address, trusted)
    if is_proxy:
        if user:
            return b"user:" + _quoted(user)
        if session:
            return b"session:" + _quoted(session)
        address = behind(xff, forwarded, trusted) or address
    return peer.encode("ascii") if address is None else b"ip:" + _shown(address, ipv6_prefix)


def _shown(address: Address, ipv6_prefix: int) -> bytes:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), ipv6_prefix), strict=False)).encode()
    return str(address).encode()


def _quoted(name: bytes) -> bytes:
    """Printable ASCII as it is, the rest %-escaped, and a long one's end hashed: no two names look the same."""
    return quote_from_bytes(shortened(name) or b"", safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()
