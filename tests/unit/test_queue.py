"""The work queue: once each, serially each, and back later when asked or failed."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from quantop.reconcile.queue import BACKOFF_MAX_SECONDS, WorkQueue

Process = Callable[[str], Awaitable[float | None]]


async def run(
    queue: WorkQueue[str], process: Process, seconds: float = 0.2, workers: int = 4
) -> None:
    tasks = [asyncio.create_task(queue.work(process)) for _ in range(workers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_key_that_waits_is_not_added_again() -> None:
    queue, seen = WorkQueue[str](), []
    for _ in range(5):
        queue.add("a")
    assert queue.depth == 1

    async def process(key: str) -> None:
        seen.append(key)

    await run(queue, process)
    assert seen == ["a"]


async def test_a_key_is_never_processed_twice_at_a_time() -> None:
    queue = WorkQueue[str]()
    running, most, passes = 0, 0, 0

    async def process(_: str) -> None:
        nonlocal running, most, passes
        running += 1
        passes += 1
        most = max(most, running)
        if passes == 1:
            queue.add("a")
        await asyncio.sleep(0.02)
        running -= 1

    queue.add("a")
    await run(queue, process)
    assert (most, passes) == (1, 2)


async def test_different_keys_are_processed_at_once() -> None:
    queue = WorkQueue[str]()
    running, most = 0, 0

    async def process(_: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1

    for key in "abcd":
        queue.add(key)
    await run(queue, process)
    assert most == 4


async def test_an_error_in_one_key_delays_no_other_and_is_tried_again() -> None:
    queue, seen = WorkQueue[str](lambda: 0.0), []

    async def process(key: str) -> None:
        seen.append(key)
        if key == "bad" and seen.count("bad") == 1:
            raise RuntimeError("planted")

    queue.add("bad")
    queue.add("good")
    await run(queue, process, seconds=0.6, workers=1)
    assert seen == ["bad", "good", "bad"]


async def test_a_key_comes_back_when_it_asked_to_and_the_earliest_time_wins() -> None:
    queue, times = WorkQueue[str](), list[float]()
    loop = asyncio.get_running_loop()
    begin = loop.time()

    async def process(_: str) -> None:
        times.append(loop.time() - begin)

    queue.add_after("a", 0.2)
    queue.add_after("a", 0.05)
    queue.add_after("a", 5)
    await run(queue, process, seconds=0.5)
    assert len(times) == 1
    assert 0.04 <= times[0] < 0.2


@pytest.mark.parametrize("failures", [1, 2, 5, 50])
def test_backoff_grows_within_its_bounds(failures: int) -> None:
    least = WorkQueue[str](lambda: 0.0).backoff(failures)
    most = WorkQueue[str](lambda: 1.0).backoff(failures)
    assert 0 < least < most <= BACKOFF_MAX_SECONDS
    assert most == min(BACKOFF_MAX_SECONDS, 0.5 * 2 ** (failures - 1))
