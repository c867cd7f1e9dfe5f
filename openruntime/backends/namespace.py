"""NumPy's namespace by the Array API standard, without what would be a quarter of a worker's start and nobody calls."""

import numpy as np

_UNWANTED = frozenset({"char", "core", "ctypeslib", "f2py", "ma", "polynomial", "rec", "strings", "testing"})
_names, _listed = np.__all__, np.__dir__
vars(np).update(
    __all__=[name for name in _names if name not in _UNWANTED],
    __dir__=lambda: [name for name in _listed() if name not in _UNWANTED],
)
try:
    import array_api_compat.numpy as xp  # copies, and so imports, all that NumPy names
finally:
    vars(np).update(__all__=_names, __dir__=_listed)

__all__ = ["xp"]
