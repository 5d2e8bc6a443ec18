import importlib

import pandas as pd
import pytest
from companion import figures
from companion.show import show


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: (object, options)."""
    found = []
    module = importlib.import_module("companion.show")
    monkeypatch.setattr(module, "display", lambda what, **options: found.append((what, options)))
    return found


def test_a_figure_is_saved_and_shown_with_its_words(tmp_path, shown):
    figure = figures.curves(pd.DataFrame({"Uniform": [1.0, 0.5]}, index=[1, 2]), label="loss")
    show(figure, "f", tmp_path, says="it falls to 0.5.", how="A line.")
    (head, _), (picture, options) = shown
    assert head.data == "**It falls to 0.5.** A line."
    assert picture["text/plain"] == "It falls to 0.5. A line."
    assert picture["image/png"].startswith(b"\x89PNG")
    assert options["metadata"]["image/png"]["alt"] == picture["text/plain"]
    assert {path.name for path in tmp_path.iterdir()} == {"f.svg", "f.png"}


def test_a_table_is_saved_with_its_numbers(tmp_path, shown):
    table = pd.DataFrame({"loss": ["0.500 [0.4, 0.6]"]}, index=pd.Index(["Uniform"], name="method"))
    numbers = pd.DataFrame({"method": ["Uniform"], "mean": [0.5]})
    show(table, "t", tmp_path, says="Half.", numbers=numbers)
    assert shown[1][0] is table
    assert (tmp_path / "t.csv").read_text() == "method,mean\nUniform,0.5\n"
    assert "| Uniform" in (tmp_path / "t.md").read_text()
    show(table, "u", None, says="αVIL is half.")
    assert shown[2][0].data == "**αVIL is half.**"
    assert not (tmp_path / "u.csv").exists()
