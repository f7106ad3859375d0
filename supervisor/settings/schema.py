"""The configuration as frozen values: one class a section, one attribute a key, named as in the YAML.

Types are strict ("4" is not 4; 4 is good for 4.0) and unknown keys are errors. Validation also resolves: what `load`
returns has absolute paths, a thread count and a default model, never a null to be interpreted a second time.
Units are in the names: `_s` seconds, `_ms` milliseconds, `_mb` MiB, `_bytes`; the YAML may name another (`units`).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from supervisor.settings import values
from supervisor.settings.paths import DEFAULT_LISTEN, split_listen
from supervisor.settings.units import IN_BYTES, IN_MIB, IN_MS, IN_SECONDS
from supervisor.types import GIB, MIB

MAX_DURATION_S = 7 * 24 * 3600  # a longer wait is a mistyped unit
MAX_SLOTS = 1024  # llama-server serves far fewer well; the fake one of the benchmarks takes this many
MAX_COUNT = 1_000_000
MAX_RATE = 10**9
MAX_TOKENS = 2**24  # beyond any context length there is

Seconds = Annotated[float, Field(gt=0, le=MAX_DURATION_S), IN_SECONDS]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Uid = Annotated[int, Field(ge=0, lt=2**32 - 1)]
Rate = Annotated[int, Field(ge=1, le=MAX_RATE)]
ConfiguredPath = Annotated[Path, BeforeValidator(values.to_path, json_schema_input_type=str)]
SocketPath = Annotated[Path, BeforeValidator(values.to_socket_path, json_schema_input_type=str)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_means_defaults(cls, data: Any) -> Any:
        """`proxy:` with every line below it commented out reads as null in YAML."""
        return {} if data is None else data


class Log(Section):
    dir: ConfiguredPath | None = None  # null: Settings fills in <state_dir>/logs
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    access: bool = True


class LlamaServer(Section):
    """`binary`: "auto", an absolute path, or a bare name to be looked up in $PATH."""

    binary: Annotated[str, BeforeValidator(values.to_binary, json_schema_input_type=str)] = "auto"


class SafeProfile(Section):
    """What replaces the model's own numbers for the one try after running out of memory; null: as they were."""

    context_size: Tokens | None = None
    batch_size: Tokens | None = None
    threads: Threads | None = None


class Model(Section):
    path: Annotated[Path, BeforeValidator(values.to_model_path, json_schema_input_type=str)]
    context_size: Tokens = 4096
    threads: Annotated[Threads, BeforeValidator(values.to_threads, json_schema_input_type=int | None)] = (
        Field(default=None, validate_default=True)
    )
    batch_size: Tokens = 256
    parallel: Annotated[int, Field(ge=1, le=MAX_SLOTS)] = 4
    gpu_layers: Annotated[int, Field(ge=0, le=100_000)] = 0
    max_tokens: Tokens | None = None  # llama-server -n: the cap on generated tokens per answer
    max_history: Annotated[int, Field(ge=0)] | None = (
        None  # accepted for compatibility; llama-server has no such thing
    )
    args: list[values.Text] = Field(default_factory=list)
    env: dict[values.EnvName, values.Text] = Field(default_factory=dict)
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    startup_stall_s: Seconds = 60.0
    safe_profile: SafeProfile = SafeProfile()
    # Names in `env` whose values came from `${VAR}` or `file:`; set by `load`.
    _secret_env: frozenset[str] = PrivateAttr(default=frozenset())
    aliases: list[values.Alias] = Field(default_factory=list)
    preload: bool = True
    ttl_s: Seconds | None = None  # null: once loaded it stays, unless another needs its memory
    standby: bool = False

    @property
    def secret_env(self) -> frozenset[str]:
        """Names in `env` whose values nobody may see, whatever they are called."""
        return self._secret_env

    def keep_secret(self, names: Iterable[str]) -> None:
        self._secret_env = self._secret_env | frozenset(names)


