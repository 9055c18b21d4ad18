"""What waits together runs together; who would wait too long is told; others' mistakes stay
theirs."""

import asyncio
import time

import numpy as np
import pytest

from vlp_jax.serve import batching
from vlp_jax.serve.batching import Batcher, full, padded, padded_rows
from vlp_jax.serve.fair import Pool, Turns, client_of
from vlp_jax.serve.requests import Refused


def test_few_sizes():
    assert [full(n) for n in (1, 2, 4, 5, 8, 9, 17)] == [1, 4, 4, 8, 8, 16, 24]
    assert padded([]) == [] and padded("ab") == ["a", "b", *"aa"]
    rows = padded_rows(np.arange(6).reshape(3, 2))
    assert rows.shape == (4, 2) and (rows[3:] == rows[0]).all()


def test_what_waits_runs_together():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.02)
        return [ValueError(item) if item == 7 else 2 * item for item in items]

    async def go():
        batcher = Batcher(run)
        asked = [asyncio.create_task(batcher(i)) for i in range(14)]
        await asyncio.sleep(0)
        asked[9].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(go())
    assert isinstance(found.pop(9), asyncio.CancelledError)
    assert isinstance(found.pop(7), ValueError)
    assert found == [2 * i for i in range(14) if i not in (7, 9)]
    assert sizes == [8, 5]  # the one that had gone was not run


def test_too_many_and_too_slow_are_refused(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE", 0.05)

    def run(items):
        time.sleep(0.1)
        return items

    async def go():
        batcher = Batcher(run, waiting=40)
        first = [asyncio.create_task(batcher(i, f"{i % 4}")) for i in range(60)]
        some = await asyncio.gather(*first, return_exceptions=True)
        for _ in range(10):
            await batcher(0)  # now it knows how long a batch takes
        later = [asyncio.create_task(batcher(i, f"{i % 4}")) for i in range(40)]
        more = await asyncio.gather(*later, return_exceptions=True)
        batcher.close()
        return some, more

    for found, least in zip(asyncio.run(go()), (40, 4), strict=True):
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


def test_clients_take_turns_and_a_full_room_is_shared():
    turns = Turns(6, "things")
    for item in ("a1", "a2", "a3"):
        assert turns.put("a", item) is None
    with pytest.raises(Refused, match="too many things wait"):
        turns.put("a", "a4")  # half of the room
    assert turns.put("b", "b1") is turns.put("b", "b2") is None
    assert [turns.ahead(client) for client in "abc"] == [(5, 3), (5, 2), (2, 0)]
    assert turns.put("c", "c1") is None and len(turns) == 6
    assert turns.put("d", "d1") == "a3"  # of who has most
    with pytest.raises(Refused):
        turns.put("c", "c2")  # nobody has more than it would
    assert turns.take(2, 9) == ["a1", "b1"]
    assert turns.take(9, 1) == ["c1", "d1", "a2", "b2"]
    assert turns.take(1, 1) == [] and not turns


def test_a_pool_serves_addresses_in_turn_and_hands_on_mistakes():
    done = []

    def work(item):
        time.sleep(0.01)
        done.append(item)
        return 1 / item

    async def go():
        pool = Pool("test", 1, "things", 8)
        asked = [pool("a", work, item) for item in (1, 2, 3, 4, 5, 6)]
        asked += [pool("b", work, item) for item in (0, 7)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        pool.close()
        return found

    found = asyncio.run(go())
    assert done == [1, 2, 0, 3, 7, 4, 5]
    assert isinstance(found[5], Refused) and isinstance(found[6], ZeroDivisionError)
    assert found[:5] == [1 / item for item in (1, 2, 3, 4, 5)] and found[7] == 1 / 7


def test_who_an_address_belongs_to():
    found = [client_of(host) for host in ("10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "", "x")]
    assert found == ["10.0.0.1", "10.0.0.1", "2001:db8::", "", "x"]
    assert client_of("2001:db8::2:0:0:1") == client_of("2001:db8::1") != client_of("2001:db8:1::1")


def test_slow_batches_hold_one_query_of_each_of_several_clients():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.03)
        return items

    async def go(clients):
        batcher = Batcher(run)
        batcher._seconds = 0.03
        await asyncio.gather(*[batcher(i, client) for i, client in enumerate(clients)])
        batcher._mixed = -batching.MIXED  # others are gone
        await asyncio.gather(*[batcher(i, clients[-1]) for i in range(5)])
        batcher.close()

    asyncio.run(go("aaab"))
    assert sizes == [2, 1, 1, 5]


def test_quick_batches_are_full_and_who_must_leave_hears_it():
    sizes = []

    def run(items):
        sizes.append(len(items))
        return items

    async def go():
        batcher = Batcher(run, waiting=6)
        asked = [batcher(i, client) for i, client in enumerate("aaabbcd")]
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(go())
    assert isinstance(found.pop(2), Refused) and found == [0, 1, 3, 4, 5, 6]
    assert sizes == [6]


@pytest.mark.parametrize("share", [1e-9, 0.5])
def test_a_crowd_waits_in_gaps_and_is_served_in_the_end(monkeypatch, share):
    monkeypatch.setattr(batching, "SHARE", share)
    monkeypatch.setattr(batching, "PATIENCE", 1e9)
    order = []

    def run(items):
        order.extend(items)
        time.sleep(0.03)
        return items

    async def go():
        batcher = Batcher(run)
        batcher._seconds = 0.03
        flood = [asyncio.create_task(batcher("a", "a")) for _ in range(batching.CROWD + 2)]
        for _ in range(4):
            await batcher("b", "b")
        early = order.count("a")
        if share == 1e-9:
            await asyncio.sleep(0.1)
            assert order.count("a") == early  # an idle worker, but the gap is long
            batcher._last, batcher._mixed = "a", -batching.MIXED  # the others are gone
            await batcher("c", "a")
        await asyncio.gather(*flood)
        batcher.close()
        return early

    early = asyncio.run(go())
    assert order.count("a") == batching.CROWD + 2 and order.count("b") == 4
    if share == 1e-9:
        assert early <= 1


def test_a_crowd_is_told_how_long_its_gaps_make_it_wait(monkeypatch):
    monkeypatch.setattr(batching, "PATIENCE", 0.5)

    async def go():
        batcher = Batcher(lambda items: time.sleep(0.03) or items)
        batcher._seconds, batcher._last = 0.04, "b"
        asked = [batcher(i, "a") for i in range(20)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        batcher.close()
        return sum(isinstance(each, Refused) for each in found)

    assert asyncio.run(go()) == 20 - batching.CROWD  # the ninth would wait 8 * 0.04 / SHARE
