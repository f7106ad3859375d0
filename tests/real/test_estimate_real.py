"""The estimate against llama-server's own log, and against llama-fit-params."""

import math
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from supervisor.proc import fitparams
from supervisor.proc.estimate import Estimate, Plan, estimate, largest_context
from supervisor.proc.gguf import GgufError, read_header
from supervisor.types import MIB

pytestmark = pytest.mark.real

MAKE_DEMO = Path(__file__).parents[2] / "models" / "make_demo.py"
LOG_MIB = 0.0051  # the log has two decimals


@dataclass
class Served:
    """What llama-server said it allocated, and its resident memory once it was ready."""

    kv_mib: float
    compute_mib: float
    rss_bytes: int
    errors: list[str]


def serve(binary: Path, model: Path, *arguments: object) -> Served:
    """Start it, read its log until its slots are ready, and end it."""
    argv = [
        binary,
        "-m",
        model,
        "--port",
        0,
        "-lv",
        4,
        "--offline",
        "--no-ui",
        "-t",
        1,
        "--cache-ram",
        0,
        *arguments,
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    seen = Served(0.0, 0.0, 0, [])
    process = subprocess.Popen(
        [*map(str, argv)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = threading.Timer(20, process.kill)
    deadline.start()
    assert process.stderr
    with process.stderr:
        for line in map(bytes.decode, process.stderr):
            if found := re.search(r"(?:llama_kv_cache|llama_memory_recurrent): size = +([\d.]+) MiB", line):
                seen.kv_mib += float(found[1])
            elif found := re.search(r"(?:compute|output) buffer size = +([\d.]+) MiB", line):
                seen.compute_mib += float(found[1])
            elif "error" in line:
                seen.errors.append(line)
            elif "n_slots = " in line:
                seen.rss_bytes = psutil.Process(process.pid).memory_info().rss
                break
        process.kill()
    process.wait()
    deadline.cancel()
    return seen


Options = Mapping[str, str | int]
FLAGS = {
    "context_size": "-c",
    "parallel": "-np",
    "cache_type_k": "-ctk",
    "cache_type_v": "-ctv",
    "ubatch": "-ub",
}


def flags(options: Options) -> list[object]:
    given = [part for name, value in options.items() if name in FLAGS for part in (FLAGS[name], value)]
    return [*given, "-kvu"] if options.get("unified") else given


def compare(binary: Path, model: Path, options: Options) -> tuple[Served, Estimate]:
    seen, told = serve(binary, model, *flags(options)), estimate(read_header(model), Plan(**options))
    assert seen.rss_bytes, seen.errors
    assert seen.kv_mib == pytest.approx(told.kv_bytes / MIB, abs=2 * LOG_MIB)
    return seen, told


@pytest.fixture(scope="session", params=[0, 50, 120], ids=["demo", "50mb", "120mb"])
def any_model(
    request: pytest.FixtureRequest, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if not request.param:
        return demo_model
    out = tmp_path_factory.mktemp("large") / f"{request.param}.gguf"
    argv = [sys.executable, "-B", str(MAKE_DEMO), str(out), "--size-mb", str(request.param)]
    subprocess.run(argv, check=True, timeout=60)
    return out


CONFIGURATIONS: list[Options] = [
    {"context_size": 4096, "parallel": 1},
    {"context_size": 8192, "parallel": 4},
    {"context_size": 8192, "parallel": 4, "unified": True},
    {"context_size": 0, "parallel": 2},
    {"context_size": 1000, "parallel": 3},
    {"context_size": 300, "parallel": 1, "ubatch": 64},
    {"context_size": 32768, "parallel": 8, "cache_type_k": "q8_0", "cache_type_v": "q8_0"},
    {"context_size": 5000, "parallel": 2, "cache_type_k": "q4_0", "cache_type_v": "q5_1"},
    {"context_size": 8192, "parallel": 1, "cache_type_k": "f32", "cache_type_v": "bf16"},
    {"context_size": 8192, "parallel": 1, "cache_type_k": "iq4_nl", "cache_type_v": "q4_1"},
    {"context_size": 2048, "parallel": 1, "cache_type_k": "q5_0", "ubatch": 2048},
]


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=lambda options: " ".join(map(str, flags(options))))
def test_kv_cache_is_what_the_log_says(llama_server_binary: Path, any_model: Path, options: Options) -> None:
    seen, told = compare(llama_server_binary, any_model, options)
    assert told.exact
    assert told.notes == ()
    assert 0.9 * seen.compute_mib <= told.compute_bytes / MIB <= 1.3 * seen.compute_mib + 1


def test_total_covers_the_resident_memory(llama_server_binary: Path, any_model: Path) -> None:
    seen, told = compare(llama_server_binary, any_model, {"context_size": 8192, "parallel": 2})
    assert 0.5 * told.total_bytes < seen.rss_bytes < 1.05 * told.total_bytes


def test_fit_params_agrees(llama_server_binary: Path, any_model: Path) -> None:
    tool = fitparams.beside(llama_server_binary)
    if not tool.exists():
        pytest.skip(f"{tool} was not built")
    header = read_header(any_model)
    for options in CONFIGURATIONS:
        if options.get("unified") or not options["context_size"]:
            continue  # it has no -kvu, and for -c 0 does not do the server's fitting
        opinion = fitparams.ask(tool, any_model, **options)
        assert opinion.devices, opinion.reason
        [host] = opinion.devices
        told = estimate(header, Plan(**options))
        assert host.device == "Host"
        assert host.model_mib == told.weights_bytes // MIB
        assert host.context_mib == told.kv_bytes // MIB
        # it computes all logits of a batch, we none but the last: 512 tokens * 625 logits * 4 bytes
        assert abs(host.compute_mib - told.compute_bytes / MIB) < 0.35 * told.compute_bytes / MIB + 2


def test_fit_params_declines_a_damaged_file_with_a_reason(llama_server_binary: Path, tmp_path: Path) -> None:
    tool = fitparams.beside(llama_server_binary)
    if not tool.exists():
        pytest.skip(f"{tool} was not built")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\3\0\0\0")
    opinion = fitparams.ask(tool, tmp_path / "bad.gguf", context_size=512, parallel=1)
    assert opinion.devices is None
    assert "ended with" in opinion.reason


def test_largest_context_is_the_edge(llama_server_binary: Path, demo_model: Path) -> None:
    header = read_header(demo_model)
    plan = Plan(context_size=5120, parallel=1)
    budget = estimate(header, plan).total_bytes
    assert largest_context(header, budget, replace(plan, context_size=0)) == 5120
    compare(llama_server_binary, demo_model, {"context_size": 5120, "parallel": 1})


def test_a_byte_less_is_refused_here_and_there(
    llama_server_binary: Path, demo_model: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo_model.read_bytes()[: read_header(demo_model).tensors_end - 1])
    with pytest.raises(GgufError, match="truncated by 1 bytes"):
        read_header(cut)
    assert any("not within the file bounds" in line for line in serve(llama_server_binary, cut).errors)


# ------------------------------------------------- other architectures, as files that are mostly holes

Tensors = list[tuple[str, tuple[int, ...]]]
WIDTH, HEADS, KV_HEADS, HEAD, FFN, VOCAB = 256, 8, 2, 32, 512, 300


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value: str | float | Sequence[str] | Sequence[int]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, int | float):
        return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)
    items = [text(item) if isinstance(item, str) else struct.pack("<i", item) for item in value]
    return struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 5, len(value)) + b"".join(items)


