from typing import ClassVar

from openruntime.backends.cpu import NumpyBackend
from openruntime.operations.catalogue import FAMILIES
from openruntime.testing.backend_suite import BackendSuite
from openruntime.testing.cases import cases


class TestNumpy(BackendSuite):
    backend_class: ClassVar[type[NumpyBackend]] = NumpyBackend
    stacked_cases: ClassVar[None] = None


def test_every_operation_has_cases_of_all_kinds():
    found = cases()
    for name in (name for names in FAMILIES.values() for name in names):
        own = [case for case in found if case.operation == name]
        assert any(case.refused is None and case.fails is None for case in own), f"{name} has no case that answers"
        assert any(case.refused or case.fails for case in own), f"{name} has no case of bad input"


def test_a_case_wants_exactly_one_thing():
    for case in cases():
        assert sum(wanted is not None for wanted in (case.expected, case.verify, case.refused, case.fails)) == 1, str(case)
