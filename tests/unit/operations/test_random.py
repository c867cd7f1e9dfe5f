import array_api_compat.numpy as xp
import numpy as np
import pytest

from openruntime.backends.cpu import NumpyBackend
from openruntime.operations import random
from openruntime.operations.catalogue import OperationCatalogue

# kat_vectors of Random123 1.14: counter, key, result of philox4x32 with 10 rounds
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "wanted"), VECTORS)
def test_philox_gives_the_published_words(counter, key, wanted):
    k0, k1 = _words(key)
    c0, c1, c2, c3 = (np.array([word], "int64") for word in _words(counter))
    assert tuple(int(word[0]) for word in random.philox((c0, c1, c2, c3), (k0, k1))) == _words(wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_can_be_entered_anywhere(dtype):
    whole = random.uniforms(xp, 9, 0, 40, dtype)
    np.testing.assert_array_equal(whole[8:21], random.uniforms(xp, 9, 8, 13, dtype))
    assert not np.array_equal(whole, random.uniforms(xp, 9, 0, 40, dtype, stream=1))
    assert not np.array_equal(whole, random.uniforms(xp, 10, 0, 40, dtype))


@pytest.mark.parametrize("name", ["uniform", "normal", "integers"])
def test_chunks_change_no_number(name):
    more = {"high": 1000} if name == "integers" else {}
    generic = OperationCatalogue().get(name).function
    native = NumpyBackend.native[name](shape=(70_001,), seed=5, empty=np.empty, **more)
    np.testing.assert_array_equal(generic(shape=(70_001,), seed=5, xp=xp, **more), native)
    make = {"uniform": random.uniforms, "normal": random.normals}.get(name)
    if make is not None:
        np.testing.assert_array_equal(random.in_chunks(xp, (70_001,), lambda start, n: make(xp, 5, start, n), chunk=1000), native)


def test_counters_beyond_32_bits_are_other_blocks():
    low, high = random.words(xp, 1, 0, 4), random.words(xp, 1, 1 << 32, 4)
    assert not np.array_equal(low[0], high[0])
