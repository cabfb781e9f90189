"""Folders in object storage: gs://, s3:// and whatever else fsspec opens; see docs/data.md.

Files are downloaded whole when they are first needed, into a folder on this machine, and are read there: the
readers of ArrayRecord and of latent caches want local files. Processes share that folder. What it holds is
limited; the files of folders that were used longest ago make room.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import filelock

from stp_jax.errors import InputError
from stp_jax.files import cache_folder, size_text

T = TypeVar("T")
FOLDER, LIMIT = "STP_JAX_DOWNLOADS", "STP_JAX_DOWNLOADS_GB"  # environment variables
_DEFAULT_LIMIT = 200.0  # GB
_USED = ".used"  # a file of each folder, whose time is that of its last use
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
_ATTEMPTS = 3  # to download a file
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "mtime", "LastModified", "created")


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is a URL such as gs://bucket/folder; file:// is local."""
    return bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(path))) and not str(path).startswith("file://")


def local_path(path: str | os.PathLike) -> Path:
    """The path of a folder that is not remote; file:// may precede it."""
    return Path(str(path).removeprefix("file://"))


def local_folder(text: str) -> Path:
    """A flag's `type`: the path of a folder that is read or written on this machine alone."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"{text} is not on this machine: give a local folder, and copy it")
    return local_path(text)


def holds(folder: str | os.PathLike, name: str) -> bool:
    """Whether there is a file of this name in a folder, which may be remote.

    Raises:
      InputError: the storage cannot be read.
    """
    if not is_remote(folder):
        return (local_path(folder) / name).is_file()
    try:
        return name in RemoteFolder(str(folder)).sizes
    except InputError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise


def within(path: str | os.PathLike, name: str) -> str | Path:
    """The path of something in a folder, which may be remote."""
    return f"{str(path).rstrip('/')}/{name}" if is_remote(path) else local_path(path) / name


class RemoteFolder:
    """A folder in object storage and the local copies of its files, without its subfolders.

    Attributes:
      sizes: bytes of each file by its name.
      local: where copies of the files are, or will be. Another one, where the remote files are others.

    Raises:
      InputError: it cannot be read, or does not exist.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        listed = _guarded(self.url, lambda: _list(self.url))
        self.sizes = {name: int(entry["size"] or 0) for name, entry in listed.items()}
        stamps = sorted((name, self.sizes[name], _stamp(entry)) for name, entry in listed.items())
        key = sha256(json.dumps([self.url, stamps]).encode()).hexdigest()[:16]
        self.local = _downloads() / f"{re.sub('[^A-Za-z0-9_.-]', '_', self.url.rsplit('/', 1)[-1])}-{key}"

    def require(self, names: Sequence[str]) -> None:
        """Makes room for files, of which each will be fetched when it is needed.

        Raises:
          InputError: one is not there; all of them take more than the limit.
        """
        if missing := [name for name in names if name not in self.sizes]:
            raise InputError(f"{self.url}/{missing[0]}: no such file")
        wanted = sum(self.sizes[name] for name in names)
        limit = _limit()
        if wanted > limit:
            raise InputError(
                f"{self.url}: {size_text(wanted)} would be downloaded to {_downloads()}, but {LIMIT} allows "
                f"{size_text(limit)}: raise it, or mount the bucket"
            )
        with _on_disk(self.local):
            self.local.mkdir(parents=True, exist_ok=True)
            (self.local / _USED).touch()
            with filelock.FileLock(_downloads() / "lock"):
                _make_room(limit - wanted, self.local)

    def fetch(self, name: str) -> Path:
        """The local copy of a file, which is downloaded if it is not there.

        Raises:
          InputError: it cannot be downloaded.
        """
        path = self.local / name
        if not path.is_file():
            with _on_disk(path):
                self.local.mkdir(parents=True, exist_ok=True)
                with filelock.FileLock(self.local / f".{name}.lock"):
                    if not path.is_file():  # another process may have been faster
                        self._download(name, path)
        return path

    def _download(self, name: str, path: Path) -> None:
        url, partial = f"{self.url}/{name}", path.with_name(f".{name}.partial")
        for attempt in range(_ATTEMPTS):
            try:
                _guarded(url, lambda: _get(url, partial))
                break
            except InputError:
                if attempt == _ATTEMPTS - 1 or not self._exists(url):
                    raise
                time.sleep(2**attempt)
        found = partial.stat().st_size
        if found != self.sizes[name]:
            partial.unlink()
            raise InputError(f"{url}: {found:,} bytes came of {self.sizes[name]:,}; give the command again")
        os.replace(partial, path)

    def _exists(self, url: str) -> bool:
        return _guarded(url, lambda: _open_system(url)[0].exists(_open_system(url)[1]))


