"""What a request to verify or tune may say; the trials themselves are tests/integration/test_kernel_verification.py."""

from typing import Any

import pytest

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def kernel(gateway: Any) -> Any:
    made = await gateway.client.post("/kernels", json={"name": "mine"})
    assert made.status_code == 201
    return gateway


@pytest.mark.parametrize("kind", ["verify", "tune"])
async def test_a_trial_is_a_task_and_needs_no_body(kernel: Any, kind: str) -> None:
    answer = await kernel.client.post(f"/kernels/mine/{kind}")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/tasks/{answer.json()['task_id']}"
    assert (await kernel.client.get(f"/kernels/mine/{kind}?task_id=t1")).json() == {"ok": True, "task_id": "t1"}


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        ("verify", {"seed": "x"}, "seed"), ("verify", {"launch": 0}, "launch"), ("verify", {"limit": 601}, "limit"), ("verify", {"size": []}, "size"),
        ("verify", {"sizes": [{"n": "many"}]}, "sizes.0.n"), ("tune", {"priority": 11}, "priority"), ("tune", {"rounds": 2}, "rounds"),
        ("tune", {"sizes": [1]}, "sizes"), ("tune", {"baseline": 3}, "baseline"),
    ],
)  # fmt: skip
async def test_what_is_not_right_is_named(kernel: Any, problem: Any, kind: str, options: dict[str, Any], field: str) -> None:
    answer = await kernel.client.post(f"/kernels/mine/{kind}", json=options)
    problem(answer, 400, "invalid_request")
    assert answer.json()["field"] == field


async def test_other_bodies_and_other_kernels_are_refused(kernel: Any, problem: Any) -> None:
    problem(await kernel.client.post("/kernels/mine/verify", content=b"x", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    problem(await kernel.client.post("/kernels/mine/verify", content=b"[1]", headers=JSON), 400, "invalid_request")
    problem(await kernel.client.post("/kernels/other/verify"), 404, "not_found")
    problem(await kernel.client.get("/kernels/mine/tune"), 404, "not_found")
