"""How soon a dead worker is replaced is how long a new one imports."""

import json
import subprocess
import sys


def test_a_worker_imports_nothing_it_does_not_need() -> None:
    code = "import json, sys, openruntime.runtimes.worker, openruntime.backends.cpu; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout))
    assert not imported & {"pydantic", "fastapi", "uvicorn", "numpy.f2py", "numpy.testing", "scipy"}


def test_the_namespace_leaves_numpy_as_it_was() -> None:
    code = "import openruntime.backends.namespace, numpy; from numpy import *; print('f2py' in numpy.__all__, f2py.__name__, testing.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "numpy.f2py", "numpy.testing"]
