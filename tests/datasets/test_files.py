import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from mtlkit.datasets import files

CONTENT = bytes(range(256)) * 1000
NAME = "toy/numbers.bin"
HASH = hashlib.sha256(CONTENT).hexdigest()


class Remote:
    """A distributor on this machine: path to content, with ways to misbehave."""

    def __init__(self):
        self.content, self.asked = {}, []
        self.cut = 0
        self.declare_all = True
        self.meeting = None

    def answer(self, handler):
        self.asked.append(handler.path)
        if self.meeting is not None:
            self.meeting.wait(timeout=60)
        content = self.content.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        cut, self.cut = self.cut, max(self.cut - 1, 0)
        sent = content[: len(content) // 2] if cut else content
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content if self.declare_all else sent)))
        handler.end_headers()
        handler.wfile.write(sent)
        handler.close_connection = True


@pytest.fixture
def remote(monkeypatch):
    served = Remote()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.answer(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.02), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    served.content["/numbers.bin"] = CONTENT
    monkeypatch.setitem(files.FILES, NAME, files.File(f"{served.url}/numbers.bin", HASH))
    monkeypatch.setattr(files, "RETRIES", 0)
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_download_once_then_from_the_cache(remote, cache):
    path = files.fetch(NAME)
    assert path == cache / NAME
    assert files.checked_bytes(NAME, path) == CONTENT
    assert files.fetch(NAME) == path
    assert remote.asked == ["/numbers.bin"]
    assert everything_in(cache) == [NAME]


def test_data_folder_comes_first_and_needs_no_network(remote, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path))
    given = tmp_path / NAME
    given.parent.mkdir()
    given.write_bytes(CONTENT)
    assert files.fetch(NAME) == given
    assert remote.asked == []
    given.unlink()
    assert files.fetch(NAME) == cache / NAME


@pytest.mark.parametrize("declare_all", [True, False])
def test_truncated_download_leaves_nothing(remote, cache, declare_all):
    remote.cut, remote.declare_all = 1, declare_all
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        files.fetch(NAME)
    assert everything_in(cache) == []
    assert files.fetch(NAME).read_bytes() == CONTENT


def test_download_is_tried_again(remote, cache, monkeypatch):
    monkeypatch.setattr(files, "RETRIES", 2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    remote.cut = 2
    assert files.checked_bytes(NAME, files.fetch(NAME)) == CONTENT
    assert len(remote.asked) == 3
    assert everything_in(cache) == [NAME]


def test_wrong_content_from_the_remote_is_refused(remote, cache):
    remote.content["/numbers.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(FileNotFoundError, match="does not match the known hash"):
        files.fetch(NAME)
    assert everything_in(cache) == []


def test_no_file_and_no_network_says_what_to_do(cache, monkeypatch):
    address = "http://127.0.0.1:9/numbers.bin"
    monkeypatch.setattr(files, "RETRIES", 0)
    monkeypatch.setitem(files.FILES, NAME, files.File(address, HASH))
    with pytest.raises(FileNotFoundError) as error:
        files.fetch(NAME)
    for part in (NAME, address, HASH, str(cache / NAME), "MTLKIT_DATA"):
        assert part in str(error.value)


@pytest.mark.parametrize("where", ["data", "cache"])
@pytest.mark.parametrize("position", [0, 100_000, -1])
def test_one_flipped_bit_is_caught(remote, cache, tmp_path, monkeypatch, where, position):
    folder = cache if where == "cache" else tmp_path / "data"
    path = folder / NAME
    path.parent.mkdir(parents=True)
    if where == "data":
        monkeypatch.setenv("MTLKIT_DATA", str(folder))
    damaged = bytearray(CONTENT)
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"numbers.bin has SHA-256 .*, expected {HASH}: it is damaged"):
        files.checked_bytes(NAME, files.fetch(NAME))
    assert path.read_bytes() == damaged
    assert remote.asked == []


def test_data_folder_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("MTLKIT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"MTLKIT_DATA is '.*nowhere', expected an existing folder"):
        files.fetch(NAME)


def archive(**members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"box/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def boxed(remote, monkeypatch):
    packed = archive(one=b"first", two=b"second", damaged=b"thirb")
    remote.content["/box.tar.gz"] = packed
    whole = f"md5:{hashlib.md5(packed).hexdigest()}"
    for name, content in (("one", b"first"), ("two", b"second"), ("damaged", b"third")):
        known = files.File(f"{remote.url}/box.tar.gz", hashlib.sha256(content).hexdigest(), whole, f"box/{name}")
        monkeypatch.setitem(files.FILES, f"box/{name}", known)
    return remote


def test_members_of_an_archive(boxed, cache):
    assert files.checked_bytes("box/one", files.fetch("box/one")) == b"first"
    assert files.checked_bytes("box/two", files.fetch("box/two")) == b"second"
    assert boxed.asked == ["/box.tar.gz"]
    assert everything_in(cache) == ["box.tar.gz", "box/one", "box/two"]
    with pytest.raises(ValueError, match="damaged has SHA-256"):
        files.checked_bytes("box/damaged", files.fetch("box/damaged"))


def test_members_of_a_zip_archive_by_a_name_of_its_own(remote, cache, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("inner/one", b"first")
    remote.content["/box.zip"] = buffer.getvalue()
    known = {
        "address": f"{remote.url}/box.zip",
        "archive_hash": f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()}",
    }
    content = hashlib.sha256(b"first").hexdigest()
    monkeypatch.setitem(files.FILES, "box/one", files.File(sha256=content, member="inner/one", **known))
    monkeypatch.setitem(files.FILES, "box/two", files.File(sha256=content, member="inner/two", **known))
    assert files.checked_bytes("box/one", files.fetch("box/one")) == b"first"
    assert everything_in(cache) == ["box.zip", "box/one"]
    with pytest.raises(FileNotFoundError, match=r"a member of that archive, inner/two\).*no item named 'inner/two'"):
        files.fetch("box/two")
    assert everything_in(cache) == ["box.zip", "box/one"]


def test_truncated_archive_leaves_nothing(boxed, cache):
    boxed.cut = 1
    with pytest.raises(FileNotFoundError, match="a member of that archive"):
        files.fetch("box/one")
    assert everything_in(cache) == []


FETCH = """
import json, sys
from pathlib import Path
import files
files.pooch.os_cache = lambda project: Path(sys.argv[1])
for name, known in json.loads(sys.argv[2]).items():
    files.FILES[name] = files.File(*known)
    print(len(files.checked_bytes(name, files.fetch(name))))
"""


def test_two_processes_at_once(boxed, cache):
    """Each remote file is asked for by both processes before either is answered."""
    known = {name: dataclasses.astuple(files.FILES[name]) for name in (NAME, "box/one")}
    boxed.meeting = threading.Barrier(2)
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parent)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, str(cache), json.dumps(known)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120) for process in both]
    assert [out.split() for out, _ in told] == [[str(len(CONTENT)), "5"]] * 2, told
    assert len(boxed.asked) == 4
    assert everything_in(cache) == ["box.tar.gz", "box/one", NAME]


def test_every_address_and_hash_is_complete():
    for name, file in files.FILES.items():
        assert len(file.sha256) == 64
        assert file.address.endswith(name.rpartition("/")[2]) or len(file.archive_hash) in (4 + 32, 7 + 64)
    assert len({file.sha256 for file in files.FILES.values()}) == len(files.FILES)
