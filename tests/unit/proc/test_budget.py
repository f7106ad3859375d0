import asyncio
import os
from types import SimpleNamespace

import pytest

from supervisor.proc.budget import Budget
from supervisor.proc.machine import Memory
from supervisor.types import GIB, MIB
from tests.support.gguf import MINIMAL, header, model, text
from tests.support.proc import spec


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(model())
    return path


def views(**states):
    return {name: SimpleNamespace(state=state, pid=None) for name, state in states.items()}


PLENTY = Memory(64 * GIB, 64 * GIB)


def budget(seen=None, *, limit_mb=2048, min_free_mb=0, there=PLENTY):
    return Budget(limit_mb=limit_mb, min_free_mb=min_free_mb, views=seen or {}, measure=lambda: there)


async def checked(it, path, name="demo", **changes):
    return await it.check(spec(name, path=str(path), cache_ram_mb=0, **changes))


def check(*args, **changes):
    return asyncio.run(checked(*args, **changes))


def test_a_small_model_may_start_and_is_counted(path):
    it = budget()
    assert check(it, path) is None
    assert 20 * MIB < it.estimates["demo"] < 100 * MIB
    assert repr(it).startswith("<Budget 2048 MiB: demo ")


@pytest.mark.fault(35)
def test_a_model_that_cannot_fit_may_not(path):
    it = budget(limit_mb=32)
    cause = check(it, path)
    assert (cause.name, cause.permanent, dict(it.estimates)) == ("does_not_fit", True, {})


def test_a_broken_file_is_named_first(path):
    path.write_bytes(b"PK")
    assert (check(budget(limit_mb=1), path)).name == "model_corrupt"


@pytest.mark.parametrize("content", [MINIMAL, header([text("new") + b"\x4d\0\0\0" + bytes(40)])])
def test_without_tensors_or_in_doubt_llama_server_decides(path, content):
    path.write_bytes(content)
    assert check(budget(limit_mb=1), path) is None


def test_a_cache_type_nobody_knows_is_llama_server_s_to_refuse(path):
    assert check(budget(limit_mb=1), path, args=("-ctk", "q9")) is None


def test_two_that_start_at_once_see_each_other(path):
    it = budget(views(a="STARTING", b="STARTING"), limit_mb=60)

    async def both():
        return await asyncio.gather(checked(it, path, "a"), checked(it, path, "b"))

    causes = asyncio.run(both())
    assert sorted(cause is None for cause in causes) == [False, True]
    assert "of which the other models hold" in next(cause.detail for cause in causes if cause)


def test_a_model_that_has_stopped_holds_nothing(path):
    seen = views(a="READY")
    it = budget(seen, limit_mb=60)
    assert check(it, path, "a") is None
    assert check(it, path, "b") is not None
    seen |= views(a="STOPPED")
    assert check(it, path, "b") is None


def test_what_is_coming_is_not_free_any_more(path):
    it = budget(views(a="LOADING"), there=Memory(64 * GIB, 80 * MIB), min_free_mb=20)
    assert check(it, path, "a") is None
    cause = check(it, path, "b")
    assert not cause.permanent
    assert "are free now beyond memory.min_free_mb" in cause.detail


def test_a_machine_that_does_not_tell_sets_no_bound(path):
    assert check(budget(there=None), path) is None


def test_whether_it_would_fit_without_some_is_asked_without_counting_it(path):
    seen = views(demo="READY", other="READY")
    it = budget(seen, limit_mb=100)
    assert check(it, path) is None
    assert check(it, path, name="other") is None
    third = spec("third", path=str(path), cache_ram_mb=0)

    def would(*without):
        return asyncio.run(it.would_fit(third, without=without))

    assert (would().name, would().permanent) == ("does_not_fit", False)
    assert would("demo") is None
    assert set(it.estimates) == {"demo", "other"}
    assert asyncio.run(it.estimate(third)) == it.estimates["demo"]


def test_memory_that_others_would_give_back_counts_as_free(path):
    scarce = Memory(64 * GIB, 10 * MIB)
    seen = views(demo="READY")
    seen["demo"].pid = os.getpid()
    it = budget(seen, there=PLENTY)
    assert check(it, path) is None
    it._measure = lambda: scarce
    other = spec("other", path=str(path), cache_ram_mb=0)
    assert asyncio.run(it.would_fit(other)).name == "does_not_fit"
    assert asyncio.run(it.would_fit(other, without={"demo"})) is None, "some 50 MiB of this process"


def test_a_second_one_of_a_model_is_counted_beside_the_first(path):
    it = budget(views(demo="READY", **{"demo#2": "READY"}), limit_mb=100)
    assert check(it, path) is None
    assert check(it, path, seat="#2") is None
    assert set(it.estimates) == {"demo", "demo#2"}
    assert check(it, path, name="other").name == "does_not_fit"


def test_what_it_holds_itself_is_not_in_its_way(path):
    it = budget(views(demo="READY"), limit_mb=60)
    assert check(it, path) is None
    assert asyncio.run(it.would_fit(spec(path=str(path), cache_ram_mb=0))) is None
    assert asyncio.run(it.would_fit(spec(path=str(path), cache_ram_mb=0, seat="#2"))).name == "does_not_fit"


def test_of_a_removed_model_nothing_is_counted(path):
    it = budget()
    for name in ("demo", "demo#2", "demo2"):
        check(it, path, name)
    it.forget("demo")
    assert list(it.estimates) == ["demo2"]
