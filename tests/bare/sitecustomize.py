"""On a server's PYTHONPATH: the libraries of the built-in backends but NumPy are as if they were not installed."""

import sys

sys.modules.update(dict.fromkeys(("cupy", "jax", "mlx", "pyopencl", "torch", "wgpu")))
