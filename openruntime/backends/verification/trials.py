"""What a kernel worker does when it is asked to verify or tune: the kernel runs in one more process, the worker judges."""

from collections.abc import Mapping
from typing import Any

import msgspec

from openruntime.backends.verification.judge import Judge
from openruntime.backends.verification.stage import Stage
from openruntime.backends.verification.tuning import Tuner, asked
from openruntime.contracts.kernels import VERIFY, KernelSpec, digest
from openruntime.contracts.tunables import settled


def trial(operation: str, spec: KernelSpec, backend: str, place: tuple[str, int, int], params: Mapping[str, Any]) -> dict[str, Any]:
    """The report of `VERIFY` or `TUNE`. `place`: device, threads, index; `params`: `seed`, `sizes`, `launch`, `limit`; `baseline` and `rounds`
    of tuning, the baseline as a kernel's plain values.

    Raises `InvalidParameter`, `CompileError`, `OperationFailed` where the baseline of tuning is wrong."""
    given = {name: params[name] for name in ("seed", "launch", "limit") if name in params}
    with Stage(backend, *place) as stage:
        stage.start()
        if operation == VERIFY:
            more = [asked(spec, sizes, f"sizes.{i}") for i, sizes in enumerate(params.get("sizes") or ())]
            report = Judge(settled(spec), stage, **given).verify(params["steps"], more)
        else:
            baseline = msgspec.convert(params["baseline"], KernelSpec) if params.get("baseline") else None
            given |= {name: params[name] for name in ("sizes", "rounds") if name in params}
            report = Tuner(spec, stage, baseline=baseline, **given).tune(params["steps"])
        return report | {"device": place[0], "backend": backend, "version": params.get("version"), "sha256": digest(spec)}
