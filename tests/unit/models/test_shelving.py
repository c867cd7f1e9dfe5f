"""Weights in the repository, where processes are killed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition


@pytest.mark.parametrize("next_change", ["add", "remove"])
def test_what_a_killed_add_left_goes_with_the_next_change(repository: ModelRepository, weights: Callable[..., Path], next_change: str) -> None:
    repository.add(Addition(path=str(weights("a.gguf")), name="first"))
    program = f"""
import os, shutil, time
from pathlib import Path
from openruntime.models.repository import ModelRepository
from openruntime.models.sources import Addition
from tests.models.making import Nothing
def refuse(*_): raise OSError
def half(one, other):
    Path(other).write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
os.link, shutil.copyfile = refuse, half
repository = ModelRepository(Path({str(repository.folder)!r}), found=Nothing(), taken=set)
repository.add(Addition(path={str(weights("b.gguf", values=(9.0,)))!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as adding:
        assert adding.stdout is not None
        assert adding.stdout.readline() == b"half\n"
        adding.kill()
    (left,) = (repository.folder / "weights").glob(".*")
    if next_change == "add":
        repository.add(Addition(path=str(weights("c.gguf", values=(8.0,))), name="second"))
    else:
        repository.remove("first:1")
    assert not left.exists()
