"""A backend on array-api-strict, which refuses whatever the Array API standard does not promise: it finds operations that rely on more."""

from collections.abc import Mapping
from typing import Any, ClassVar

import array_api_strict
import numpy as np

from openruntime.backends.array_backend import ArrayBackend
from openruntime.errors import OpenRuntimeError, OperationFailed, UnsupportedOnDevice
from openruntime.operations import Operation

NO_HALVES = "the Array API standard has no float16; use float32"


class StrictBackend(ArrayBackend):
    """The Array API standard and nothing else, on the CPU."""

    name = "strict"
    xp = array_api_strict
    unsupported: ClassVar[Mapping[str, str]] = {"einsum": "the Array API standard has no einsum"}
    lacks: ClassVar[Mapping[str, str]] = {**ArrayBackend.lacks, "float16": NO_HALVES}

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # infinities and NaN are answers
            return super()._run(operation, arguments)

    def from_host(self, array: "np.ndarray[Any, Any]") -> Any:
        return self.xp.asarray(array, copy=True)

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        if isinstance(error, AttributeError) and error.name == "float16":
            return UnsupportedOnDevice(NO_HALVES)
        if isinstance(error, np.linalg.LinAlgError):
            return OperationFailed(f"{operation} failed: {str(error)[:1].lower()}{str(error)[1:]}")
        return super().translate(operation, error)
