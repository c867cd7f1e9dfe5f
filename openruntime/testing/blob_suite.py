"""The contract of blobs that several processes share: subclass, say how to open them, and run it with pytest."""

import asyncio
import os
from pathlib import Path

import pytest

from openruntime.contracts.errors import Expired
from openruntime.stores.blobs import CountedBlobs


class BlobSuite:
    """`make` opens the blobs at a place of `directory`, with a grace that no test outlasts; called twice it opens the same ones, as another
    process would. `age` makes all that is there older than any grace."""

    def make(self, directory: Path) -> CountedBlobs:
        raise NotImplementedError

    def age(self, directory: Path) -> None:
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 5, (1 << 20) + 4097])
    async def test_bytes_come_back(self, tmp_path: Path, size: int) -> None:
        here, there = self.make(tmp_path), self.make(tmp_path)
        data = os.urandom(size)
        for name in (await here.write(data, durable=True), await here.add(memoryview(data), durable=False)):
            assert bytes(await there.read(name)) == data
            assert bytes(there.load(name)) == data

    async def test_the_same_bytes_have_the_same_name_and_results_their_own(self, tmp_path: Path) -> None:
        here, there = self.make(tmp_path), self.make(tmp_path)
        names = await asyncio.gather(*(blobs.write(b"abc" * 1000, durable=durable) for blobs in (here, there) for durable in (True, False)))
        assert len(set(names)) == 1
        assert await here.write(b"other", durable=False) not in names
        assert len({await here.add(b"abc", durable=False) for _ in range(3)}) == 3

    async def test_what_was_never_written_has_expired(self, tmp_path: Path) -> None:
        here = self.make(tmp_path)
        name = await here.write(b"abc", durable=True)
        for gone in ("0" * len(name), "0" * 8 + name[8:]):
            with pytest.raises(Expired):
                await here.read(gone)
            assert await here.renew(gone, durable=True) is None

    async def test_a_sweep_drops_what_nobody_counts_once_its_grace_is_over(self, tmp_path: Path) -> None:
        here, there = self.make(tmp_path), self.make(tmp_path)
        assert await here.sweep(()) == 0  # where nothing is yet
        counted, dropped = await here.write(b"counted", durable=True), await here.add(b"dropped", durable=True)
        assert await there.sweep((counted,)) == 0
        self.age(tmp_path)
        young = await here.write(b"young", durable=True)
        assert await there.sweep((counted,)) == 1
        assert [bytes(await here.read(name)) for name in (counted, young)] == [b"counted", b"young"]
        with pytest.raises(Expired):
            await here.read(dropped)
        assert await there.sweep((counted,)) == 0

    async def test_what_is_renewed_has_a_grace_again_under_the_name_it_says(self, tmp_path: Path) -> None:
        here, there = self.make(tmp_path), self.make(tmp_path)
        names = await here.write(b"written", durable=True), await here.add(b"added", durable=True)
        self.age(tmp_path)
        renewed = [await there.renew(name, durable=True) for name in names]
        await here.sweep(())
        for name, data in zip(renewed, (b"written", b"added"), strict=True):
            assert name is not None
            assert bytes(await here.read(name)) == data

    async def test_bytes_written_again_later_have_a_grace_again(self, tmp_path: Path) -> None:
        here, there = self.make(tmp_path), self.make(tmp_path)
        await here.write(b"abc", durable=True)
        self.age(tmp_path)
        name = await here.write(b"abc", durable=False)
        await there.sweep(())
        assert bytes(await there.read(name)) == b"abc"

    async def test_nobody_sees_half_of_a_blob(self, tmp_path: Path) -> None:
        """One process writes the same large content again and again; another reads it whenever it is there."""
        here, there = self.make(tmp_path), self.make(tmp_path)
        data = os.urandom(4 << 20)
        name = await self.make(tmp_path / "elsewhere").write(data, durable=False)
        seen = 0

        async def look() -> None:
            nonlocal seen
            while True:
                try:
                    assert bytes(await there.read(name)) == data
                    seen += 1
                except Expired:
                    pass
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        assert await here.write(data, durable=False) == name
        async with asyncio.timeout(10):
            while seen < 3 and not looking.done():
                await here.add(data, durable=False)
        looking.cancel()
        (outcome,) = await asyncio.gather(looking, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome
