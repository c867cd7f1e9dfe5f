"""Users' kernels in WGSL, through wgpu: on Vulkan, Direct3D and Metal.

Every argument is a binding of group 0, numbered in the order of the signature: arrays `var<storage, read>` or `var<storage, read_write>`, scalars
`var<uniform>`. An option `-DNAME=VALUE` sets the `override` of that name.
"""

import re
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar, NamedTuple

import numpy as np
import wgpu

from openruntime.backends.kernel_backend import KernelBackend, uncompiled
from openruntime.contracts.errors import CompileError, NoSuchDevice, OpenRuntimeError, OperationFailed, OutOfMemory, WorkerCrashed
from openruntime.contracts.kernels import Compiled, KernelRunner, KernelSpec, Number

_LIMITS = (
    "max-buffer-size", "max-storage-buffer-binding-size", "max-storage-buffers-per-shader-stage", "max-uniform-buffers-per-shader-stage",
    "max-bindings-per-bind-group", "max-compute-workgroup-storage-size", "max-compute-invocations-per-workgroup", "max-compute-workgroup-size-x",
    "max-compute-workgroup-size-y", "max-compute-workgroup-size-z",
)  # fmt: skip
_TYPES = {"f32": "float32", "i32": "int32", "u32": "uint32"}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BINDING = re.compile(r"((?:@(?:group|binding)\s*\(\s*\d+\s*\)\s*){2})var\s*<\s*(\w+)\s*(?:,\s*(\w+)\s*)?>\s*(\w+)\s*:\s*([^;]+);", re.DOTALL)
_AT = re.compile(r"@(group|binding)\s*\(\s*(\d+)\s*\)")
_PLACE = re.compile(r"┌─ (?:wgsl)?:(\d+):(\d+)")
_UNDERLINED = re.compile(r"│ +\^+ +(.+)")
_HEAD = re.compile(r"^Shader (?:'.*?' )?(?:parsing|validation) error: ")


class Binding(NamedTuple):
    """A `@binding` as the source has it. `space`: `storage` or `uniform`; `access`: `read` or `read_write`."""

    space: str
    access: str
    type: str


class Built(NamedTuple):
    pipeline: Any
    layout: Any
    group: tuple[int, int, int]


