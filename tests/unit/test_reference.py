"""docs/reference.md is what the code says, and the README names every setting."""

from pathlib import Path

from reprieve.workers.settings import Settings
from tests import reference

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `make reference`"


def test_every_setting_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in Settings.model_fields if f"`REPRIEVE_{name.upper()}`" not in text] == []


def test_every_word_is_explained() -> None:
    words = reference.page().split("## Statuses")[1].split("## HTTP")[0]
    assert [line for line in words.splitlines() if line.startswith("- ") and "`: " not in line] == []
