"""What waits together runs together; who would wait too long is told; others' mistakes stay
theirs."""

import asyncio
import time

import numpy as np
import pytest

from vlp_jax.serve import batching
from vlp_jax.serve.batching import Batcher, full, padded, padded_rows
from vlp_jax.serve.requests import Refused


def test_few_sizes():
    assert [full(n) for n in (1, 2, 8, 9, 32, 33, 65)] == [1, 8, 8, 32, 32, 64, 96]
    assert padded([]) == [] and padded("ab") == ["a", "b", *"aaaaaa"]
    rows = padded_rows(np.arange(6).reshape(3, 2))
    assert rows.shape == (8, 2) and (rows[3:] == rows[0]).all()


def test_what_waits_runs_together():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.02)
        return [ValueError(item) if item == 7 else 2 * item for item in items]

    async def go():
        batcher = Batcher(run)
        asked = [asyncio.create_task(batcher(i)) for i in range(50)]
        await asyncio.sleep(0)
        asked[9].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(go())
    assert isinstance(found.pop(9), asyncio.CancelledError)
    assert isinstance(found.pop(7), ValueError)
    assert found == [2 * i for i in range(50) if i not in (7, 9)]
    assert sizes == [32, 17]  # the one that had gone was not run


def test_too_many_and_too_slow_are_refused(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE", 0.05)

    def run(items):
        time.sleep(0.1)
        return items

    async def go():
        batcher = Batcher(run, waiting=40)
        first = [asyncio.create_task(batcher(i)) for i in range(60)]
        some = await asyncio.gather(*first, return_exceptions=True)
        for _ in range(10):
            await batcher(0)  # now it knows how long a batch takes
        later = [asyncio.create_task(batcher(i)) for i in range(40)]
        more = await asyncio.gather(*later, return_exceptions=True)
        batcher.close()
        return some, more

    for found, least in zip(asyncio.run(go()), (40, 16), strict=True):
        refused = [each for each in found if isinstance(each, Refused)]
        assert {each.status for each in refused} == {429}
        assert least <= len(found) - len(refused) < len(found)


def test_a_failure_of_a_batch_is_heard_by_all_and_ends_nothing():
    def run(items):
        if "bad" in items:
            raise RuntimeError("broken")
        return items

    async def go():
        batcher = Batcher(run)
        found = await asyncio.gather(*map(batcher, ["a", "bad"]), return_exceptions=True)
        assert [str(each) for each in found] == ["broken", "broken"]
        return await batcher("b"), await batcher.alone(sum, [1, 2])

    assert asyncio.run(go()) == ("b", 3)


@pytest.mark.parametrize("count", [1, 300])
def test_every_caller_gets_its_own(count):
    async def go():
        batcher = Batcher(lambda items: [item + 1 for item in items], waiting=1000)
        return await asyncio.gather(*map(batcher, range(count)))

    assert asyncio.run(go()) == list(range(1, count + 1))
