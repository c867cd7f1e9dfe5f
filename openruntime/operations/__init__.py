"""Pure functions of arrays, written once against the Array API standard. What an author of operations needs is imported from here."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openruntime.contracts.errors import OperationFailed
    from openruntime.operations.definition import Array, Estimate, InvalidParameter, Namespace, Number, Operation, Spec, Steps, operation

__all__ = ["Array", "Estimate", "InvalidParameter", "Namespace", "Number", "Operation", "OperationFailed", "Spec", "Steps", "operation"]


def __getattr__(name: str) -> Any:
    """Looked up at first use: `import openruntime.operations` stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.definition"), name)