def download(url: str) -> Path:
    """The local copy of a remote folder, with all of its files."""
    folder = RemoteFolder(url)
    folder.require(list(folder.sizes))
    for name in folder.sizes:
        folder.fetch(name)
    return folder.local


def _open_system(url: str) -> tuple[Any, str]:
    import fsspec  # takes a moment, and most data is local

    return fsspec.core.url_to_fs(url)


def _list(url: str) -> dict[str, dict[str, Any]]:
    """The files in a folder by their names; of what is no folder there are none."""
    system, root = _open_system(url)
    system.invalidate_cache()
    entries = system.ls(root, detail=True)
    files = {
        entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry for entry in entries if entry["type"] == "file"
    }
    if not files:
        raise FileNotFoundError(url)
    return files


def _get(url: str, path: Path) -> None:
    system, where = _open_system(url)
    system.get_file(where, str(path))


def _stamp(entry: dict[str, Any]) -> str:
    return "|".join(str(entry[key]) for key in _STAMPS if key in entry)


def _guarded(url: str, work: Callable[[], T]) -> T:
    """The result of `work`; errors of fsspec and of what it uses become an `InputError` of one line."""
    scheme = url.split("://", 1)[0].lower()
    try:
        return work()
    except FileNotFoundError as error:
        raise InputError(f"{url}: there is no such bucket or folder, or it is empty") from error
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        reason = f"needs a package: pip install {package}" if package else str(error)
    except OSError as error:
        if error.errno == 28:  # the disk of this machine is full
            raise
        reason = _explained(error)
    except Exception as error:  # each system has its own errors
        reason = _explained(error)
    raise InputError(f"{url}: {reason}")


def _explained(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if "Protocol not known" in text:
        return "this kind of URL is not known to fsspec"
    denied = isinstance(error, PermissionError) or re.search(
        r"credential|unauthori[sz]ed|forbidden|access ?denied|\b40[13]\b|anonymous", text, re.IGNORECASE
    )
    if denied:
        return f"access denied ({text}): set up credentials as for the provider's own command line"
    return f"cannot be read ({text})"


# The local folder ------------------------------------------------------------------------------------------


def _downloads() -> Path:
    return Path(os.environ.get(FOLDER) or cache_folder("downloads"))


def _limit() -> float:
    """Bytes that copies may take."""
    text = os.environ.get(LIMIT, "")
    try:
        limit = float(text) if text else _DEFAULT_LIMIT
    except ValueError:
        limit = -1.0
    if not 0 <= limit < 1e9:
        raise InputError(f"{LIMIT} = {text!r}: give a number of GB")
    return limit * 1e9


def _make_room(most: float, but: Path) -> None:
    """Removes the folders used longest ago until the others, but for one, take `most` bytes."""
    folders = [folder for folder in _downloads().iterdir() if (folder / _USED).is_file() and folder != but]
    folders.sort(key=lambda folder: (folder / _USED).stat().st_mtime)
    sizes = {folder: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
    for folder in folders:
        if sum(sizes.values()) <= most:
            return
        shutil.rmtree(folder, ignore_errors=True)
        del sizes[folder]


@contextlib.contextmanager
def _on_disk(path: Path):
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); {FOLDER} names another folder"
        ) from None
