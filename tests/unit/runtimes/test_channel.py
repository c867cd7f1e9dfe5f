"""Frames survive any cutting; arrays travel inline or by slab; rubbish is told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openruntime.contracts.payload import Array
from openruntime.runtimes import channel
from openruntime.runtimes.channel import FrameReader, JobWriter, frame
from openruntime.runtimes.shared_memory import SlabPool, locate


@given(st.lists(st.binary(max_size=300), max_size=12), st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_frames_survive_any_cutting(messages: list[bytes], cuts: list[int]) -> None:
    stream, reader, got, at, turn = b"".join(map(frame, messages)), FrameReader(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += [channel.msgspec.msgpack.decode(bytes(body)) for body in reader.feed(stream[at : at + step])]
        at, turn = at + step, turn + 1
    assert got == messages


def test_a_huge_length_is_rubbish() -> None:
    with pytest.raises(ValueError, match="4294967295"):
        list(FrameReader().feed(b"\xff\xff\xff\xffabc"))


def test_small_arrays_travel_inline_and_large_ones_by_descriptor_once() -> None:
    pool = SlabPool()
    writer = JobWriter(pool)
    small = Array("uint8", (3,), b"abc")
    memory = pool.allocate(channel.INLINE_BYTES + 1)
    large = Array("uint8", (memory.nbytes,), memory)
    [(data, descriptors)], held = writer.messages([(1, "f", {"s": small, "l": large, "n": 3, "many": [small, small]}, None)], 0)
    run = channel.run_decoder.decode(next(FrameReader().feed(data)))
    job, place = run.jobs[0], locate(memory)
    assert place is not None
    assert job.scalars == {"n": 3}
    assert bytes(job.arrays["s"].data or b"") == bytes(job.arrays["many.1"].data or b"") == b"abc"
    assert (job.arrays["l"].data, job.arrays["l"].slab, job.arrays["l"].offset) == (None, place[0].id, 0)
    assert descriptors == [place[0].fd]
    assert held == []
    assert writer.messages([(2, "f", {"l": large}, None)], 0)[0][0][1] == [], "the worker has it mapped already"


def test_large_bytes_from_elsewhere_are_copied_into_shared_memory() -> None:
    pool = SlabPool()
    array = Array("uint8", (100_000,), bytes(range(250)) * 400)
    [(data, descriptors)], held = JobWriter(pool).messages([(1, "f", {"x": array}, None)], 0)
    wire = channel.run_decoder.decode(next(FrameReader().feed(data))).jobs[0].arrays["x"]
    assert (len(descriptors), bytes(held[0])) == (1, array.data)
    assert wire.data is None


def test_closed_slabs_are_unmapped() -> None:
    pool = SlabPool(keep=0)
    writer = JobWriter(pool)
    memory = pool.allocate(channel.INLINE_BYTES + 1)
    writer.messages([(1, "f", {"x": Array("uint8", (memory.nbytes,), memory)}, None)], 0)
    number = (locate(memory) or pytest.fail("not in a slab"))[0].id
    del memory
    pool.trim()
    [(data, _)], _ = writer.messages([(2, "f", {}, None)], 0)
    assert channel.run_decoder.decode(next(FrameReader().feed(data))).unmap == [number]


def test_more_slabs_than_a_message_carries_go_ahead_in_messages_of_their_own() -> None:
    pool = SlabPool()
    arrays = [Array("uint8", (100_000,), bytes([i]) * 100_000) for i in range(2 * channel.MAX_DESCRIPTORS + 1)]
    messages, held = JobWriter(pool).messages([(1, "f", {"many": arrays}, None)], 0)
    runs = [channel.run_decoder.decode(next(FrameReader().feed(data))) for data, _ in messages]
    assert [len(descriptors) for _, descriptors in messages] == [len(run.segments) for run in runs] == [64, 64, 1]
    assert [len(run.jobs) for run in runs] == [0, 0, 1]
    assert {wire.slab for wire in runs[2].jobs[0].arrays.values()} == {segment.slab for run in runs for segment in run.segments}
    assert len(held) == len(arrays)