class WGSLRunner(KernelRunner):
    """wgpu checks every index against its array, as WGSL wants it: a stray one changes nothing outside."""

    language: ClassVar[str] = "wgsl"

    def __init__(self, *, device: str, threads: int, index: int) -> None:
        shown_by = {"Metal"} if device.startswith("metal") else {"Vulkan", "D3D12"}
        adapters = [adapter for adapter in wgpu.gpu.enumerate_adapters_sync() if adapter.info["backend_type"] in shown_by]
        if device.startswith("cpu:"):  # a software driver: it computes on the processor
            adapters = [adapter for adapter in adapters if adapter.info["adapter_type"] == "CPU"]
        if index >= len(adapters):
            raise NoSuchDevice(f"wgpu does not show the device {device}")
        adapter = adapters[index]
        self._limits: Mapping[str, int] = adapter.limits
        self._device = adapter.request_device_sync(required_limits={name: adapter.limits[name] for name in _LIMITS if name in adapter.limits})
        self._queue = self._device.queue
        self.identity = "\n".join(str(adapter.info[name]) for name in ("vendor", "device", "description", "backend_type"))

    def compile(self, spec: KernelSpec) -> Compiled:
        started = perf_counter()
        plain = _COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), spec.source)
        constants = overrides(spec)
        try:
            module = self._device.create_shader_module(code=spec.source)
            if not re.search(rf"@compute\b[^{{;]*\bfn\s+{spec.name}\s*\(", plain):
                names = re.findall(r"@compute\b[^{;]*\bfn\s+(\w+)\s*\(", plain)
                there = f"it has {', '.join(names)}" if names else "it has none; one begins with @compute @workgroup_size(64) fn"
                raise CompileError(f"the source has no kernel called {spec.name!r}; {there}")
            layout = self._device.create_bind_group_layout(entries=entries(spec, bindings(plain)))
            pipeline = self._device.create_compute_pipeline(
                layout=self._device.create_pipeline_layout(bind_group_layouts=[layout]),
                compute={"module": module, "entry_point": spec.name, "constants": constants},
            )
        except wgpu.GPUError as error:
            raise refusal(spec, str(error)) from None
        built = Built(pipeline, layout, group_of(spec, plain, constants))
        return Compiled(spec, built, "", False, perf_counter() - started)  # drivers keep a cache of their own, and do not say

    def run(
        self, compiled: Compiled, inputs: Sequence[memoryview], outputs: Sequence[memoryview], scalars: Sequence[Number], grid: Sequence[int],
        local: Sequence[int] = (), *, guard: int = 0,
    ) -> float:  # fmt: skip
        spec, built = compiled.spec, compiled.built
        group = built.group
        if local and tuple(local) != group[: len(local)]:
            raise OperationFailed(f"`local` of {spec.name} is {list(local)}, and the source declares @workgroup_size{group}; they must be the same")
        groups = [-(-side // size) for side, size in zip((*grid, 1, 1), group, strict=False)][:3]
        most = self._limits["max-compute-workgroups-per-dimension"]
        if max(groups) > most:
            raise OperationFailed(f"{spec.name} would need {groups} work-groups, and the device takes {most} along a dimension: declare larger ones")
        held: list[Any] = []
        try:
            buffers = [self._buffer(view, wgpu.BufferUsage.STORAGE, held) for view in (*inputs, *outputs)]
            sizes = [max(4, view.nbytes - 2 * guard) for view in (*inputs, *outputs)]
            bound = [{"buffer": buffer, "offset": guard, "size": size} for buffer, size in zip(buffers, sizes, strict=True)]
            for scalar, value in zip(spec.scalars, scalars, strict=True):
                data = np.zeros(4, np.uint32)
                data.view(scalar.dtype)[0] = value
                bound.append({"buffer": self._buffer(data.data.cast("B"), wgpu.BufferUsage.UNIFORM, held), "offset": 0, "size": data.nbytes})
            resources = [{"binding": i, "resource": resource} for i, resource in enumerate(bound)]
            bindings = self._device.create_bind_group(layout=built.layout, entries=resources)
            self._queue.read_buffer(held[0], 0, 4)  # everything is there before the clock starts
            encoder = self._device.create_command_encoder()
            work = encoder.begin_compute_pass()
            work.set_pipeline(built.pipeline)
            work.set_bind_group(0, bindings)
            work.dispatch_workgroups(*groups)
            work.end()
            commands = encoder.finish()
            started = perf_counter()
            self._queue.submit([commands])
            self._queue.read_buffer(held[0], 0, 4)  # waits for the work
            seconds = perf_counter() - started
            first = 0 if self.fetch_inputs else len(inputs)
            for view, buffer in zip((*inputs, *outputs)[first:], buffers[first:], strict=True):
                view[:] = self._queue.read_buffer(buffer, 0, view.nbytes)
            return seconds
        except wgpu.GPUError as error:
            raise translated(spec.name, error) from error
        finally:
            for buffer in held:
                buffer.destroy()

    def _buffer(self, view: memoryview, usage: int, held: list[Any]) -> Any:
        largest = min(self._limits["max-buffer-size"], self._limits["max-storage-buffer-binding-size"])
        if view.nbytes > largest:
            raise OutOfMemory(f"an array of {view.nbytes} bytes is larger than the largest buffer of this device, {largest} bytes")
        held.append(self._device.create_buffer(size=max(16, view.nbytes), usage=usage | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST))
        if view.nbytes:
            self._queue.write_buffer(held[-1], 0, view)
        return held[-1]


class WGSLKernels(KernelBackend):
    name = "wgsl-kernels"
    runner_class = WGSLRunner


def overrides(spec: KernelSpec) -> dict[str, float]:
    """What `-DNAME=VALUE` says. Raises `CompileError` for other options: WGSL's compilers have none."""
    found: dict[str, float] = {}
    for option in spec.options:
        name, equals, value = option.removeprefix("-D").partition("=")
        try:
            found[name] = float(value) if equals else 1.0
        except ValueError:
            equals = ""
        if not option.startswith("-D") or (not equals and value):
            raise CompileError(f"`options`: {option!r} is none of WGSL's; -DNAME=VALUE sets the `override` of that name to a number", field="options")
    return found


def bindings(source: str) -> dict[int, Binding]:
    """Those of group 0 by number."""
    found = {}
    for at, space, access, _name, kind in _BINDING.findall(source):
        numbers = {what: int(number) for what, number in _AT.findall(at)}
        if numbers.get("group") == 0 and "binding" in numbers:
            found[numbers["binding"]] = Binding(space, access or "read", "".join(kind.split()))
    return found


def entries(spec: KernelSpec, found: Mapping[int, Binding]) -> list[dict[str, Any]]:
    """The layout of group 0 as the source wants it. Raises `CompileError` where that is not what the signature says."""
    made = []
    for i, argument in enumerate(spec.arguments):
        array = i < len(spec.inputs) + len(spec.outputs)
        binding, called = found.get(i), f"@group(0) @binding({i})"
        if binding is None:
            space = "var<storage, read_write>" if array else "var<uniform>"
            raise CompileError(f"the source has no {called}, which is `{argument.name}`: {called} {space} {argument.name}: ...")
        if len(spec.inputs) <= i and array and binding.access != "read_write":
            raise CompileError(f"{called} is `{argument.name}`, an output, and must be var<storage, read_write> in the source")
        inner = re.fullmatch(r"array<(?:atomic<)?(?:vec[234]<)?(\w+?)>*(?:,\w+>)?", binding.type) if array else re.fullmatch(r"(\w+)", binding.type)
        wanted = "float32" if argument.dtype == "complex64" else argument.dtype
        if inner is not None and _TYPES.get(inner[1], wanted) != wanted:
            raise CompileError(f"{called} is {binding.type} in the source, and `{argument.name}` is {argument.dtype}")
        kind = "uniform" if binding.space == "uniform" else "storage" if binding.access == "read_write" else "read-only-storage"
        made.append({"binding": i, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}})
    return made


def group_of(spec: KernelSpec, source: str, constants: Mapping[str, float]) -> tuple[int, int, int]:
    """The work-group's size as `@workgroup_size` says it, its names looked up among the overrides and constants."""
    found = re.search(rf"@workgroup_size\s*\(([^)]*)\)[^{{;]*\bfn\s+{spec.name}\s*\(", source)
    sizes = []
    for text in (found[1] if found else "1").split(","):
        word = text.strip().rstrip("ui")
        if word and not word.isdigit():
            given = re.search(rf"\b(?:override|const)\s+{re.escape(text.strip())}\b[^=;]*=\s*(\d+)", source)
            word = str(int(constants[text.strip()])) if text.strip() in constants else given[1] if given else ""
            if not word:
                raise CompileError(f"@workgroup_size({found[1] if found else ''}) in the source: {text.strip()!r} is no number known here")
        sizes.append(int(word or 1))
    return (*sizes, 1, 1)[:3]  # type: ignore[return-value]


def refusal(spec: KernelSpec, said: str) -> CompileError:
    """What wgpu says of a source that does not compile."""
    log = said.partition("Caused by:")[2].strip() or said.strip()
    log = "\n".join(line for line in log.splitlines() if not line.strip().startswith("In wgpu")).strip()
    place, underlined = _PLACE.search(log), _UNDERLINED.search(log)
    message = _HEAD.sub("", log.partition("\n")[0]).strip()
    if underlined and "validation error" in log.partition("\n")[0]:
        message = f"{message} ({underlined[1]})"
    if place is None:
        return uncompiled(spec, log)
    return uncompiled(spec, log, [{"line": int(place[1]), "column": int(place[2]), "severity": "error", "message": message}])


def translated(name: str, error: Exception) -> OpenRuntimeError:
    said = f"{name}: {str(error).strip()[:500]}"
    if isinstance(error, wgpu.GPUOutOfMemoryError):
        return OutOfMemory(said)
    if isinstance(error, wgpu.GPUInternalError) or "lost" in said.lower():
        return WorkerCrashed(said)
    return OperationFailed(said)
