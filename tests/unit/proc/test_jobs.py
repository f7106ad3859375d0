import asyncio

import pytest

from supervisor.proc.jobs import Jobs

pytestmark = pytest.mark.anyio


async def for_ever(ended):
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(True)


async def test_a_new_one_takes_the_place_of_the_old():
    jobs, first, second, failed = Jobs("demo"), [], [], []
    jobs.start("look", for_ever(first), lambda *told: failed.append(told))
    await asyncio.sleep(0)
    assert repr(jobs) == "<Jobs of demo: look>"
    jobs.start("look", for_ever(second), lambda *told: failed.append(told))
    await asyncio.sleep(0.01)
    assert (first, second) == ([True], [])
    jobs.end_all()
    await asyncio.sleep(0.01)
    assert (second, failed, repr(jobs)) == ([True], [], "<Jobs of demo: none>")


async def test_an_error_is_told_with_the_name():
    jobs, failed = Jobs("demo"), []

    async def break_down():
        raise RuntimeError("surprise")

    jobs.start("probe", break_down(), lambda name, error: failed.append((name, str(error))))
    await asyncio.sleep(0.01)
    assert failed == [("demo.probe", "surprise")]
