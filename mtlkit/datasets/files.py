"""Where data files are, where they come from, and the check that they are the right ones.

A file is looked for in the folder ``$MTLKIT_DATA``, then in the user's cache folder, and is
otherwise downloaded into the cache folder from its distributor. In every case its bytes are read
once, hashed, and only then decoded. A file with another hash is neither used nor overwritten.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pooch

RETRIES = 2


@dataclass(frozen=True)
class File:
    """One published file.

    Attributes:
        address: where its distributor publishes it, or the archive (tar or zip) that it is a member of.
        sha256: of its bytes.
        archive_hash: of that archive, with its kind, as pooch takes it; empty for a file that is no archive's member.
        member: name within the archive.
    """

    address: str
    sha256: str
    archive_hash: str = ""
    member: str = ""


_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
_SUPERGLUE = "https://dl.fbaipublicfiles.com/glue/superglue/data/v2/"

_SINGLE = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "adult": (
        f"{_UCI}adult/",
        {
            "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
            "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
        },
    ),
    "parkinsons-telemonitoring": (
        f"{_UCI}parkinsons/telemonitoring/",
        {
            "parkinsons_updrs.data": "f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39",
        },
    ),
    "mrpc": (
        "https://dl.fbaipublicfiles.com/senteval/senteval_data/",
        {
            "msr_paraphrase_train.txt": "2174e11735d71a0f852d51f77fe098baf52ac01a5dfc54b62ddb41b9837b9ebf",
            "msr_paraphrase_test.txt": "51a1f197d8786712d2f0d97700f5be653b7488a96cde00e158159350d23e3d90",
        },
    ),
}
"""Folder to the address below which its files are published, and their SHA-256 by name."""

_ARCHIVED = {
    "cifar-10-batches-py": (
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "md5:c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        {
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        },
    ),
    "superglue/CB": (
        f"{_SUPERGLUE}CB.zip",
        "sha256:8d641383298d54554066ba1c93f56ae7410af75df621b90c63028806bbbbb535",
        "CB",
        {
            "train.jsonl": "32017480d3a10508646e3efd64502c639f13d4d15077f278d2fd0992c33a3126",
            "val.jsonl": "c6125587e9601560cb16ea223c33964c5a915568d2af68a81f651b6ef25395ec",
        },
    ),
    "superglue/COPA": (
        f"{_SUPERGLUE}COPA.zip",
        "sha256:405906cddac74bc1e1ce8220f1107d1025b66a25ef10149d91b10bb30651125f",
        "COPA",
        {
            "train.jsonl": "e74ed25f36119fff954d90900ebbaae277e2cc4864be4b961e7a46c8f67d11a9",
            "val.jsonl": "fa61467cc251010178ed72f8ca82a0fceefc4ca9a85f87ec3b6102955e1a1f1a",
        },
    ),
    "superglue/RTE": (
        f"{_SUPERGLUE}RTE.zip",
        "sha256:6310aab3f000424c9d0318a1ff20692e07c7f4aa15e8f17a5972ea0a35c398b9",
        "RTE",
        {
            "train.jsonl": "fdfb03443abe3ec0424b7fc5d1a8863361719bc061338b7a63e56b94d615f201",
            "val.jsonl": "ab990507bf5f35dc176cba7770a72bfa2c50a88ed72b8cc95cfbf9db95ab1af1",
        },
    ),
    "winogrande": (
        "https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip",
        "sha256:d5699402a41de2b4e6b3c6e2a1e6b4faab2130543a12019a8c5d4f35ec502d47",
        "winogrande_1.1",
        {
            "train_l.jsonl": "4263afcab36b27dc6c3683a60806d3bc11ac593ca1814f27c5b51f9357d399c8",
            "dev.jsonl": "1aeac79cf46a3dcbe59a71ca7e5372a1490cde2b4ae2387dc56f00378104d2e8",
        },
    ),
}
"""Folder to the address and the hash of an archive, the folder within it, and the files' SHA-256 by name."""

