import time

import pytest

from mtlkit import progress


@pytest.fixture
def logged(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(progress, "_logged", lambda: True)


def test_log_lines_say_what_is_left(logged, monkeypatch, capsys):
    clock = iter([0, 40, 80, 120, 160])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert list(progress.progress(range(4), "work")) == [0, 1, 2, 3]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("work: 2 of 4, 1 min left, ends ")
    assert second == "done: work"


def test_nothing_is_shown_where_it_is_switched_off(logged, monkeypatch, capsys):
    with progress.quiet():
        assert list(progress.progress(range(4), "work")) == [0, 1, 2, 3]
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert list(progress.progress(range(4), "work")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("TQDM_DISABLE")
    assert list(progress.progress(range(1), "work")) == [0]
    assert capsys.readouterr().err == "done: work\n"


def test_no_bar_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert list(progress.progress(range(4), "work")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""
