import pytest

from supervisor.errors import ConfigError
from supervisor.proc import command
from tests.support.proc import FakeBinary, spec

OPTIONAL = [
    ("--alias", "demo"),
    ("-c", "4096"),
    ("-b", "256"),
    ("-np", "4"),
    ("-ngl", "0"),
    ("--threads-http", "36"),
    ("--cache-ram", "512"),
    ("--sse-ping-interval", "1"),
    ("-t", "2"),
]


def argv(binary=None, **changes):
    return command.argv(
        spec(**changes), binary or FakeBinary(), "/b/llama-server", host="127.0.0.1", port=9000
    )


def test_the_program_the_model_and_the_address_come_first():
    assert argv()[:7] == [
        *("/b/llama-server", "-m", "/models/demo.gguf"),
        *("--host", "127.0.0.1", "--port", "9000"),
    ]


@pytest.mark.fault(22)
@pytest.mark.parametrize(("flag", "value"), OPTIONAL)
def test_a_flag_is_passed_with_its_value_or_left_out_with_it(flag, value):
    words = argv()
    assert words[words.index(flag) + 1] == value
    assert flag not in argv(FakeBinary(flag))
    assert len(argv(FakeBinary(flag))) == len(words) - 2


@pytest.mark.fault(22)
@pytest.mark.parametrize("flag", ["--metrics", "--no-ui", "--offline"])
def test_a_switch_is_passed_or_left_out(flag):
    assert flag in argv()
    assert len(argv(FakeBinary(flag))) == len(argv()) - 1


def test_unset_numbers_are_left_to_llama_server():
    assert "-n" not in argv()
    assert argv(max_tokens=7)[-2:] == ["-n", "7"]
    assert "-t" not in argv(threads=None)


def test_the_operators_own_arguments_come_last_and_as_they_are():
    assert argv(args=("--flash-attn", "on"))[-2:] == ["--flash-attn", "on"]


@pytest.mark.parametrize("flag", sorted(command.OWNED))
@pytest.mark.parametrize("form", ["{}", "{}=1"])
def test_owned_flags_are_refused_by_name(flag, form):
    with pytest.raises(ConfigError, match=r"models\.demo\.args: " + flag):
        argv(args=("--verbose", form.format(flag)))


def test_the_secret_is_in_the_environment_and_nowhere_else():
    made = command.environment(spec(), {}, api_key="s3cret", marker="1:demo:1")
    assert made == {"LLAMA_API_KEY": "s3cret", "GGML_NO_BACKTRACE": "1", "LLMSUP_INSTANCE": "1:demo:1"}
    assert "s3cret" not in " ".join(argv())


@pytest.mark.parametrize(
    "name",
    [
        *("LLAMA_ARG_CTX_SIZE", "LLAMA_API_KEY", "AIP_HTTP_PORT", "LLMSUP_CONFIG", "LLM_X", "LISTEN_FDS"),
        *("NOTIFY_SOCKET", "WATCHDOG_USEC", "http_proxy", "HTTPS_PROXY", "no_proxy", "ALL_PROXY"),
        *(
            "AWS_SECRET_ACCESS_KEY",
            "OPENAI_API_KEY",
            "HF_TOKEN",
            "SSH_AUTH_SOCK",
            "PASSWORD",
            "PYTHONPATH",
            "LCX",
        ),
    ],
)
def test_what_is_not_on_the_list_stays_here(name):
    made = command.environment(spec(), {name: "evil", "PATH": "/bin"}, api_key="k", marker="m")
    assert made.get(name) != "evil"
    assert made["PATH"] == "/bin"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "PATH",
            "HOME",
            "LANG",
            "LC_ALL",
            "TZ",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "XDG_CACHE_HOME",
            "OMP_NUM_THREADS",
        ),
        *(
            "CUDA_VISIBLE_DEVICES",
            "NVIDIA_VISIBLE_DEVICES",
            "HIP_VISIBLE_DEVICES",
            "HSA_OVERRIDE_GFX_VERSION",
        ),
        *(
            "ROCR_VISIBLE_DEVICES",
            "GGML_VK_VISIBLE_DEVICES",
            "GGML_CUDA_ENABLE_UNIFIED_MEMORY",
            "VK_ICD_FILENAMES",
        ),
    ],
)
def test_what_libraries_and_gpus_need_is_inherited(name):
    assert command.environment(spec(), {name: "x"}, api_key="k", marker="m")[name] == "x"


def test_the_operator_adds_what_a_model_needs():
    made = command.environment(spec(env={"HF_TOKEN": "t"}), {"HF_TOKEN": "other"}, api_key="k", marker="m")
    assert made["HF_TOKEN"] == "t"


def test_the_models_own_environment_wins_over_ours_but_not_over_the_key():
    env = {"CUDA_VISIBLE_DEVICES": "1", "LLAMA_API_KEY": "mine", "LLMSUP_INSTANCE": "mine"}
    made = command.environment(spec(env=env), {"CUDA_VISIBLE_DEVICES": "0"}, api_key="k", marker="m")
    assert (made["CUDA_VISIBLE_DEVICES"], made["LLAMA_API_KEY"], made["LLMSUP_INSTANCE"]) == ("1", "k", "m")
