"""The command line and environment of a child, composed from settings. Pure.

Every flag that matters is passed explicitly, because llama-server's defaults differ between
versions and some would hurt (LLAMA_SERVER 0.4, 0.9, 0.13). Flags the binary does not list in its
``--help`` are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor.errors import ConfigError

HTTP_THREADS_SPARE = 32  # beyond the slots: token counts, health polls and a margin against its thread race
CACHE_RAM_SHARE = 4  # a quarter of the memory limit, for all models together; its own default is 8 GiB each
SSE_PING_S = 1  # also what tells that a client of a silent stream has left: the second write to it fails
MARKER = "LLMSUP_INSTANCE"

# Owned by the supervisor: another value would break the proxy or open the child to others.
OWNED = frozenset(
    {"-m", "--model", "--host", "--port", "--api-key", "--api-key-file", "--api-prefix", "-a", "--alias"}
    | {"-np", "--parallel", "--log-jsonl", "--ssl-key-file", "--ssl-cert-file", "--reuse-port"}
)
# What a child inherits: what programs, their libraries and GPU drivers look for. All else, secrets of other programs
# among it, stays here; `models.NAME.env` adds what one needs. LLAMA_ARG_* and the like would change it behind our back.
_INHERITED = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "TMP",
        "TEMP",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "GLIBC_TUNABLES",
        "DISPLAY",
        "WSL_DISTRO_NAME",
    ]
)
_INHERITED_PREFIXES = (
    # locale, folders, memory and the loader of macOS
    *("LC_", "XDG_", "MALLOC_", "MIMALLOC_", "DYLD_"),
    # threads and linear algebra
    *("OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "BLIS_", "GGML_"),
    # GPUs: NVIDIA; AMD; Vulkan and Mesa; Intel; OpenCL; Metal; others that llama.cpp knows
    *(
        "CUDA_",
        "NVIDIA_",
        "NCCL_",
        "CUBLAS_",
        "HIP_",
        "ROCR_",
        "ROCM_",
        "ROCBLAS_",
        "HIPBLASLT_",
        "HSA_",
        "AMD_",
        "GPU_",
    ),
    *(
        "VK_",
        "MESA_",
        "RADV_",
        "ANV_",
        "DRI_",
        "LIBGL_",
        "SYCL_",
        "ONEAPI_",
        "ZE_",
        "UR_",
        "NEO_",
        "OCL_",
        "OPENCL_",
    ),
    *("MTL_", "METAL_", "MUSA_", "ASCEND_", "CANN_"),
)


class SupportsFlags(Protocol):
    def supports(self, flag: str) -> bool:
        """Whether the binary's ``--help`` lists the option."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is served and how; sizes in tokens, ``cache_ram_mb`` in MiB."""

    name: str
    path: str
    context_size: int
    threads: int | None
    batch_size: int
    parallel: int
    gpu_layers: int
    args: Sequence[str]
    env: Mapping[str, str]
    max_tokens: int | None
    cache_ram_mb: int
    growth_mb: int = 0  # what it may take beyond what it has when it serves, in MiB; 0: whatever there is
    secret_env: frozenset[str] = frozenset()  # names in ``env`` whose values its log must not show
    seat: str = ""  # which of the model's two it is for (`events.InstanceView.holder`)

    @property
    def holder(self) -> str:
        return f"{self.name}{self.seat}"


def argv(spec: ModelSpec, binary: SupportsFlags, executable: str, *, host: str, port: int) -> list[str]:
    """The child's argument list.

    Raises:
        ConfigError: ``args`` sets something that is llmsup's to set.
    """
    _refuse_owned(spec)
    wanted: list[tuple[str, str | None]] = [
        ("--alias", spec.name),
        ("-c", str(spec.context_size)),
        ("-b", str(spec.batch_size)),
        ("-np", str(spec.parallel)),
        ("-ngl", str(spec.gpu_layers)),
        ("--threads-http", str(spec.parallel + HTTP_THREADS_SPARE)),
        ("--cache-ram", str(spec.cache_ram_mb)),
        ("--sse-ping-interval", str(SSE_PING_S)),
        ("--metrics", None),
        ("--no-ui", None),
        ("--offline", None),
    ]
    if spec.threads is not None:
        wanted.append(("-t", str(spec.threads)))
    if spec.max_tokens is not None:
        wanted.append(("-n", str(spec.max_tokens)))
    out = [executable, "-m", spec.path, "--host", host, "--port", str(port)]
    for flag, value in wanted:
        if binary.supports(flag):
            out += [flag] if value is None else [flag, value]
    return [*out, *spec.args]


def _refuse_owned(spec: ModelSpec) -> None:
    for arg in spec.args:
        flag = arg.split("=", 1)[0]
        if flag in OWNED:
            raise ConfigError(
                f"models.{spec.name}.args: {flag} is set by llmsup itself",
                hint="take it out of args; use the keys path, parallel and port instead",
            )


def environment(
    spec: ModelSpec, inherited: Mapping[str, str], *, api_key: str, marker: str
) -> dict[str, str]:
    """The child's environment: of ours what is on the list, plus what the model's ``env`` says, plus what it needs.

    The key travels here and not in argv, which every local user can read.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    kept.update(spec.env)
    kept.update(
        {
            "LLAMA_API_KEY": api_key,
            "GGML_NO_BACKTRACE": "1",  # else an abort forks gdb and takes 0.4 s
            MARKER: marker,
        }
    )
    return kept
