"""The moments of the worker's loop that no test from outside can hit: jobs that are stopped, or
come again, between two steps of other jobs."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from aiohttp import ClientSession

from worker.sdk_loop import Scaler


class Loop(Scaler):
    """With jobs that each take a while, also to stop, and note what becomes of them."""

    def __init__(self, **config: Any) -> None:
        super().__init__({"concurrency_modifier": lambda _: 2, **config})
        self.notes: list[str] = []
        self.jobs_handler = self._work

    async def _work(self, _session: Any, _config: Any, job: dict[str, Any]) -> None:
        self.notes.append(f"began {job['input']}")
        try:
            await asyncio.sleep(0.05)
            self.notes.append(f"ended {job['input']}")
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
            self.notes.append(f"stopped {job['input']}")
            raise

    def take(self, job_id: str, job_input: int) -> None:
        self._begin(cast(ClientSession, None), {"id": job_id, "input": job_input})

    async def drained(self) -> list[str]:
        async with asyncio.timeout(60):
            while self.jobs_tasks:
                await asyncio.sleep(0.01)
        assert self.current_occupancy() == 0
        return self.notes


@pytest.fixture(autouse=True)
def no_jobs_of_others() -> Iterator[None]:
    yield
    assert Loop().job_progress.get_job_count() == 0


def test_a_job_that_is_stopped_before_its_first_step_leaves_its_place() -> None:
    async def main() -> list[str]:
        loop = Loop()
        loop.take("a", 1)
        assert await loop.stop_job("a")
        return await loop.drained()

    assert asyncio.run(main()) == ["began 1", "stopped 1"]


def test_a_job_that_comes_again_while_it_is_at_work_is_done_once() -> None:
    async def main() -> list[str]:
        loop = Loop()
        loop.take("a", 1)
        await asyncio.sleep(0)
        loop.take("a", 2)
        return await loop.drained()

    assert asyncio.run(main()) == ["began 1", "ended 1"]


def test_a_job_that_is_asked_for_again_while_it_is_being_stopped_is_done_then() -> None:
    async def main() -> list[str]:
        loop = Loop()
        loop.take("a", 1)
        await loop.stop_job("a")
        loop.take("a", 2)
        await asyncio.wait(loop.jobs_tasks.values())
        await asyncio.sleep(0.01)
        return await loop.drained()

    assert asyncio.run(main()) == ["began 1", "stopped 1", "began 2", "ended 2"]


def test_a_job_whose_id_is_no_unicode_text_is_told_and_costs_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main() -> list[str]:
        loop = Loop()
        for number, job_id in enumerate(("a\ud800", "b")):
            loop.take(job_id, number)
        return await loop.drained()

    assert asyncio.run(main()) == ["began 1", "ended 1"]
    assert "a job was left: its id 'a\\ud800' is no Unicode text" in capsys.readouterr().out


def test_jobs_that_wait_for_a_load_leave_their_places_to_as_many_others() -> None:
    async def main() -> None:
        waiting, queued, loaded = 0, [*range(6)], asyncio.Event()
        loop = Loop(jobs_waiting=lambda: waiting)

        async def work(_session: Any, _config: Any, job: dict[str, Any]) -> None:
            loop.notes.append(str(job["input"]))
            await loaded.wait()

        async def fetch(_session: Any, count: int) -> list[dict[str, Any]]:
            await asyncio.sleep(0)
            taken = [queued.pop(0) for _ in range(min(count, len(queued)))]
            return [{"id": str(number), "input": number} for number in taken]

        async def taken(count: int) -> None:
            async with asyncio.timeout(30):
                while len(loop.notes) < count:
                    await asyncio.sleep(0.01)

        loop.jobs_handler, loop.jobs_fetcher = work, fetch
        polling = asyncio.create_task(loop.get_jobs(cast(ClientSession, None)))
        await taken(2)
        waiting = 1
        await taken(3)
        waiting = 9  # at most all of its places
        await taken(4)
        await asyncio.sleep(0.2)
        assert len(loop.notes) == 4
        waiting = 0
        loaded.set()
        await taken(6)
        loop.kill_worker()
        await polling
        await loop.drained()

    asyncio.run(main())
