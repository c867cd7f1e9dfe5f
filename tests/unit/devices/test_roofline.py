"""Ceilings, and how near to them a result came."""

import pytest

from openruntime.contracts.records import Call, Estimate, Program
from openruntime.devices.roofline import LARGE, Roofline

MATMUL = Call("matmul", 1, {}, {}, Estimate(2e9, 12e6), dtype="float32")
TRIAD = Call("expression", 1, {}, {}, Estimate(16e6, 2.0 * LARGE), dtype="float32")


def measured() -> Roofline:
    roofline = Roofline()
    roofline.observe(MATMUL, "cpu:0", "torch", 0.02)  # 100 GFLOP/s
    roofline.observe(TRIAD, "cpu:0", "jax", 2 * LARGE / 10e9)  # 10 GB/s
    return roofline


def test_the_best_of_all_backends_is_the_ceiling() -> None:
    roofline = measured()
    roofline.observe(MATMUL, "cpu:0", "numpy", 0.04)
    found = roofline.describe("cpu:0")
    assert (found["flops"], found["bandwidth"], found["reason"]) == (pytest.approx(100e9), pytest.approx(10e9), None)
    assert found["backends"] == {"float32": "torch", "bandwidth": "jax"}
    assert roofline.describe("cuda:0")["flops"] is None
    assert "cuda:0's arithmetic and memory are not measured" in roofline.describe("cuda:0")["reason"]


@pytest.mark.parametrize(
    ("call", "seconds"),
    [
        (MATMUL, 1e-4),
        (Call("fft", 1, {}, {}, Estimate(1e12, 1e12), dtype="float32"), 0.01),
        (Call("expression", 1, {}, {}, Estimate(1e6, 1e6)), 0.01),
        (Call("matmul", 1, {}, {}, Estimate(16.0, 96.0), dtype="int64"), 0.004),
        (Call("matmul", 1, {}, {}, Estimate(2e9, 12e6), dtype="int64", others=("float64",)), 0.02),
    ],
    ids=["too short", "its work is not known exactly", "it may lie in a cache", "a tiny product that took long", "of two dtypes"],
)
def test_what_says_nothing_of_a_ceiling_does_not_raise_it(call: Call, seconds: float) -> None:
    roofline = measured()
    before = roofline.dump()
    roofline.observe(call, "cpu:0", "numpy", seconds)
    assert roofline.dump() == before


def test_a_result_is_judged_by_what_bounds_it() -> None:
    roofline = measured()
    found = roofline.judge(MATMUL, "cpu:0", 0.04)
    assert found == {
        "flops": 2e9, "bytes": 12e6, "gflops": pytest.approx(50), "gbytes": pytest.approx(0.3), "fraction": pytest.approx(0.5),
        "bound": "arithmetic", "reason": None,
    }  # fmt: skip
    found = roofline.judge(Call("sum", 1, {}, {}, Estimate(1e6, 4e6), dtype="float32"), "cpu:0", 8e-4)
    assert (found["bound"], found["fraction"]) == ("memory", pytest.approx(0.5))


def test_null_comes_with_the_reason() -> None:
    roofline = measured()
    assert roofline.judge(MATMUL, None, None)["reason"] == "nothing was computed"
    assert "less than 50 µs" in roofline.judge(MATMUL, "cpu:0", 2e-5)["reason"]
    assert "`openruntime bench`" in roofline.judge(MATMUL, "cuda:0", 1.0)["reason"]
    doubles = Call("matmul", 1, {}, {}, Estimate(2e9, 24e6), dtype="float64")
    assert roofline.judge(doubles, "cpu:0", 0.1)["reason"].startswith("of memory alone")
    assert "a cache" in roofline.judge(Call("sum", 1, {}, {}, Estimate(1e6, 4e6), dtype="float32"), "cpu:0", 1e-4)["reason"]


def test_what_a_kernel_computes_is_not_known() -> None:
    kernel = Call("saxpy", 1, {}, {}, Estimate(0.0, 4e6), dtype="float32", program=Program("kernel:opencl"))
    found = measured().judge(kernel, "cpu:0", 8e-4)
    assert (found["flops"], found["gflops"], found["gbytes"], found["fraction"]) == (None, None, pytest.approx(5), pytest.approx(0.5))
    assert found["reason"] == "of memory alone: how much a kernel computes is not known"
    assert measured().judge(kernel, "cpu:0", 1e-4)["reason"].startswith("of memory alone")


def test_survives_a_restart() -> None:
    again = Roofline()
    again.load(measured().dump())
    assert again.judge(MATMUL, "cpu:0", 0.04) == measured().judge(MATMUL, "cpu:0", 0.04)
    with pytest.raises(ValueError, match="no saved ceilings"):
        again.load({"cpu:0": 5})
