"""A daemon for each kind of model, started when the first case asks for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.conformance.case import PLAIN, RERANK, THINKING, TOOLS
from tests.support import demo_model as demo_model_maker
from tests.support.daemon import DaemonUnderTest
from tests.support.doors import Doors

TEMPLATE = Path(__file__).parents[2] / "support" / "tools.jinja"
ARGS = {
    PLAIN: [],
    THINKING: [],
    RERANK: ["--reranking"],
    TOOLS: ["--embeddings", "--pooling", "mean", "--chat-template-file", str(TEMPLATE)],
}
START_S = 60.0  # on a machine that does much else


@pytest.fixture(scope="module")
def doors_of(
    llama_server_binary: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Doors]]:
    doors: dict[str, Doors] = {}
    with ExitStack() as stack:

        def start(server: str) -> Doors:
            model = demo_model
            if server == THINKING:
                model = demo_model_maker.make(tmp_path_factory.mktemp("model") / "t.gguf", "--thinking")
            # What an earlier request has left in the cache must not show in the next one's figures.
            models = {"demo": {"args": ["--no-cache-prompt", *ARGS[server]]}}
            daemon = DaemonUnderTest(binary=llama_server_binary, model_path=model, models=models)
            stack.enter_context(daemon)
            daemon.run()
            daemon.wait_ready(within_s=START_S)
            return Doors.of(daemon)

        def doors_of(server: str) -> Doors:
            if server not in doors:
                doors[server] = start(server)
            return doors[server]

        yield doors_of
