"""Futures in coroutines."""

import asyncio
import threading

import pytest

from slurmfutures import SlurmExecutor
from tests import calls
from tests.fix_executors import AnyExecutor
from tests.fix_gate import Gate
from tests.waiting import DEADLINE, until


def test_a_future_can_be_awaited_while_the_loop_does_other_things(executor: AnyExecutor, gate: Gate) -> None:
    async def open_when_begun() -> None:
        while not gate.entered():
            await asyncio.sleep(0.005)
        gate.open()

    async def main() -> object:
        future = executor.submit(calls.pass_gate, gate.folder, "value")
        value, _ = await asyncio.gather(future, open_when_begun())
        return value

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE)) == "value"


def test_a_future_that_is_done_can_be_awaited_and_awaited_again(executor: AnyExecutor) -> None:
    async def main() -> list[int]:
        future = executor.submit(calls.square, 3)
        return [await future, await future, future.result()]

    assert asyncio.run(main()) == [9, 9, 9]


def test_an_awaited_future_raises_what_the_function_raised(executor: AnyExecutor) -> None:
    async def main() -> None:
        await executor.submit(calls.fail, KeyError("spam"))

    with pytest.raises(KeyError, match="spam"):
        asyncio.run(main())


def test_futures_are_gathered(executor: AnyExecutor) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(executor.submit(calls.square, number) for number in range(5)))

    assert asyncio.run(main()) == [0, 1, 4, 9, 16]


def test_a_future_can_be_wrapped(executor: AnyExecutor) -> None:
    async def main() -> int:
        return await asyncio.wrap_future(executor.submit(calls.square, 4))

    assert asyncio.run(main()) == 16


def test_the_loop_can_run_functions_in_the_executor(executor: AnyExecutor) -> None:
    async def main() -> int:
        return await asyncio.get_running_loop().run_in_executor(executor, calls.square, 5)

    assert asyncio.run(main()) == 25


def test_ten_thousand_awaited_futures_cost_no_thread(local: SlurmExecutor, gate: Gate) -> None:
    async def main() -> list[int]:
        held = [local.login.submit(calls.pass_gate, gate.folder, number) for number in range(2)]  # all workers
        futures = [*held, *(local.login.submit(calls.identity, number) for number in range(2, 10_000))]
        gathering = asyncio.ensure_future(asyncio.gather(*futures))
        await asyncio.sleep(0)  # all of them are awaited now
        assert threading.active_count() == before
        gate.open()
        return list(await gathering)

    before = threading.active_count()
    assert asyncio.run(main()) == list(range(10_000))


def test_a_failure_abandons_no_other(executor: AnyExecutor) -> None:
    async def main() -> list[object]:
        futures = [executor.submit(calls.fail_at, 2, number) for number in range(4)]
        return await asyncio.gather(*futures, return_exceptions=True)

    first, second, failed, last = asyncio.run(main())
    assert (first, second, last) == (0, 1, 3)
    assert isinstance(failed, ValueError)


def test_results_can_be_waited_for_inside_a_running_loop(executor: AnyExecutor) -> None:
    async def main() -> list[int]:
        return [executor.submit(calls.square, 2).result(DEADLINE), *executor.map(calls.square, range(2))]

    assert asyncio.run(main()) == [4, 0, 1]


def test_a_call_that_is_no_longer_awaited_is_cancelled(executor: AnyExecutor, gate: Gate) -> None:
    async def main() -> None:
        await asyncio.wait_for(future, 0.01)

    future = executor.submit(calls.pass_gate, gate.folder)
    with pytest.raises(TimeoutError if hasattr(asyncio, "timeout") else asyncio.TimeoutError):
        asyncio.run(main())
    until(future.cancelled)


def test_who_awaits_hears_of_the_cancellation(executor: AnyExecutor, gate: Gate) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(future.cancel)
        await future

    future = executor.submit(calls.pass_gate, gate.folder)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
