"""Kernels of the user's own: compiled when registered, called by name like any operation, run in workers of their own."""
