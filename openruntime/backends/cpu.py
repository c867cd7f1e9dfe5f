"""NumPy on the CPU: the backend that is always there, and the reference for all others."""

from collections.abc import Mapping
from typing import Any, ClassVar

import array_api_compat.numpy as xp
import numpy as np

from openruntime.backends.array_backend import ArrayBackend, Native
from openruntime.contracts.errors import OpenRuntimeError, OperationFailed
from openruntime.operations.operation import Operation


class NumpyBackend(ArrayBackend):
    """NumPy, with SciPy's routines where they are measured to be faster. BLAS threads are the process's own setting."""

    name = "numpy"
    xp = xp
    native: ClassVar[Mapping[str, Native]] = {}

    def _run(self, operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # infinities and NaN are answers here, not news for stderr
            return super()._run(operation, arguments)

    def from_host(self, array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        return array

    def translate(self, operation: str, error: Exception) -> OpenRuntimeError | None:
        if isinstance(error, np.linalg.LinAlgError):
            return OperationFailed(f"{operation} failed: {str(error)[:1].lower()}{str(error)[1:]}")
        return super().translate(operation, error)
