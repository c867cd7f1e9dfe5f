"""Kernels that cheat or err are rejected, each for its reason; honest ones are accepted; tuning keeps only what was verified. On real PoCL."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import openruntime
from benchmarks.kernels import SOURCES, WORKS
from benchmarks.servers import Server
from openruntime.errors import InvalidParameter, NotFound, OperationFailed
from tests.kernels.honest import KERNELS
from tests.kernels.making import kernel
from tests.kernels.red_team import Cheat
from tests.kernels.red_team_more import CHEATS, HONEST_WHERE_TIMED, TIMED

pytest.importorskip("pyopencl", reason="the extra opencl is not installed")

from openruntime.backends.verification.cases import NORMAL, Case, inputs
from openruntime.backends.verification.judge import Judge
from openruntime.backends.verification.stage import Stage
from openruntime.backends.verification.tuning import Tuner
from openruntime.contracts.kernel_reading import read
from openruntime.contracts.tunables import settled

ENDLESS = {"launch": 1.0, "compiling": 4.0}  # seconds; what loops for ever costs that much here


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENRUNTIME_CACHE_DIR", str(tmp_path_factory.mktemp("built")))
        with Stage("opencl-kernels", "cpu:0", 2) as found:
            yield found


def verify(document: dict[str, Any], stage: Stage, *, thorough: bool = True, seed: int | None = 0, **options: Any) -> dict[str, Any]:
    return Judge(read(document), stage, seed=seed, **options).verify(lambda *_: None, thorough=thorough)


def test_there_are_enough_of_both() -> None:
    assert len(CHEATS) >= 30
    assert len(KERNELS) >= 20
    for documents in ([cheat.kernel for cheat in CHEATS], KERNELS):
        assert len({document["name"] for document in documents}) == len(documents)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.kernel["name"])
def test_what_cheats_or_errs_is_rejected_for_its_reason(cheat: Cheat, stage: Stage) -> None:
    for seed in range(3 if "nondeterministic" in cheat.findings else 1):  # on cores that others keep busy a race may be won again and again
        report = verify(cheat.kernel, stage, thorough=False, seed=seed, **ENDLESS)
        if not report["ok"]:
            break
    assert not report["ok"], f"{cheat.what}: {report['verdict']}"
    failed = report["cases"][-1]
    assert cheat.findings & {found["finding"] for found in failed["findings"]}, f"{cheat.what}: {report['verdict']}"
    if cheat.data - {"empty"}:
        assert failed["data"] in cheat.data, report["verdict"]
    if cheat.data == {"empty"}:
        assert 0 in failed["sizes"].values(), report["verdict"]
    assert report["verdict"].startswith("rejected: "), report["verdict"]


@pytest.mark.parametrize("document", KERNELS, ids=lambda document: document["name"])
def test_what_is_honest_is_accepted(document: dict[str, Any], stage: Stage) -> None:
    report = verify(document, stage)
    assert report["ok"], report["verdict"]
    assert report["findings"] == []
    assert 0 <= report["worst"] <= 1
    assert len(report["cases"]) >= 12
    data = {case["data"] for case in report["cases"]}
    assert {"normal", "wide", "zeros", "special"} <= data
    assert any(0 in case["sizes"].values() for case in [*report["cases"], *report["refused"]])


def test_the_same_seed_tries_the_same_and_another_another(stage: Stage) -> None:
    halved = next(cheat.kernel for cheat in CHEATS if cheat.kernel["name"] == "halved")
    first, again, other = (verify(halved, stage, thorough=False, seed=seed)["cases"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sine_of_vectors_is_right_beside_what_is_infinite(seed: int, stage: Stage) -> None:
    work = WORKS["expression"]
    source = (SOURCES / "tuned/expression.cl").read_text()
    spec = read(kernel(source, *work.inputs, *work.outputs, grid=tuple(work.tuned[0]), local=tuple(work.tuned[1]), reference=work.reference))
    report = Judge(settled(spec, {"VEC": 16}), stage, seed=seed).verify(lambda *_: None)
    assert report["ok"], report["verdict"]
    assert max(case["sizes"]["n"] for case in report["cases"] if case["data"] == "special") > 50_000  # or some seeds miss what a vector does


def test_no_two_trials_try_the_same_unless_asked_to(stage: Stage) -> None:
    halved = next(cheat.kernel for cheat in CHEATS if cheat.kernel["name"] == "halved")
    first, other = (verify(halved, stage, thorough=False, seed=None) for _ in range(2))
    assert first["seed"] != other["seed"]
    assert first["cases"] != other["cases"]
    assert verify(halved, stage, thorough=False, seed=first["seed"])["cases"] == first["cases"]


@pytest.mark.parametrize(("document", "reason"), TIMED, ids=lambda value: value["name"] if isinstance(value, dict) else "")
def test_what_cheats_only_where_it_is_timed_gains_nothing(document: dict[str, Any], reason: str | None, stage: Stage) -> None:
    sizes = {"n": 1 << 19}
    known = inputs(read(document), Case(sizes, NORMAL), np.random.default_rng([0, 4]))["x"][0]
    spec = read({**document, "source": document["source"].replace("FIRST", f"{float(known).hex()}f")})
    report = Tuner(spec, stage, baseline=read(HONEST_WHERE_TIMED), sizes=sizes, rounds=3, seed=0).tune(lambda *_: None)
    (candidate,) = report["candidates"]
    assert candidate["ok"] is (reason is None), candidate
    assert (candidate["reason"] or "").startswith(reason or ""), candidate
    if reason is None:
        assert candidate["gain"] < 3, candidate
    else:
        assert (report["winner"], report["gain"]) == (None, None)


def test_a_kernel_for_which_too_little_can_be_tried_is_not_verified(stage: Stage) -> None:
    picky = kernel(
        "kernel void picky(global const float *x, global float *y, int n) { int i = get_global_id(0); if (i < n) y[i] = 2 * x[i]; }",
        "x: float32[n]", "y: float32[n]", grid="100000//n - 100000//n", reference="2*x",
    )  # fmt: skip
    report = verify(picky, stage)
    assert not report["ok"]
    assert report["findings"] == ["untested"]
    assert "nothing would run" in report["verdict"]


@pytest.mark.parametrize(("factor", "right"), [("2", True), ("x[0]", False), ("((ulong)x & 511 ? 2 : 3)", False)])
def test_a_kernel_of_fixed_shapes_is_verified_too(factor: str, right: bool, stage: Stage) -> None:
    fixed = kernel(
        f"kernel void fixed(global const float *x, global float *y) {{ int i = get_global_id(0); y[i] = {factor} * x[i]; }}",
        "x: float32[8]", "y: float32[8]", scalars="", grid=(8,), reference="2*x",
    )  # fmt: skip
    report = verify(fixed, stage)
    assert report["ok"] is right, report["verdict"]
    assert {case["data"] for case in report["cases"]} == {"normal", "wide", "tiny", "zeros", "special"}


def test_what_is_left_out_by_a_domain_is_said(stage: Stage) -> None:
    options = next(document for document in KERNELS if document["name"] == "options")
    report = verify(options, stage, thorough=False)
    assert "numbers outside of 50.0 to 150.0 in `spot`: its domain" in report["not_tried"]


def test_a_domain_that_leaves_the_mistakes_out_makes_it_right(stage: Stage) -> None:
    taylor = next(cheat.kernel for cheat in CHEATS if cheat.kernel["name"] == "taylor")
    bounded = {**taylor, "reference": {**taylor["reference"], "domain": {"x": {"low": -1, "high": 1}}}}
    assert verify(bounded, stage)["ok"]


SCALE = """// tune: VEC = 1, 4, 3, 2
kernel void scale(global const float *x, global float *y, int n) {
    int i = VEC * get_global_id(0);
#if VEC == 4
    if (i + 4 <= n) { vstore4(2.0f * vload4(0, x + i), 0, y + i); return; }
#elif VEC == 3
    this does not compile
#elif VEC == 2
    if (i + 2 <= n) { y[i] = 2.0f * x[i]; return; }
#endif
    for (int j = i; j < min(i + VEC, n); j++) y[j] = 2.0f * x[j];
}
"""
GIVEN: dict[str, Any] = {
    "language": "opencl", "inputs": ["x: float32[n]"], "outputs": ["y: float32[n]"], "scalars": ["n: int32"],
    "reference": {"operation": "expression", "parameters": {"formula": "2*x"}},
}  # fmt: skip
PLAIN = "kernel void plain(global const float *x, global float *y, int n) { int i = get_global_id(0); if (i < n) y[i] = 2 * x[i]; }"
WRONG = "kernel void wrong(global const float *x, global float *y, int n) { int i = get_global_id(0); if (i < n - 1) y[i] = 2 * x[i]; }"


@pytest.fixture(scope="module")
def at(start_server: Callable[..., AbstractContextManager[Server]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Any]]:
    environment = {"OPENRUNTIME_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    with start_server(data_dir=tmp_path_factory.mktemp("data"), environment=environment) as server, openruntime.connect(server.url) as runtime:
        runtime.kernels.add("scale", source=SCALE, grid="ceildiv(n, VEC)", **GIVEN)
        runtime.kernels.add("plain", source=PLAIN, grid="n", **GIVEN)
        runtime.kernels.add("wrong", source=WRONG, grid="n", **GIVEN)
        yield server, runtime


def test_a_kernel_is_verified_through_the_server(at: tuple[Server, Any]) -> None:
    server, runtime = at
    told: list[tuple[float, str | None]] = []
    report = runtime.kernels.verify("plain", sizes=[{"n": 1000}], progress=lambda *now: told.append(now))
    assert report["ok"], report["verdict"]
    assert {"n": 1000} in [case["sizes"] for case in report["cases"]]
    shown = runtime.kernels.get("plain")["verified"]
    assert shown["ok"]
    assert shown["task_id"] == report["task_id"]
    assert httpx.get(f"{server.url}/kernels/plain/verify").json() == report
    task = httpx.get(f"{server.url}/tasks/{report['task_id']}").json()
    assert (task["operation"], task["status"], task["backend"]) == ("verify_kernel", "completed", "opencl-kernels")


def test_a_wrong_kernel_is_said_to_be_wrong_through_the_server(at: tuple[Server, Any]) -> None:
    server, runtime = at
    answer = httpx.post(f"{server.url}/kernels/wrong/verify", headers={"Prefer": "wait=60"}, timeout=70)
    assert answer.status_code == 200
    report = answer.json()
    assert not report["ok"]
    assert "unwritten" in report["findings"]
    assert not runtime.kernels.get("wrong")["verified"]["ok"]


def test_a_new_version_is_not_verified_by_what_was_found_of_the_old(at: tuple[Server, Any]) -> None:
    _, runtime = at
    runtime.kernels.add("fresh", source=PLAIN.replace("plain", "fresh"), grid="n", **GIVEN)
    assert runtime.kernels.verify("fresh")["ok"]
    runtime.kernels.add("fresh", source=PLAIN.replace("plain", "fresh"), grid="n", **GIVEN)
    assert runtime.kernels.get("fresh")["verified"]["ok"]
    assert runtime.kernels.add("fresh", source=WRONG.replace("wrong", "fresh"), grid="n", **GIVEN)["verified"] is None


def test_a_kernel_inherits_nothing_from_another_of_its_name(at: tuple[Server, Any]) -> None:
    server, runtime = at
    right, wrong = (source.replace(name, "heir") for source, name in ((PLAIN, "plain"), (WRONG, "wrong")))
    path = f"{server.url}/kernels/heir/verify"
    runtime.kernels.add("heir", source=right, grid="n", **GIVEN)
    task = runtime.kernels.verify("heir")["task_id"]
    runtime.kernels.add("heir", source=wrong, grid="n", **GIVEN)
    assert httpx.get(path).status_code == 404
    runtime.kernels.add("heir", source=right, grid="n", **GIVEN)
    assert httpx.get(path).json()["ok"]
    runtime.kernels.remove("heir")
    assert runtime.kernels.add("heir", source=wrong, grid="n", **GIVEN)["version"] == 1
    assert httpx.get(path).status_code == 404
    asked = httpx.get(f"{path}?task_id={task}")
    assert (asked.status_code, asked.json()["field"]) == (404, "task_id")
    assert "tried another heir than is registered now" in asked.json()["detail"]
    assert runtime.kernels.get("heir")["verified"] is None
    runtime.kernels.remove("heir")
    runtime.kernels.add("heir", source=right, grid="n", **GIVEN)
    assert httpx.get(path).status_code == 404  # removed with the kernel
    assert httpx.get(f"{path}?task_id={task}").json()["ok"]
    assert runtime.kernels.get("heir")["verified"]["ok"]


def test_tuning_keeps_what_is_right_and_faster_and_later_runs_use_it(at: tuple[Server, Any]) -> None:
    server, runtime = at
    report = runtime.kernels.tune("scale", sizes={"n": 200_000}, rounds=5)
    by_width = {candidate["values"]["VEC"]: candidate for candidate in report["candidates"]}
    assert by_width[1]["ok"]
    assert by_width[4]["ok"]
    assert "does not compile" in by_width[3]["reason"]
    assert by_width[2]["reason"].startswith("rejected: ")
    assert by_width[2]["seconds"] is None  # what is wrong is never timed
    assert report["winner"] in (None, {"VEC": 4}, {"VEC": 1})
    assert report["baseline"]["runs"] == 5
    tuned = runtime.kernels.get("scale")["tuned"]
    assert tuned == ([] if report["winner"] is None else [{"sizes": {"n": 200_000}, "values": report["winner"]}])
    assert httpx.get(f"{server.url}/kernels/scale/tune").json() == report
    for n in (5, 199_999, 200_000):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(runtime.run("scale", x), 2 * x)


def test_gains_can_be_told_against_another_kernel_but_only_a_right_one(at: tuple[Server, Any]) -> None:
    _, runtime = at
    report = runtime.kernels.tune("scale", baseline="plain", sizes={"n": 50_000}, rounds=3)
    assert report["baseline"]["kernel"] == "plain"
    with pytest.raises(OperationFailed, match="the baseline wrong is not verified"):
        runtime.kernels.tune("scale", baseline="wrong", sizes={"n": 50_000}, rounds=3)


def test_what_cannot_be_tried_is_refused_before_it_is_queued(at: tuple[Server, Any]) -> None:
    server, runtime = at
    with pytest.raises(NotFound, match="there is no kernel 'scael'; did you mean scale"):
        runtime.kernels.verify("scael")
    with pytest.raises(InvalidParameter, match="`sizes` of scale must name n; it names m"):
        runtime.kernels.tune("scale", sizes={"m": 3})
    with pytest.raises(InvalidParameter, match="plain leaves nothing open"):
        runtime.kernels.tune("plain")
    runtime.kernels.add("bare", source=PLAIN.replace("plain", "bare"), grid="n", **{**GIVEN, "reference": None})
    with pytest.raises(InvalidParameter, match="bare names no `reference`"):
        runtime.kernels.verify("bare")
    with pytest.raises(NotFound, match="bare has not been verified yet"):
        runtime.kernels._portal.run(runtime.kernels._client._connection.json("GET", "/kernels/bare/verify"))
    answer = httpx.post(f"{server.url}/kernels/plain/verify", json={"limit": -1})
    assert (answer.status_code, answer.json()["field"]) == (400, "limit")


def test_a_trial_that_is_cancelled_ends_and_frees_its_worker(at: tuple[Server, Any]) -> None:
    server, runtime = at
    task = httpx.post(f"{server.url}/kernels/scale/tune", json={"sizes": {"n": 1_000_000}, "rounds": 200}).json()["task_id"]
    end = time.monotonic() + 30
    while httpx.get(f"{server.url}/tasks/{task}").json()["status"] == "queued":
        assert time.monotonic() < end
        time.sleep(0.05)
    httpx.delete(f"{server.url}/tasks/{task}")
    ended = httpx.get(f"{server.url}/tasks/{task}?wait=20", timeout=30).json()
    assert ended["status"] == "cancelled"
    np.testing.assert_array_equal(runtime.run("plain", np.ones(3, np.float32)), [2, 2, 2])


def test_the_command_line_shows_the_cases_and_the_candidates(at: tuple[Server, Any], tmp_path: Path) -> None:
    server, _ = at

    def command(*given: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "openruntime.cli.main", "kernels", *given, "--server", server.url]
        return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)

    right = command("verify", "plain", "--size", "n=12")
    assert right.returncode == 0, right.stderr
    assert "verified: " in right.stdout
    wrong = command("verify", "wrong", "--json")
    assert wrong.returncode == 1
    assert json.loads(wrong.stdout)["findings"]
    tuned = command("tune", "scale", "--size", "n=30000", "--rounds", "3")
    assert tuned.returncode == 0, tuned.stderr
    assert "scale (baseline)" in tuned.stdout
    assert "does not compile" in tuned.stdout
    assert command("tune", "scale", "--size", "n").returncode == 2
