"""FAULTS 12 and 14 on the real llama-server: stopped ones are replaced, slow ones are left alone."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import demo_model as demo_model_maker
from tests.support import rawhttp
from tests.support.daemon import DaemonUnderTest, answer_of, running, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

QUICK = {"request_timeout_s": 2}
FOUND_S = 60.0
ANSWER_S = 120.0


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 MB, endless: some 100 tokens a second on two cores."""
    return demo_model_maker.make(
        tmp_path_factory.mktemp("slow") / "slow.gguf", "--size-mb", "200", "--endless"
    )


@pytest.fixture
def slow(llama_server_binary: Path, slow_model: Path) -> Iterator[DaemonUnderTest]:
    demo = {"parallel": 8, "context_size": 32768, "batch_size": 2048, "threads": 2}
    with running(
        binary=llama_server_binary, model_path=slow_model, models={"demo": demo}, proxy=QUICK
    ) as daemon:
        yield daemon


def ask_at_once(
    daemon: DaemonUnderTest, texts: list[str], **body: object
) -> tuple[list[rawhttp.Response], list[threading.Thread]]:
    replies: list[rawhttp.Response] = []
    threads = [
        threading.Thread(
            target=lambda text=text: replies.append(
                daemon.chat(text, timeout_s=ANSWER_S, cache_prompt=False, **body)
            )
        )
        for text in texts
    ]
    for thread in threads:
        thread.start()
    return replies, threads


@pytest.mark.fault(12)
def test_a_stopped_one_is_replaced_idle_or_not(
    llama_server_binary: Path, demo_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {"idle": {}, "busy": {}}
    with running(binary=llama_server_binary, model_path=demo_model, models=models, proxy=QUICK) as daemon:
        for name in models:
            daemon.wait_ready(name)
        daemon.kill_child(signal.SIGSTOP, "busy")
        replies, threads = ask_at_once(daemon, ["Hello"], model="busy", max_tokens=8)
        daemon.kill_child(signal.SIGSTOP, "idle")
        begun = time.monotonic()
        found: dict[str, float] = {}

        def all_found() -> bool:
            for now in daemon.status()["models"]:
                if now["generation"] == 2 and now["state"] == "READY":
                    found.setdefault(now["name"], round(time.monotonic() - begun, 1))
            return len(found) == len(models)

        until(all_found, "both replaced", FOUND_S)
        for thread in threads:
            thread.join(ANSWER_S)
        with capsys.disabled():
            print("\nSIGSTOP to the next READY, in seconds:", found)
        assert answer_of(replies[0])
        assert {daemon.model(name)["last_death"]["cause"] for name in models} == {"hung"}


@pytest.mark.fault(14)
@pytest.mark.parametrize("stream", [True, False])
def test_long_prefills_and_many_decodes_on_a_slow_model_are_left_alone(
    slow: DaemonUnderTest, capsys: pytest.CaptureFixture[str], stream: bool
) -> None:
    """With a limit of two seconds: prefills that say nothing for much longer, then eight decodes at once."""
    suspicions = 0
    begun = time.monotonic()
    prompts = [f"{number} " + "the river follows an early path. " * 250 for number in range(3)]
    prefills, first = ask_at_once(slow, prompts, stream=stream, max_tokens=2)
    while any(thread.is_alive() for thread in first):
        suspicions += slow.model()["suspect"] is not None
        time.sleep(0.2)
    prefilled_s = time.monotonic() - begun
    decodes, second = ask_at_once(slow, [f"{n}" for n in range(8)], stream=stream, max_tokens=80)
    while any(thread.is_alive() for thread in second):
        suspicions += slow.model()["suspect"] is not None
        time.sleep(0.2)
    decoded_s = time.monotonic() - begun - prefilled_s
    with capsys.disabled():
        print(
            f"\n3 prefills in {prefilled_s:.1f} s, 8 decodes in {decoded_s:.1f} s, limit 2 s:"
            f" {slow.model()['restarts']} kills, {suspicions} looks at which it was suspect"
        )
    assert [reply.status for reply in [*prefills, *decodes]] == [200] * 11
    assert all(reply.complete for reply in [*prefills, *decodes])
    assert (slow.model()["generation"], slow.model()["last_death"]) == (1, None)
