"""What holds of the neural layers beyond the cases of the backend suite."""

import array_api_compat.numpy as xp
import numpy as np
import pytest

from openruntime.contracts.payload import Spec
from openruntime.operations import numerics
from openruntime.operations.catalogue import OperationCatalogue
from openruntime.operations.neural import attention, conv2d, layer_norm, softmax

random = np.random.default_rng(30)


@pytest.mark.parametrize("elements", [1, 50, 1000])
def test_blocks_do_not_change_a_convolution(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"x": random.normal(size=(3, 4, 9, 10)), "weight": random.normal(size=(6, 2, 3, 2)), "stride": (2, 1), "padding": 1, "groups": 2}
    whole = conv2d(**call, xp=xp)
    monkeypatch.setattr(numerics, "BLOCK", elements)
    np.testing.assert_allclose(conv2d(**call, xp=xp), whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("elements", [1, 40, 300])
@pytest.mark.parametrize("mask_shape", [(1, 7), (5, 7), (4, 1, 7), (2, 1, 5, 7)])
def test_blocks_do_not_change_attention(elements: int, mask_shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = random.normal(size=(2, 4, 5, 3)), random.normal(size=(2, 1, 7, 3)), random.normal(size=(4, 7, 2))
    call = {"q": q, "k": k, "v": v, "mask": random.random(mask_shape) > 0.3, "causal": True}
    whole = attention(**call, xp=xp)
    monkeypatch.setattr(numerics, "BLOCK", elements)
    np.testing.assert_allclose(attention(**call, xp=xp), whole, rtol=1e-12, atol=1e-13)


def test_a_padded_sequence_attends_like_the_shorter_one() -> None:
    q, k, v = random.normal(size=(4, 8)), random.normal(size=(9, 8)), random.normal(size=(9, 3))
    np.testing.assert_allclose(attention(q, k, v, np.arange(9) < 6, xp=xp), attention(q, k[:6], v[:6], xp=xp), rtol=1e-12)


def test_causal_attention_does_not_see_the_future() -> None:
    q, k, v = random.normal(size=(6, 4)), random.normal(size=(6, 4)), random.normal(size=(6, 2))
    before = attention(q, k, v, causal=True, xp=xp)
    k[3:], v[3:] = 100.0, -100.0
    np.testing.assert_array_equal(attention(q, k, v, causal=True, xp=xp)[:3], before[:3])


def test_normalised_features_have_mean_0_and_variance_1() -> None:
    found = layer_norm(1e6 + random.normal(size=(50, 400)), epsilon=0.0, xp=xp)
    np.testing.assert_allclose(found.mean(1), 0, atol=1e-9)
    np.testing.assert_allclose(found.var(1), 1, rtol=1e-9)


def test_softmax_sums_to_1_in_half_precision() -> None:
    found = softmax(random.normal(size=(3, 5000)).astype("float16"), xp=xp)
    assert found.dtype == "float16"
    np.testing.assert_allclose(found.astype("float64").sum(1), 1, atol=1e-3)


def test_estimates_count_multiplications_and_additions() -> None:
    catalogue = OperationCatalogue()
    x, weight = Spec("float32", (8, 64, 32, 32)), Spec("float32", (128, 64, 3, 3))
    assert catalogue.bind("conv2d", {"x": x, "weight": weight, "padding": 1}).estimate.flops == 2 * 8 * 128 * 32 * 32 * 64 * 9
    assert catalogue.bind("linear", {"x": Spec("float32", (10, 20)), "weight": Spec("float32", (30, 20))}).estimate.flops == 2 * 10 * 20 * 30


def test_attention_over_long_sequences_needs_no_memory_for_all_scores() -> None:
    long = Spec("float32", (1 << 17, 64))
    estimate = OperationCatalogue().bind("attention", {"q": long, "k": long, "v": long}).estimate
    assert estimate.memory < 1 << 30 < (1 << 17) ** 2 * 4