FILES = {
    **{
        f"{folder}/{name}": File(f"{address}{name}", sha256)
        for folder, (address, hashes) in _SINGLE.items()
        for name, sha256 in hashes.items()
    },
    **{
        f"{folder}/{name}": File(address, sha256, archive_hash, f"{inner}/{name}")
        for folder, (address, archive_hash, inner, hashes) in _ARCHIVED.items()
        for name, sha256 in hashes.items()
    },
}
"""Path below the data folder to the file that belongs there."""


def needed(*folders: str) -> tuple[str, ...]:
    """The names in :data:`FILES` that lie in these folders."""
    return tuple(name for name in FILES if name.split("/")[0] in folders)


def folders() -> list[Path]:
    """Where files are looked for, in this order; downloads go to the last.

    Raises:
        ValueError: ``$MTLKIT_DATA`` is set but is not a folder.
    """
    cache = Path(pooch.os_cache("mtlkit"))
    given = os.environ.get("MTLKIT_DATA")
    if not given:
        return [cache]
    if not Path(given).is_dir():
        raise ValueError(f"MTLKIT_DATA is {given!r}, expected an existing folder")
    return [Path(given), cache]


def find(name: str) -> Path | None:
    """Where the file ``name`` of :data:`FILES` lies, unchecked; None if it is nowhere yet."""
    return next((folder / name for folder in folders() if (folder / name).is_file()), None)


BLANK = Path("blank")
"""Stands for a file of the right shape without content."""
_BLANKS = contextvars.ContextVar("blanks", default=False)


@contextlib.contextmanager
def blanks() -> Iterator[None]:
    """Within it no file is read: :func:`fetch` answers :data:`BLANK`."""
    token = _BLANKS.set(True)
    try:
        yield
    finally:
        _BLANKS.reset(token)


def fetch(name: str) -> Path:
    """Where the file ``name`` of :data:`FILES` lies, after downloading it if need be.

    Raises:
        FileNotFoundError: it is not there and could not be downloaded.
    """
    return BLANK if _BLANKS.get() else find(name) or _download(name, folders()[-1])


def checked_bytes(name: str, path: Path) -> bytes:
    """The bytes of ``path``, known to be the file ``name`` of :data:`FILES`.

    Raises:
        ValueError: the file has another hash.
    """
    content = path.read_bytes()
    found, expected = hashlib.sha256(content).hexdigest(), FILES[name].sha256
    if found != expected:
        raise ValueError(
            f"{path} has SHA-256 {found}, expected {expected}: it is damaged or another version and was not "
            f"decoded; delete it to have it downloaded from {FILES[name].address}"
        )
    return content


def _download(name: str, cache: Path) -> Path:
    file = FILES[name]
    stored, known = (name, f"sha256:{file.sha256}")
    if file.archive_hash:
        stored, known = file.address.rpartition("/")[2], file.archive_hash
    remote = pooch.Pooch(cache, "", registry={stored: known}, urls={stored: file.address}, retry_if_failed=RETRIES)
    try:
        path = Path(remote.fetch(stored, progressbar=True))
        return _unpack(path, file.member, cache / name) if file.archive_hash else path
    except (OSError, ValueError, KeyError) as error:
        raise FileNotFoundError(
            f"{name} is in none of {', '.join(map(str, folders()))} and could not be downloaded. Get it from "
            f"{file.address}{f' (a member of that archive, {file.member})' if file.archive_hash else ''}, expected "
            f"SHA-256 {file.sha256}, and put it at {cache / name}, or set MTLKIT_DATA to a folder that holds {name}. "
            f"The download said: {error}"
        ) from None


def _unpack(archive: Path, member: str, target: Path) -> Path:
    """One member of a tar or zip archive, moved to ``target`` when it is complete.

    Pooch's own processors write in place, so that a kill leaves half a file, and keep the archive's names.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                content = packed.read(member)
        else:
            with tarfile.open(archive) as packed:
                found = packed.extractfile(member)
                if found is None:
                    raise ValueError(f"{archive}: {member!r} is no file, expected one")
                content = found.read()
        partial = Path(scratch) / "member"
        partial.write_bytes(content)
        partial.replace(target)
    return target
