"""Developer: writes operations, backends, kernels and client code, checked before it is handed over."""