class Cors(Section):
    """Web pages of other origins; no origin (the default): none of them."""

    allow_origins: list[values.Origin] = Field(default_factory=list)
    allow_headers: list[values.HeaderName] = Field(default_factory=lambda: ["*"])
    allow_credentials: bool = False
    max_age_s: Annotated[int, Field(ge=0, le=MAX_DURATION_S), IN_SECONDS] = 600

    @field_validator("allow_credentials", mode="after")
    @classmethod
    def _not_for_everybody(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("allow_origins", ()):
            raise ValueError('not together with allow_origins "*": name the origins')
        return value


class Tls(Section):
    """Of the port; both files or neither."""

    cert_file: ConfiguredPath | None = None
    key_file: ConfiguredPath | None = Field(default=None, validate_default=True)

    @field_validator("key_file", mode="after")
    @classmethod
    def _both_or_neither(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        if "cert_file" in info.data and (key_file is None) != (info.data["cert_file"] is None):
            raise ValueError("cert_file and key_file belong together: set both or neither")
        return key_file


class Proxy(Section):
    max_concurrent_requests: Count = 10
    queue_size: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    queue_timeout_s: Seconds = 60.0
    request_timeout_s: Seconds = 60.0
    drain_timeout_s: Annotated[float, Field(ge=0, le=MAX_DURATION_S), IN_SECONDS] = 30.0
    max_body_bytes: Annotated[int, Field(ge=1, le=4 * GIB), IN_BYTES] = 32 * MIB
    trusted_proxies: list[values.Network] = Field(default_factory=list)
    server_names: list[values.ServerName] = Field(default_factory=list)
    trusted_uids: list[Uid] = Field(default_factory=list)
    ipv6_prefix: Annotated[int, Field(ge=1, le=128)] = 64
    require_key: bool = False
    continue_after_crash: bool = True
    cors: Cors = Cors()


class SharedBucket(Section):
    """Limits of all clients of a pool together; null: none. In the built-in pools, of those only who show no key: whose
    names may cost nothing must not use up what key holders may.
    """

    requests_per_minute: Rate | None = None
    requests_per_hour: Rate | None = None
    concurrent: Count | None = None
    tokens_per_minute: Rate | None = None
    tokens_per_day: Rate | None = None


class Pool(Section):
    """The limits of each client of one class, and its share where clients wait; null: none."""

    requests_per_minute: Rate | None = 60
    requests_per_hour: Rate | None = 1000
    concurrent: Count | None = 4
    tokens_per_minute: Rate | None = None
    tokens_per_day: Rate | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    priority: Literal["interactive", "batch"] = "interactive"
    shared: SharedBucket | None = (
        None  # of the built-in pools, unless they say otherwise: ten times their own (`Settings._share_buckets`)
    )


def _ten_times(pool: Pool) -> SharedBucket:
    """Ten clients may use their own limits up before all of the pool are refused together."""
    own = {name: getattr(pool, name) for name in SharedBucket.model_fields}
    most = {name: MAX_COUNT if name == "concurrent" else MAX_RATE for name in own}
    return SharedBucket(
        **{name: None if limit is None else min(10 * limit, most[name]) for name, limit in own.items()}
    )


class Limits(Section):
    pools: dict[values.PoolName, Pool] = Field(default_factory=dict, validate_default=True)
    store: Annotated[str, BeforeValidator(values.check_store, json_schema_input_type=str)] = "memory"
    on_store_failure: Literal["local", "allow", "deny"] = "local"

    @field_validator("pools", mode="after")
    @classmethod
    def _keep_built_in(cls, pools: dict[str, Pool]) -> dict[str, Pool]:
        """To change one pool is not to abolish the others."""
        return {name: Pool() for name in values.BUILT_IN_POOLS} | pools

    def sharing(self, names: Iterable[str]) -> "Limits":
        """With one bucket for all of each of these pools that does not say otherwise."""
        shared = {
            name: pool.model_copy(update={"shared": _ten_times(pool)})
            for name, pool in self.pools.items()
            if name in names and "shared" not in pool.model_fields_set
        }
        return self.model_copy(update={"pools": self.pools | shared})


class Memory(Section):
    limit_mb: Annotated[int, Field(ge=1), IN_MIB] = 2048
    min_free_mb: Annotated[int, Field(ge=0), IN_MIB] = 256
    growth_limit_mb: Annotated[int, Field(ge=0), IN_MIB] | None = None  # null: limit_mb and 2 GiB; 0: none


class Retry(Section):
    max_retries: Annotated[int, Field(ge=0, le=100)] = 3
    delay_ms: Annotated[int, Field(ge=0, le=1000 * MAX_DURATION_S), IN_MS] = 1000
    backoff_multiplier: Annotated[float, Field(ge=1, le=100)] = 2.0
    retryable: list[values.Retryable] = Field(default_factory=values.default_retryable)


class CircuitBreaker(Section):
    failure_threshold: Count = 5
    reset_timeout_s: Seconds = 30.0
    half_open_requests: Count = 2


class Cleanup(Section):
    interval_s: Seconds = 300.0
    max_age_s: Seconds = 600.0


class Reload(Section):
    watch: bool = True


class Dashboard(Section):
    """The page under /llmsup on the port; ``open_on_loopback``: without a key, for whoever sits at this machine."""

    enabled: bool = True
    open_on_loopback: bool = False


class Metrics(Section):
    """`/metrics` on the port; ``open_on_loopback``: without a key, for whoever sits at this machine."""

    open_on_loopback: bool = False


class Settings(Section):
    """The whole configuration. Field order matters: `log` reads state_dir, `default_model` reads models."""

    listen: Annotated[str, BeforeValidator(values.check_listen, json_schema_input_type=str)] = DEFAULT_LISTEN
    listen_unix: SocketPath | None = None
    tls: Tls = Tls()
    state_dir: Annotated[Path, BeforeValidator(values.to_state_dir, json_schema_input_type=str | None)] = (
        Field(default=None, validate_default=True)
    )
    log: Log = Field(default_factory=Log, validate_default=True)
    llama_server: LlamaServer = LlamaServer()
    models: dict[values.Name, Model] = Field(min_length=1)
    default_model: Annotated[str, Field(json_schema_extra={"default": None})] = Field(
        default=None, validate_default=True
    )
    proxy: Proxy = Proxy()
    limits: Limits = Field(default_factory=Limits, validate_default=True)
    memory: Memory = Memory()
    retry: Retry = Field(default_factory=Retry)
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    cleanup: Cleanup = Cleanup()
    reload: Reload = Reload()
    dashboard: Dashboard = Dashboard()
    metrics: Metrics = Metrics()

    @property
    def listen_host(self) -> str:
        """Without brackets: `::1`."""
        return split_listen(self.listen)[0]

    @property
    def listen_port(self) -> int:
        return split_listen(self.listen)[1]

    @property
    def log_dir(self) -> Path:
        """`log.dir` as never null."""
        return self.log.dir or self.state_dir / "logs"

    @field_validator("log", mode="after")
    @classmethod
    def _log_beside_state(cls, log: Log, info: ValidationInfo) -> Log:
        state_dir = info.data.get("state_dir")
        if log.dir is None and state_dir is not None:
            return log.model_copy(update={"dir": state_dir / "logs"})
        return log

    @field_validator("limits", mode="after")
    @classmethod
    def _share_buckets(cls, limits: Limits, info: ValidationInfo) -> Limits:
        """Names cost nothing where no key is required: whoever makes them up shares one bucket with all such."""
        proxy = info.data.get("proxy")
        required = proxy is not None and proxy.require_key
        return limits.sharing(("anonymous",) if required else values.BUILT_IN_POOLS)

    @field_validator("models", mode="after")
    @classmethod
    def _each_name_once(cls, models: dict[str, Model]) -> dict[str, Model]:
        values.check_claims(values.claims({name: model.aliases for name, model in models.items()}))
        return models

    @field_validator("default_model", mode="before")
    @classmethod
    def _one_of_models(cls, value: Any, info: ValidationInfo) -> Any:
        names = values.model_names(info)
        if value is None:
            return values.only_model(names)
        if isinstance(value, str):
            values.check_known_model(value, names)
        return value
