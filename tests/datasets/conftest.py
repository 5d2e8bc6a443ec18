"""No test downloads anything or looks into the user's cache; real data come from $MTLKIT_DATA only."""

import os
from pathlib import Path

import pytest

from mtlkit.datasets import files

GIVEN = os.environ.get("MTLKIT_DATA")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, no data folder, and no way out but to this machine."""
    folder = tmp_path / "cache"
    download = files.pooch.HTTPDownloader.__call__

    def local_only(self, url, *others, **options):
        if not url.startswith("http://127.0.0.1:"):
            raise OSError("tests do not download")
        return download(self, url, *others, **options)

    monkeypatch.setattr(files.pooch, "os_cache", lambda project: folder)
    monkeypatch.setattr(files.pooch.HTTPDownloader, "__call__", local_only)
    monkeypatch.delenv("MTLKIT_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return folder


@pytest.fixture
def given():
    """The folder of real files that the tests were started with, if any."""
    return GIVEN


@pytest.fixture
def real_data(monkeypatch, given):
    """Use the real files; called with the files that the test needs.

    Without MTLKIT_DATA the test is skipped; with it, a file that is not there fails the test.
    """

    def need(*names):
        if not given:
            pytest.skip("MTLKIT_DATA is not set: not run on the real files")
        for name in names:
            if not (Path(given) / name).is_file():
                pytest.fail(f"no {name} in MTLKIT_DATA ({given})")
        monkeypatch.setenv("MTLKIT_DATA", given)

    return need


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Put bytes into a data folder under the name of a known file, whose hash they then have."""
    folder = tmp_path / "data"

    def put(name, content):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        hash_ = files.hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(files.FILES, name, files.File("http://127.0.0.1:1/none", hash_))
        monkeypatch.setenv("MTLKIT_DATA", str(folder))
        return path

    return put
