"""Who could reach what, as it is configured: each combination that is unsafe, with what makes it safe.

Values in, findings out. What a combination is judged by: the port that strangers reach must ask for a key, over TLS,
within limits; and nobody may be believed, or let in, because of where a connection comes from alone, when a proxy on
this machine makes strangers' connections come from there.
"""

import ipaddress
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from supervisor.doctor.finding import Finding, ok, warn
from supervisor.settings.schema import Pool, Settings

TITLE = "exposure"
# Proxies are few and near each other: a network beyond these is one that holds others too.
WIDEST_V4, WIDEST_V6 = 24, 64
RATES = ("requests_per_minute", "requests_per_hour", "tokens_per_minute", "tokens_per_day")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the configuration does not say. ``usable_keys``: neither expired nor revoked; None: it cannot be told.
    ``socket_folder_mode``: of the folder that `listen_unix` is in, None where there is none; ``socket_group``: whose
    it is.
    """

    usable_keys: int | None = None
    socket_folder_mode: int | None = None
    socket_group: str = ""


def exposure(settings: Settings, facts: Facts) -> Iterator[Finding]:
    """At least one finding."""
    found = [
        *_port(settings),
        *_console(settings),
        *_proxies(settings),
        *_pages(settings),
        *_limits(settings),
        *_keys(settings, facts),
        *_socket(settings, facts),
        *_store(settings),
        *_memory(settings),
    ]
    yield from found
    if not found:
        yield ok(TITLE, f"{settings.listen}: {_who(settings)}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; a name that is not localhost's may be any address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _who(settings: Settings) -> str:
    where = "this machine" if is_loopback(settings.listen_host) else "the network"
    return f"{where}, {'with a key' if settings.proxy.require_key else 'without a key'}"


def _port(settings: Settings) -> Iterator[Finding]:
    if is_loopback(settings.listen_host):
        return
    if not settings.proxy.require_key:
        yield warn(
            TITLE,
            f"whoever reaches {settings.listen} may use the models: listen is beyond loopback, without a key",
            "set proxy.require_key: true, and: llmsup keys create NAME",
        )
    if settings.tls.cert_file is None:
        yield warn(
            TITLE,
            f"keys, questions and answers can be read on the way to {settings.listen}: no TLS",
            "set tls.cert_file and tls.key_file, or listen on 127.0.0.1 behind a reverse proxy that has TLS",
        )
        if settings.dashboard.enabled:
            yield warn(
                TITLE,
                f"the dashboard is on {settings.listen} without TLS: an admin's key can be read on the way",
                "set tls.cert_file and tls.key_file, or dashboard.enabled: false",
            )


def _console(settings: Settings) -> Iterator[Finding]:
    """What is open to whoever connects from this machine."""
    proxied = [
        network for network in settings.proxy.trusted_proxies if ipaddress.ip_network(network).is_loopback
    ]
    for name, what, opened in (
        ("dashboard", "restart and stop models, and read logs", settings.dashboard.open_on_loopback),
        ("metrics", "read /metrics", settings.metrics.open_on_loopback),
    ):
        if opened and proxied:
            yield warn(
                TITLE,
                f"{name}.open_on_loopback with a proxy on this machine (proxy.trusted_proxies: {proxied[0]}): what it "
                f"passes on without a word comes from loopback too, and strangers may {what}",
                f"set {name}.open_on_loopback: false, and use a key",
            )
        elif opened and name == "dashboard":
            yield warn(
                TITLE,
                f"{name}.open_on_loopback: every user and program of this machine may {what}",
                f"set {name}.open_on_loopback: false where others use this machine",
            )


def _proxies(settings: Settings) -> Iterator[Finding]:
    for text in settings.proxy.trusted_proxies:
        network = ipaddress.ip_network(text)
        if not network.prefixlen:
            yield warn(
                TITLE,
                f"proxy.trusted_proxies has {text}: every client may call itself anybody, and has no limits",
                "name the addresses of your proxies only",
            )
        elif not network.is_loopback and network.prefixlen < (
            WIDEST_V4 if network.version == 4 else WIDEST_V6
        ):
            yield warn(
                TITLE,
                f"proxy.trusted_proxies has {text}: every machine there may call itself anybody",
                "name the addresses of your proxies only, for example 10.0.0.7/32",
            )


def _pages(settings: Settings) -> Iterator[Finding]:
    if "*" in settings.proxy.server_names:
        yield warn(
            TITLE,
            'proxy.server_names has "*": a web page whose name is made to point here counts as one of ours',
            "name the names that clients use",
        )
    cors = settings.proxy.cors
    if "*" in cors.allow_origins and not settings.proxy.require_key:
        yield warn(
            TITLE,
            'proxy.cors.allow_origins has "*", without a key: every web page that somebody here opens may use the models',
            "name the origins, or set proxy.require_key: true",
        )
    plain = [origin for origin in cors.allow_origins if _is_plain(origin)]
    if cors.allow_credentials and plain:
        yield warn(
            TITLE,
            f"proxy.cors.allow_credentials for {plain[0]}: who is on the way can put a page of his own there",
            "name it with https://",
        )


def _is_plain(origin: str) -> bool:
    """Travels unencrypted, beyond this machine."""
    url = urlsplit(origin)
    return url.scheme == "http" and not is_loopback(url.hostname or "")


def _limits(settings: Settings) -> Iterator[Finding]:
    if is_loopback(settings.listen_host):
        return
    pools = settings.limits.pools
    asking = {name: pool for name, pool in pools.items() if name == "user" or not settings.proxy.require_key}
    if all(_unlimited(pool) for pool in asking.values()):
        yield warn(
            TITLE,
            f"no limits for anybody on {settings.listen} (limits.pools): one client can have it all",
            "leave limits.pools out to have the defaults",
        )


def _unlimited(pool: Pool) -> bool:
    shared = pool.shared
    return all(getattr(part, rate) is None for part in (pool, shared) if part is not None for rate in RATES)


def _keys(settings: Settings, facts: Facts) -> Iterator[Finding]:
    if settings.proxy.require_key and facts.usable_keys == 0:
        yield warn(
            TITLE,
            "proxy.require_key is true and there is no key: nobody can ask",
            "llmsup keys create NAME",
        )


def _socket(settings: Settings, facts: Facts) -> Iterator[Finding]:
    path, mode = settings.listen_unix, facts.socket_folder_mode
    if path is None or mode is None:
        return
    if mode & stat.S_IWOTH:
        yield warn(
            TITLE,
            f"anybody may write in {path.parent}: another program can listen there in llmsup's place",
            f"chmod o-w {path.parent}",
        )
    elif mode & stat.S_ISGID:
        yield warn(
            TITLE,
            f"listen_unix: members of the group {facts.socket_group} may use the models, without a key",
            f"as it should be? else: chmod g-s {path.parent}",
        )


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.limits.store == "memory":
        return
    url = urlsplit(settings.limits.store)
    if url.scheme == "redis" and not is_loopback(url.hostname or ""):
        yield warn(
            TITLE,
            f"limits.store: names of clients, and a password, can be read on the way to {url.hostname}",
            "use rediss://, or a network of its own",
        )
    if not url.password:
        yield warn(
            TITLE,
            "limits.store has no password: whoever reaches that Redis lifts every limit",
            "requirepass in redis.conf, and the password in limits.store (${VAR} keeps it out of the file)",
        )


def _memory(settings: Settings) -> Iterator[Finding]:
    if settings.memory.growth_limit_mb == 0:
        yield warn(
            TITLE,
            "memory.growth_limit_mb is 0: one request can make llama-server take all memory of the machine",
            "leave it out, or set what a llama-server may take beside its model",
        )
