"""Benchmarks: OpenRuntime beside its yardsticks, in turns, on one machine. `python -m benchmarks` runs them."""
