"""What the API's document shows as answers and requests. One story: a multiplication of two small matrices on the CPU."""

from typing import Any

from openruntime.contracts.models import TaskResponse, TaskStatus

_ID = "0199c0de-7a3b-7c11-9d55-5b1f3c1a2b3c"
_OTHER = "0199c0de-8c02-7d4e-8a10-02c1d7e9f5aa"
_DAY = "2025-11-23T10:00:00"
TASK: dict[str, Any] = TaskResponse(
    task_id=_ID,
    status=TaskStatus.COMPLETED,
    result={"output": [[19, 22], [43, 50]]},
    execution_time=0.0004,
    device_used="cpu:0",
    operation="matmul",
    backend="numpy",
    attempt=1,
    created_at=f"{_DAY}Z",
    started_at=f"{_DAY}.001Z",
    finished_at=f"{_DAY}.002Z",
).model_dump(mode="json")
QUEUED = TaskResponse(task_id=_ID, status=TaskStatus.QUEUED, operation="matmul", created_at=f"{_DAY}Z").model_dump(mode="json")
CANCELLED = {**QUEUED, "status": "cancelled", "code": "cancelled", "error": "cancelled by the client", "finished_at": f"{_DAY}.002Z"}
TASKS = {"tasks": [{**TASK, "result": None}], "next": None}
_REFUSED = {
    "type": "about:blank", "title": "Unprocessable Entity", "status": 422, "code": "unknown_operation",
    "detail": "there is no operation 'matmull'; did you mean matmul?", "field": "operation", "request_id": _OTHER,
}  # fmt: skip
BATCH = {"tasks": [TASK, _REFUSED]}
BATCH_QUEUED = {"tasks": [QUEUED, _REFUSED]}
EXPLANATION = {
    "task_id": _ID, "status": "completed", "reason": "predicted to finish soonest",
    "candidates": [{"device": "cpu:0", "backend": "numpy", "predicted": 0.0005}],
}  # fmt: skip
TRACE = {"traceEvents": [{"name": "queued", "ph": "X", "ts": 0, "dur": 180, "pid": 1, "tid": 1}]}
_MATMUL = {"operation": "matmul", "parameters": {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]]}}
REQUESTS = {
    "matmul": {"summary": "Nested lists", "value": _MATMUL},
    "expression": {"summary": "A formula, urgent", "value": {"operation": "expression", "parameters": {"formula": "2*x", "x": [1.0]}, "priority": 9}},
}
BATCH_REQUESTS = {
    "two": {
        "summary": "Two tasks",
        "value": {"tasks": [_MATMUL, {"operation": "sum", "parameters": {"x": [1, 2, 3]}, "priority": 3}]},
    }
}
TENSOR = {
    "id": _OTHER, "dtype": "float64", "shape": [2, 2], "nbytes": 32, "created_at": f"{_DAY}.000000Z", "expires_at": "2025-11-24T10:00:00.000000Z",
}  # fmt: skip
TENSORS = {"tensors": [TENSOR], "next": None}
KEPT = {"id": _OTHER, "dtype": "float64", "shape": [2, 2], "nbytes": 32, "value": [[1.0, 2.0], [3.0, 4.0]]}
DEVICE: dict[str, Any] = {
    "id": "cpu:0", "name": "AMD EPYC 7B13", "type": "cpu", "capabilities": ["matmul", "sum"], "memory_total": 8589934592,
    "memory_available": 6442450944, "status": "ready", "backends": ["numpy"], "slots": 1, "busy": 0, "queued": 0, "utilization": 0.04,
}  # fmt: skip
BACKEND = {
    "name": "numpy", "status": "ready", "devices": ["cpu:0"], "reason": None, "remedy": None, "unsupported": {},
    "lacks": {"bfloat16": "NumPy has no bfloat16; send float32"},
}  # fmt: skip
DEVICES = {"devices": [DEVICE], "backends": [BACKEND]}
DRAINING = {**DEVICE, "status": "draining"}
OPERATION: dict[str, Any] = {
    "name": "matmul", "family": "linalg", "version": 1, "summary": "The product of two matrices.",
    "parameters": {"type": "object", "required": ["a", "b"], "properties": {"a": {}, "b": {}}},
    "cacheable": True, "devices": ["cpu:0"], "backends": ["numpy"],
}  # fmt: skip
OPERATIONS = {"operations": [OPERATION]}
SERVICE = {"name": "openruntime", "version": "0.1.0", "ready": True, "links": {"tasks": "/tasks", "docs": "/docs"}}
HEALTH = {"status": "ok", "reason": None, "version": "0.1.0", "uptime": 12.5, "devices": {"cpu:0": "ready"}, "websockets": 0}
ALIVE = {"status": "ok", "reason": None}
METRICS_TEXT = '# TYPE openruntime_tasks_total counter\nopenruntime_tasks_total{operation="matmul",status="completed"} 1\n'
METRICS = {"openruntime_workers": 1.0}
# bytes cannot stand in a document: how they are made
NPY_BODY = {"save": {"summary": "numpy.save", "description": '`numpy.save("a.npy", a)`, then `curl --data-binary @a.npy`.'}}
SAFETENSORS_BODY = {
    "save": {
        "summary": "safetensors.numpy.save",
        "description": '`safetensors.numpy.save({"a": a, "b": b}, {"task": json.dumps({"operation": "matmul"})})`; `/tensors` reads no metadata '
        "but `complex`, `/tasks/batch` reads `tasks`.",
    }
}
_SAXPY: dict[str, Any] = {
    "name": "saxpy", "language": "opencl",
    "source": "__kernel void saxpy(__global const float *x, __global const float *y, __global float *z, const float a, const int n) {\n"
    "    int i = get_global_id(0);\n    if (i < n) z[i] = a * x[i] + y[i];\n}\n",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n"]}, {"name": "y", "dtype": "float32", "shape": ["n"]}],
    "outputs": [{"name": "z", "dtype": "float32", "shape": ["n"]}],
    "scalars": [{"name": "a", "dtype": "float32"}, {"name": "n", "dtype": "int32"}],
    "grid": ["n"], "reference": {"operation": "expression", "parameters": {"formula": "a*x + y"}},
}  # fmt: skip
KERNEL_REQUESTS = {"saxpy": {"summary": "OpenCL C", "value": _SAXPY}}
KERNEL: dict[str, Any] = {
    **_SAXPY, "local": [], "options": [], "version": 1,
    "signature": "saxpy(x: float32[n], y: float32[n], a: float32, n: int32) → z: float32[n]", "created_at": f"{_DAY}+00:00",
    "compiled": {"cache": "miss", "seconds": 0.21, "device": "cpu:0", "backend": "opencl-kernels", "log": "", "task_id": _OTHER},
}  # fmt: skip
_FOUND = {"device": "cpu:0", "backend": "opencl-kernels", "task_id": _OTHER, "version": 1, "finished_at": f"{_DAY}+00:00", "seconds": 1.2}
VERIFICATION: dict[str, Any] = {
    "ok": True, "verdict": "verified: 17 cases of 6 sizes agree with expression 'a*x + y'", "findings": [], "kernel": "saxpy", "seed": 2718281828,
    "cases": [{"sizes": {"n": 7}, "data": "special", "ok": True, "findings": [], "worst": 0.01}], "refused": [], "not_tried": [],
    "worst": 0.02, **_FOUND,
}  # fmt: skip
TUNING: dict[str, Any] = {
    "kernel": "saxpy", "sizes": {"n": 1048576}, "seed": 2718281828,
    "baseline": {"kernel": "saxpy", "median": 0.0021, "spread": [0.002, 0.0022], "runs": 15},
    "candidates": [{"values": {"VEC": 8}, "ok": True, "reason": None, "seconds": 0.0009}], "tried": 4, "rejected": 0, "winner": {"VEC": 8},
    "gain": 2.3, "gain_spread": [2.2, 2.4], **_FOUND,
}  # fmt: skip
TRIALS = {
    "verify": {"sizes": {"summary": "With sizes of your own", "value": {"sizes": [{"n": 1000000}], "seed": 7}}},
    "tune": {"sizes": {"summary": "For these sizes", "value": {"sizes": {"n": 1048576}}}},
}
KERNELS = {"kernels": [{name: value for name, value in KERNEL.items() if name != "source"}]}
METRICS_HISTORY = {
    "times": [f"{_DAY}Z", "2025-11-23T10:00:15Z"], "every": 15.0, "series": {'openruntime_tasks_submitted_total{operation="matmul"}': [None, 12.0]},
}  # fmt: skip
