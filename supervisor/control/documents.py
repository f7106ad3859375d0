"""The JSON documents of the control API, as types: what the OpenAPI document is made from.

A document may hold more than is named here (a reader must pass over what it does not know), never less.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12


class ErrorObject(TypedDict):
    message: str
    code: str
    exit_code: int


class Error(TypedDict):
    """Every refusal and failure."""

    error: ErrorObject


class DaemonMemory(TypedDict):
    daemon_rss_bytes: int
    children_rss_bytes: int
    limit_bytes: int
    warning: str | None


class RequestTotals(TypedDict):
    in_flight: int
    queued: int
    total: int
    failed: int
    continued: int


class OwnLogs(TypedDict):
    dir: str
    error: str | None
    dropped: int


class DeathsFile(TypedDict):
    error: str | None


class Keys(TypedDict):
    count: int
    error: str | None


class Slots(TypedDict):
    total: int
    busy: int


class LastDeath(TypedDict):
    at: str
    cause: str
    signal: str | None
    exit_code: int | None
    uptime_s: float
    detail: str


class SecondServer(TypedDict):
    """A model's other llama-server: next (is to take over), leaving (finishes what it has) or standby."""

    role: str
    state: str
    generation: int
    pid: int | None
    why: str | None
    rss_bytes: int


class Unload(TypedDict):
    reason: Literal["ttl", "evicted", "operator"]
    at: str


class ModelStatus(TypedDict):
    name: str
    state: str
    pid: int | None
    port: int | None
    generation: int
    restarts: int
    uptime_s: float | None
    rss_bytes: int
    slots: Slots
    tokens: NotRequired[int]  # generated so far, of answers that came as streams
    next_try_s: float | None
    last_death: LastDeath | None
    memory: NotRequired[dict[str, int | float | None] | None]
    estimated_bytes: NotRequired[int | None]
    circuit_breaker: NotRequired[str]
    suspect: NotRequired[str | None]
    model_path: NotRequired[str]
    degraded: NotRequired[str | None]
    second: NotRequired[SecondServer | None]
    last_unload: NotRequired[Unload | None]
    not_replaced: NotRequired[str | None]
    log: NotRequired[dict[str, Any] | None]


class RefusedEdit(TypedDict):
    """What is wrong with the configuration file, and since when; the daemon goes on with the one before."""

    message: str
    since: str


class Limits(TypedDict):
    """``store``: the Redis in which several daemons count together, and how it is; None: each for itself."""

    store: dict[str, Any] | None


class Banned(TypedDict):
    """A client that is refused because its requests have brought llama-server down; ``left_s``: for how long yet."""

    client: str
    left_s: float


class Status(TypedDict):
    """The daemon and its models now; what `llmsup status --json` prints."""

    version: str
    pid: int
    uptime_s: float
    listen: str
    url: str
    config: str
    config_error: RefusedEdit | None
    config_pending: list[str]
    stopping: bool
    memory: DaemonMemory
    requests: RequestTotals
    logs: OwnLogs
    deaths: DeathsFile
    keys: Keys
    limits: Limits
    bans: list[Banned]
    models: list[ModelStatus]


class Death(TypedDict):
    at: str
    cause: str
    signal: str | None
    exit_code: int | None
    uptime_s: float
    detail: str
    model: str
    generation: int
    phase: str
    evidence: str
    lines: list[str]
    rss_bytes: int | None
    then: str
    degraded: str | None
    permanent: bool
    inside: NotRequired[int]  # so many requests were at it
    boot_id: str


class Deaths(TypedDict):
    """The last ends of llama-servers, oldest first."""

    schema: int
    deaths: list[Death]


class RequestRow(TypedDict):
    """``id``: clients may choose it, and twice; ``number``: of this request alone."""

    id: str
    number: int
    client: str
    method: str
    path: str
    model: str | None
    phase: Literal["waiting", "asked", "answering"]
    age_s: float
    queue_ms: int
    retries: int
    streamed: bool
    continued: int


class Requests(TypedDict):
    """The in-flight table, oldest first."""

    requests: list[RequestRow]


class LimitUse(TypedDict):
    """``reset_s``: until the limit is whole again, or, with nothing remaining, until one unit is there."""

    name: str
    limit: int
    remaining: int
    reset_s: float


class ClientRow(TypedDict):
    client: str
    pool: str
    in_flight: int
    queued: int
    limits: NotRequired[list[LimitUse]]


class Clients(TypedDict):
    """Who has requests in flight or was seen lately, and how much of their limits is used."""

    clients: list[ClientRow]


class ModelRow(TypedDict):
    name: str
    state: str
    path: str
    context_size: int
    slots: int
    default: bool
    aliases: list[str]
    preload: bool
    ttl_s: float | None
    standby: bool
    last_unload: Unload | None


class Models(TypedDict):
    """The configured models, in the order of the configuration."""

    models: list[ModelRow]


class Setting(TypedDict):
    key: str
    value: Any
    source: str
    pending: bool


class Config(TypedDict):
    """The configuration: each value with its origin (`FILE:LINE`, `env NAME` or `default`), and whether it waits for
    the next start.
    """

    path: str
    settings: list[Setting]


class Event(TypedDict):
    id: str
    kind: str
    at: str
    data: dict[str, Any]


class Events(TypedDict):
    """The newest events, oldest first."""

    events: list[Event]


class Logs(TypedDict):
    """The newest lines, oldest first, over rotated files and restarts."""

    path: str
    lines: list[str]


class ModelSeries(TypedDict):
    rss_bytes: list[int | None]
    slots_busy: list[int | None]
    state: list[str | None]


class History(TypedDict):
    """The last hour in columns: one entry of each for each time in `at` (seconds since 1970)."""

    period_s: float
    at: list[float]
    in_flight: list[int]
    queued: list[int]
    daemon_rss_bytes: list[int]
    models: dict[str, ModelSeries]


class Cancelled(TypedDict):
    cancelled: int


class Stopping(TypedDict):
    stopping: bool


class Restarting(TypedDict):
    restarting: str


class Loading(TypedDict):
    loading: str


class Unloading(TypedDict):
    unloading: str


class Change(TypedDict):
    """One key of the configuration; null: it was not there, or is no more. Secrets are masked."""

    key: str
    old: str | None
    new: str | None
    effect: str


class LastReading(TypedDict):
    at: str
    applied: list[str]


class Reloaded(TypedDict):
    """``last``: where nothing was applied, the newest reading before that did."""

    config: str
    applied: list[str]
    at_next_start: list[str]
    changes: list[Change]
    last: LastReading | None


class KeysReloaded(TypedDict):
    keys: int
    refused: str | None


class OpenApi(TypedDict):
    """The interface itself, as OpenAPI 3.1."""

    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
