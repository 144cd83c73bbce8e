"""Versions: numbered states of a learner that predict; each a folder ``versions/NUMBER`` like a checkpoint.

A version's files are the same files as its checkpoint's (hard links), so that it costs no second copy. With a store,
any folder or object store that fsspec knows by URL, each version is put there as well before it is entered in the
journal; another machine fetches it into ``fetched/NUMBER``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from everlearn.errors import RunError, SettingError
from everlearn.runs import checkpoints
from everlearn.runs.checkpoints import Progress

KEPT = 12
_FILES = ("state.safetensors", "state.json")  # in this order: the second holds the hash of the first


class Versions:
    """The versions of a run.

    Parameters
    ----------
    run : Path
        The run's directory.
    store : str, optional
        URL of a folder that other machines can read, such as ``s3://bucket/line3`` or ``file:///mnt/line3``.
    """

    def __init__(self, run: Path, store: str | None = None) -> None:
        self.folder, self.fetched = run / "versions", run / "fetched"
        self.store = Store(store) if store else None

    def publish(self, number: int, checkpoint: Path) -> None:
        """Make a checkpoint version ``number``; whole or not at all."""
        beside, target = self.folder / f".writing-{number:08d}", self.folder / f"{number:08d}"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)  # of a writer that died before it could enter it
            beside.mkdir(parents=True)
            for file in checkpoint.iterdir():
                try:
                    os.link(file, beside / file.name)
                except OSError:  # a file system without hard links
                    shutil.copy2(file, beside / file.name)
            beside.rename(target)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise RunError(
                f"cannot write version {target}: {error.strerror or error}; the versions before it are intact"
            ) from error
        if self.store is not None:
            self.store.put(number, target)

    def load(self, number: int) -> tuple[Progress, dict[str, Tensor]]:
        """Read a version, from the store where it is not here or damaged."""
        if self.store is None:
            return checkpoints.load(self.folder, number)
        for folder in (self.folder, self.fetched):
            if (folder / f"{number:08d}").is_dir():
                try:
                    return checkpoints.load(folder, number)
                except RunError:
                    continue
        self.store.get(number, self.fetched / f"{number:08d}")
        return checkpoints.load(self.fetched, number)

    def there(self) -> list[int]:
        """Numbers of the versions that can be read, oldest first; where there is a store, it decides."""
        return checkpoints.steps(self.folder) if self.store is None else self.store.there()

    def drop(self, number: int) -> None:
        """Delete a version's files, here and in the store."""
        for folder in (self.folder, self.fetched):
            shutil.rmtree(folder / f"{number:08d}", ignore_errors=True)
        if self.store is not None:
            self.store.drop(number)

    def tidy(self) -> None:
        """Delete here what another machine has dropped from the store."""
        if self.store is not None:
            known = set(self.store.there())
            for folder in (self.folder, self.fetched) if known else ():  # an empty store is rather one not mounted
                for number in set(checkpoints.steps(folder)) - known:
                    shutil.rmtree(folder / f"{number:08d}", ignore_errors=True)

    def unfetch(self, but: int) -> None:
        """Delete every version that was fetched, but one."""
        for number in checkpoints.steps(self.fetched):
            if number != but:
                shutil.rmtree(self.fetched / f"{number:08d}", ignore_errors=True)


class Store:
    """Versions in a folder or object store.

    Examples
    --------
    >>> Store("memory://everlearn-example").there()
    []
    """

    def __init__(self, url: str) -> None:
        self.url = check_store(url)
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise SettingError("a store needs fsspec; install it with: pip install 'everlearn[store]'") from None
        try:
            self._fs, root = url_to_fs(url)
        except ImportError as error:
            raise SettingError(f"the store {url} cannot be used: {error}") from None
        except (ValueError, OSError) as error:
            raise SettingError(f"the store is {url!r}: {error}; expected one that fsspec knows") from None
        self._root = f"{root.rstrip('/')}/versions"

    def put(self, number: int, folder: Path) -> None:
        """Put a version there; it is whole once its last file is."""
        with self._one_line(f"put version {number}"):
            self._fs.makedirs(self._at(number), exist_ok=True)
            for name in _FILES:
                self._fs.put_file(str(folder / name), f"{self._at(number)}/{name}")

    def get(self, number: int, target: Path) -> None:
        """Fetch a version, whole or not at all."""
        beside = target.with_name(f".fetching-{os.getpid()}-{target.name}")
        try:
            with self._one_line(f"fetch version {number}"):
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                for name in _FILES:
                    self._fs.get_file(f"{self._at(number)}/{name}", str(beside / name))
                shutil.rmtree(target, ignore_errors=True)
                beside.rename(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def there(self) -> list[int]:
        """Numbers of the versions that are there, oldest first."""
        with self._one_line("look for versions"):
            self._fs.invalidate_cache()
            try:
                names = [Path(name).name for name in self._fs.ls(self._root, detail=False)]
            except FileNotFoundError:
                return []
        return sorted(int(name) for name in names if name.isdigit() and len(name) == 8)

    def drop(self, number: int) -> None:
        """Delete a version."""
        with self._one_line(f"delete version {number}"), suppress(FileNotFoundError):
            self._fs.rm(self._at(number), recursive=True)

    def _at(self, number: int) -> str:
        return f"{self._root}/{number:08d}"

    @contextmanager
    def _one_line(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store has errors of its own
            line = " ".join(f"{type(error).__name__}: {error}".split())
            raise RunError(f"cannot {doing}, store {self.url}: {line}") from error


def check_store(url: str) -> str:
    """A store's URL as it may be kept; raises `SettingError` for one that is none, or names a user.

    Examples
    --------
    >>> check_store("s3://bucket/line3")
    's3://bucket/line3'
    """
    scheme, found, rest = url.partition("://")
    if not (found and scheme and rest):
        raise SettingError(f"the store is {url!r}; expected s3://BUCKET/FOLDER, file:///FOLDER or another of fsspec's")
    if "@" in rest.split("/")[0]:
        raise SettingError(
            f"the store's URL ({scheme}://…) names a user; expected none: fsspec's file systems take credentials from "
            "their own environment variables or files"
        )
    return url


def superfluous(numbers: list[int], in_service: int | None, kept: int = KEPT) -> list[int]:
    """Which versions to delete: all but the first, the newest, each tenth of the last hundred, the one in service.

    Examples
    --------
    >>> superfluous([1, 2, 3, 4, 5], in_service=3, kept=1)
    [2, 4]
    """
    newest = max(numbers, default=0)
    stay = {*numbers[:1], *numbers[-kept:], in_service} | {n for n in numbers if n % 10 == 0 and n > newest - 100}
    return [n for n in numbers if n not in stay]