def write(path: Path, architecture: str, extra: Mapping[str, object], tensors: Tensors) -> Path:
    """A GGUF of zeros: its weights take no room on the disk."""
    own = {
        "context_length": 8192,
        "embedding_length": WIDTH,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_epsilon": 1e-6,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "vocab_size": VOCAB,
        **extra,
    }
    words = ["Ċ", "Ġ", *(f"<{number}>" for number in range(VOCAB - 2))]
    metadata = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [1] * VOCAB,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    head += [text(key) + typed(value) for key, value in metadata.items()]
    offset = 0
    for name, shape in tensors:
        small = len(shape) == 1 or "ssm" in name or "shortconv.conv" in name
        head.append(text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        head.append(struct.pack("<IQ", 0 if small else 1, offset))
        offset += math.prod(shape) * (4 if small else 2)
        offset += -offset % 32
    raw = b"".join(head)
    with path.open("wb") as file:
        file.write(raw + bytes(-len(raw) % 32))
        file.truncate(file.tell() + offset)
    return path


def attention(prefix: str, head: int = HEAD, kv_heads: int = KV_HEADS) -> Tensors:
    return [
        (prefix + "attn_q.weight", (WIDTH, HEADS * head)),
        (prefix + "attn_k.weight", (WIDTH, kv_heads * head)),
        (prefix + "attn_v.weight", (WIDTH, kv_heads * head)),
        (prefix + "attn_output.weight", (HEADS * head, WIDTH)),
    ]


def feed_forward(prefix: str) -> Tensors:
    shapes = {"gate": (WIDTH, FFN), "up": (WIDTH, FFN), "down": (FFN, WIDTH)}
    return [(f"{prefix}ffn_{name}.weight", shape) for name, shape in shapes.items()]


def norms(prefix: str, *names: str, width: int = WIDTH) -> Tensors:
    return [(f"{prefix}{name}.weight", (width,)) for name in names]


def gemma(prefix: str, head: int = HEAD) -> Tensors:
    sandwich = norms(prefix, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
    return [*sandwich, *attention(prefix, head), *feed_forward(prefix)]


def mamba(prefix: str) -> Tensors:
    inner, state, conv, rank = 2 * WIDTH, 16, 4, 16
    return [
        *norms(prefix, "attn_norm"),
        (prefix + "ssm_in.weight", (WIDTH, 2 * inner)),
        (prefix + "ssm_conv1d.weight", (conv, inner)),
        (prefix + "ssm_conv1d.bias", (inner,)),
        (prefix + "ssm_x.weight", (inner, rank + 2 * state)),
        (prefix + "ssm_dt.weight", (rank, inner)),
        (prefix + "ssm_dt.bias", (inner,)),
        (prefix + "ssm_a", (state, inner)),
        (prefix + "ssm_d", (inner,)),
        (prefix + "ssm_out.weight", (inner, WIDTH)),
    ]


def lfm2(prefix: str, attends: bool) -> Tensors:
    shared = [*norms(prefix, "attn_norm", "ffn_norm"), *feed_forward(prefix)]
    if attends:
        return [*shared, *norms(prefix, "attn_q_norm", "attn_k_norm", width=HEAD), *attention(prefix)]
    return [
        *shared,
        (prefix + "shortconv.conv.weight", (3, WIDTH)),
        (prefix + "shortconv.in_proj.weight", (WIDTH, 3 * WIDTH)),
        (prefix + "shortconv.out_proj.weight", (WIDTH, WIDTH)),
    ]


def model(folder: Path, architecture: str) -> Path:
    blocks = [f"blk.{number}." for number in range(7)]
    extra: dict[str, object] = {"block_count": len(blocks)}
    tail = "token_embd_norm" if architecture == "lfm2" else "output_norm"
    tensors: Tensors = [("token_embd.weight", (WIDTH, VOCAB)), (f"{tail}.weight", (WIDTH,))]
    match architecture:
        case "gemma2":
            extra |= {"attention.sliding_window": 512}
            layers = [gemma(block) for block in blocks]
        case "gemma3":
            extra |= {
                "attention.sliding_window": 512,
                "attention.key_length": 64,
                "attention.value_length": 64,
            }
            layers = [
                gemma(block, 64) + norms(block, "attn_q_norm", "attn_k_norm", width=64) for block in blocks
            ]
        case "cohere2":
            extra |= {"attention.sliding_window": 1024, "logit_scale": 1.0}
            extra |= {"attention.sliding_window_pattern": [1, 1, 0, 1, 0, 0, 1]}
            layers = [norms(block, "attn_norm") + attention(block) + feed_forward(block) for block in blocks]
        case "qwen3":
            layers = [lfm2(block, attends=True) for block in blocks]
        case "mamba":
            extra |= {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * WIDTH, "ssm.state_size": 16}
            extra |= {"ssm.time_step_rank": 16, "attention.head_count": 0, "feed_forward_length": 0}
            layers = [mamba(block) for block in blocks]
        case _:  # lfm2
            heads = [0, 0, KV_HEADS, 0, 0, KV_HEADS, 0]
            extra |= {"shortconv.l_cache": 3, "attention.head_count_kv": heads}
            layers = [lfm2(block, bool(kv)) for block, kv in zip(blocks, heads, strict=True)]
    tensors += [tensor for layer in layers for tensor in layer]
    return write(folder / f"{architecture}.gguf", architecture, extra, tensors)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "cohere2", "qwen3", "mamba", "lfm2"])
@pytest.mark.parametrize(
    "options",
    [
        {"context_size": 8192, "parallel": 1},
        {"context_size": 8192, "parallel": 4, "cache_type_k": "q8_0"},
        {"context_size": 8192, "parallel": 4, "unified": True, "ubatch": 128},
    ],
    ids=["one", "split", "unified"],
)
def test_other_architectures(
    llama_server_binary: Path, tmp_path: Path, architecture: str, options: Options
) -> None:
    _, told = compare(llama_server_binary, model(tmp_path, architecture), options)
    assert told.exact == (architecture not in {"mamba", "lfm2"})
