"""The errors' public home: the whole tree, nothing else, and light."""

import inspect

import pytest

import openruntime
from openruntime.contracts import errors as tree


def test_shows_the_whole_tree_and_nothing_else() -> None:
    defined = [name for name, value in vars(tree).items() if inspect.isclass(value) and issubclass(value, tree.OpenRuntimeError)]
    assert openruntime.errors.__all__ == sorted(defined)
    assert {name for name in vars(openruntime.errors) if not name.startswith("_")} == set(defined)


def test_its_classes_are_those_that_are_raised() -> None:
    with pytest.raises(openruntime.errors.TaskFailed) as caught:
        raise tree.TaskCancelled("stopped")
    assert isinstance(caught.value, openruntime.errors.TaskCancelled)


def test_is_imported_at_first_use_by_either_spelling() -> None:
    from openruntime.errors import TaskFailed

    assert TaskFailed is openruntime.errors.TaskFailed
    assert "errors" in dir(openruntime)
