"""What was learned of run times is kept for what it depends on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from openruntime.contracts.interfaces import Store
from openruntime.contracts.records import Call, Estimate
from openruntime.core import learning
from openruntime.core.learning import Learning, setup
from openruntime.devices.roofline import Roofline
from openruntime.stores.memory import MemoryStore

PLACE = ("cpu:0", "numpy")


async def learned(store: Store, folder: Path | None = None, slots: int = 2, threads: int = 2) -> bool:
    """Whether something is taken up there; it is left there after."""
    found = Learning(store, Roofline(), folder, slots=slots, threads=threads)
    await found.load()
    known = found._calibrated == {PLACE}
    found._calibrated.add(PLACE)
    await found.save()
    return known


@pytest.mark.parametrize("filed", [True, False])
async def test_other_slots_threads_or_libraries_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filed: bool) -> None:
    store, folder = MemoryStore(), tmp_path if filed else None
    assert not await learned(store, folder)
    assert await learned(store, folder)
    assert not await learned(store, folder, slots=1)
    assert not await learned(store, folder, threads=1)
    monkeypatch.setattr(learning, "version", lambda package: "99.0")
    assert not await learned(store, folder)
    monkeypatch.undo()
    assert await learned(store, folder), "the first setup's is there still"


@pytest.mark.parametrize("filed", [True, False])
async def test_a_container_with_a_new_name_keeps_what_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filed: bool) -> None:
    store, folder = MemoryStore(), tmp_path if filed else None
    assert not await learned(store, folder)
    monkeypatch.setattr("platform.node", lambda: "another")
    assert await learned(store, folder)


async def test_machines_that_share_a_store_keep_theirs_apart_and_a_new_one_begins_with_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.peers = SimpleNamespace()  # type: ignore[assignment]  # that there are some is what counts
    call = Call("matmul", 1, {}, {}, Estimate(2e9, 1e6), dtype="float32", elements=1 << 18)
    for name, samples in (("first", 0), ("second", 1)):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        found = Learning(store, Roofline(), None, slots=2, threads=2)
        await found.load()
        assert found.cost.samples(call, *PLACE) == samples
        assert not found._calibrated, "its cards may be others"
        found.cost.record(call, *PLACE, 0.01)
        found._calibrated.add(PLACE)
        await found.save()
    keys = [key for key, _ in await store.shelf.items(learning.SHELF)]
    assert [key.rpartition("/")[2] for key in keys] == ["first", "second"]
    monkeypatch.setattr("platform.node", lambda: "first")
    assert await learned(store)
    monkeypatch.setattr("platform.node", lambda: "third")
    other = Learning(store, Roofline(), None, slots=1, threads=2)
    await other.load()
    assert not other.cost.samples(call, *PLACE), "of another setup nothing is taken up"


def test_a_setup_names_what_it_is_made_of() -> None:
    assert "2 slots of 1 threads" in setup(2, 1)
    assert "numpy " in setup(2, 1)
