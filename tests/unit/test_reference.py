"""The generated pages say what the code says."""

import pytest

from tools import reference


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_the_page_is_up_to_date(name: str) -> None:
    written = (reference.FOLDER / name).read_text()
    assert written == reference.page(reference.PAGES[name]), "run `make docs`"


def test_every_operation_stands_in_the_reference() -> None:
    from openruntime.operations.catalogue import FAMILIES

    text = (reference.FOLDER / "operations.md").read_text()
    missing = [name for names in FAMILIES.values() for name in names if f"### `{name}(" not in text]
    assert missing == []


def test_a_changed_page_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PAGES", {"settings.md": lambda: "# Other settings"})
    assert reference.stale() == ["settings.md"]
