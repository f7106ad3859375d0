"""The proxy on each of its two event loops, in front of a scripted upstream."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.support.proxyrig import LOOPS, ProxyRig
from tests.support.upstream import ScriptedUpstream

MakeRig = Callable[..., ProxyRig]


@pytest.fixture(params=sorted(LOOPS))
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def make_rig(loop: str, upstream: ScriptedUpstream) -> Iterator[MakeRig]:
    """A rig with other settings than the usual ones; its instance is READY."""
    with contextlib.ExitStack() as stack:

        def make(*, slots: int = 4, **settings: object) -> ProxyRig:
            rig = stack.enter_context(ProxyRig(loop, **settings))
            rig.ready(upstream.port, slots=slots)
            return rig

        yield make


@pytest.fixture
def rig(make_rig: MakeRig) -> ProxyRig:
    return make_rig()
