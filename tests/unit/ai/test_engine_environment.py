"""What an engine's process finds in its environment."""

from openruntime.ai.engines.process import _environment


def test_its_threads_may_spin_but_are_as_many_as_said() -> None:
    found = _environment(3)
    assert "OMP_WAIT_POLICY" not in found  # asleep at each barrier, a model writes a third as fast
    assert found["OMP_NUM_THREADS"] == "3"
