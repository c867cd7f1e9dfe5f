"""Optimizer: makes an operation, a formula or a kernel faster; only verified gains count."""
