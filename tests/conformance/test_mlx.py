from typing import ClassVar

from openruntime.backends.mlx import MlxBackend
from openruntime.testing.backend_suite import BackendSuite


class TestMlx(BackendSuite):
    backend_class: ClassVar[type[MlxBackend]] = MlxBackend
