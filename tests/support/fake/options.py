"""llama-server's command line, as far as a supervisor uses it."""

import os
import sys
from typing import NoReturn

VERSION = "version: 9.9.9-fake (build 1, commit fake)\nbuilt with fake for Linux\n"

# (spellings, placeholder of the value or "" for a switch, what it does)
FLAGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("-h", "--help", "--usage"), "", "print usage and exit"),
    (("--version",), "", "show version and build info"),
    (("-m", "--model"), "FNAME", "model path to load (env: LLAMA_ARG_MODEL)"),
    (("-a", "--alias"), "STRING", "set model name aliases (env: LLAMA_ARG_ALIAS)"),
    (("--host",), "HOST", "ip address to listen on, or a UNIX socket ending in .sock (default: 127.0.0.1)"),
    (("--port",), "PORT", "port to listen on (default: 8080)"),
    (("-c", "--ctx-size"), "N", "size of the prompt context (default: 0)"),
    (("-np", "--parallel"), "N", "number of server slots (default: -1, -1 = auto)"),
    (("-t", "--threads"), "N", "number of CPU threads to use during generation (default: -1)"),
    (("-tb", "--threads-batch"), "N", "number of threads for prompt processing"),
    (("-b", "--batch-size"), "N", "logical maximum batch size (default: 2048)"),
    (("-ub", "--ubatch-size"), "N", "physical maximum batch size (default: 512)"),
    (("-ngl", "--gpu-layers", "--n-gpu-layers"), "N", "max. number of layers to store in VRAM"),
    (("-n", "--predict", "--n-predict"), "N", "number of tokens to predict (default: -1)"),
    (("-fa", "--flash-attn"), "[on|off|auto]", "set Flash Attention use"),
    (("-ctk", "--cache-type-k"), "TYPE", "KV cache data type for K"),
    (("-ctv", "--cache-type-v"), "TYPE", "KV cache data type for V"),
    (("-cram", "--cache-ram"), "N", "set the maximum cache size in MiB (default: 8192)"),
    (("-lm", "--load-mode"), "{auto,none,mmap,mlock,mmap+mlock,dio}", "how to load the model"),
    (("-lv", "--verbosity", "--log-verbosity"), "N", "set the verbosity threshold (default: 3)"),
    (("-to", "--timeout"), "N", "server read/write timeout in seconds (default: 3600)"),
    (("--threads-http",), "N", "number of threads used to process HTTP requests (default: -1)"),
    (("--sse-ping-interval",), "N", "seconds between SSE pings (default: 30, -1 = disabled)"),
    (("--api-key",), "KEY", "API key for authentication (env: LLAMA_API_KEY)"),
    (("--api-key-file",), "FNAME", "path to file containing API keys"),
    (("--pooling",), "{none,mean,cls,last,rank}", "pooling type for embeddings"),
    (("--slot-save-path",), "PATH", "path to save slot kv cache"),
    (("--chat-template",), "JINJA_TEMPLATE", "set custom jinja chat template"),
    (("--sleep-idle-seconds",), "SECONDS", "sleep after so long without a task (default: -1)"),
    (("--embedding", "--embeddings"), "", "restrict to only support embedding use case"),
    (("--metrics",), "", "enable prometheus compatible metrics endpoint"),
    (("--slots",), "", "expose slots monitoring endpoint"),
    (("--no-slots",), "", "do not expose it"),
    (("--ui",), "", "enable the Web UI"),
    (("--no-ui",), "", "disable the Web UI"),
    (("--offline",), "", "offline mode"),
    (("--jinja",), "", "use jinja template engine for chat"),
    (("--no-jinja",), "", "do not"),
    (("--warmup",), "", "perform warmup with an empty run"),
    (("--no-warmup",), "", "do not"),
    (("-kvu", "--kv-unified"), "", "use single unified KV buffer"),
    (("--no-kv-unified",), "", "do not"),
)

_BY_SPELLING = {spelling: flag for flag in FLAGS for spelling in flag[0]}
_NUMBERS = frozenset(
    flag[0][-1] for flag in FLAGS if flag[1] in {"N", "PORT", "SECONDS"} and "-ngl" not in flag[0]
)


def refuse(text: str) -> NoReturn:
    """Say what is wrong with the command line, as llama-server does, and leave with 1."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    os._exit(1)


def usage(flag: tuple[tuple[str, ...], str, str]) -> str:
    spellings, value, help_text = flag
    lead = (
        ", ".join(spellings)
        if len(spellings[0]) > 2 or len(spellings) == 1
        else f"{spellings[0]},    " + ", ".join(spellings[1:])
    )
    return f"{f'{lead} {value}':<40}{help_text}\n"


class Options:
    """The command line and the environment, read as llama-server reads them."""

    def __init__(self, argv: list[str]) -> None:
        given = self._parse(argv)
        env = os.environ
        self.model = given.get("--model", env.get("LLAMA_ARG_MODEL", ""))
        self.alias = given.get("--alias", "") or self.model
        self.host = given.get("--host", "127.0.0.1")
        self.port = int(given.get("--port", "8080"))
        slots = int(given.get("--parallel", "-1"))
        self.slots = 4 if slots < 0 else slots
        self.context = int(given.get("--ctx-size", "0")) or 8192
        self.n_predict = int(given.get("--n-predict", "-1"))
        self.ping_s = float(given.get("--sse-ping-interval", "30"))
        keys = given.get("--api-key", env.get("LLAMA_API_KEY", ""))
        self.keys = frozenset(key for key in keys.split(",") if key)
        self.metrics = "--metrics" in given
        self.slots_route = "--no-slots" not in given
        self.embeddings = "--embeddings" in given

    @property
    def slot_context(self) -> int:
        return self.context // self.slots

    @staticmethod
    def _parse(argv: list[str]) -> dict[str, str]:
        """Values by the last spelling of each flag; answers ``--help`` and ``--version`` itself."""
        given: dict[str, str] = {}
        rest = iter(argv)
        for word in rest:
            flag = _BY_SPELLING.get(word)
            if flag is None:
                refuse(f"error: invalid argument: {word}")
            name = flag[0][-1]
            if name == "--usage":
                sys.stdout.write("----- common params -----\n\n" + "".join(usage(one) for one in FLAGS))
                sys.stdout.flush()
                os._exit(0)
            if name == "--version":
                sys.stderr.write(VERSION)
                sys.stderr.flush()
                os._exit(0)
            value = next(rest, None) if flag[1] else ""
            if value is None:
                refuse(
                    f'error while handling argument "{word}": expected value for argument\n\nusage:\n{usage(flag)}'
                )
            if name in _NUMBERS and not value.lstrip("-").isdigit():
                refuse(f'error while handling argument "{word}": stoi\n\nusage:\n{usage(flag)}')
            given[name] = value
        return given
