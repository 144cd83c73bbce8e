"""Cases: the pictures people look at, from a source or sent to the server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everlearn.data import Source, read_picture
from everlearn.data.decode import SUFFIXES, fit
from everlearn.data.dicom import SUFFIXES as DICOM_SUFFIXES
from everlearn.data.dicom import is_burnt_in, is_dicom, read_header
from everlearn.data.naming import writable
from everlearn.data.pictures import look_at_file
from everlearn.errors import DataError, EverlearnError, NotFoundError
from everlearn.runs import Run
from everlearn.runs.build import build_source
from everlearn.runs.guard import held_out, split
from everlearn.runs.reviews import Reviews, case_name

_LARGEST_SHOWN = 1600


@dataclass(frozen=True)
class Case:
    """A picture to look at: its id, what a person calls it, and the patient's pseudonym where there is one."""

    id: str
    name: str
    patient: str | None = None


class Cases:
    """The worklist's cases.

    Parameters
    ----------
    run : Run
        Read for its configuration, shape and held-out samples.
    reviews : Reviews
        Whose journal keeps what is sent.
    spec : str, optional
        Source or folder; by default the run's held-out samples that are not the guard's.
    limit : int
        Cases, at most.
    salt : bytes
        Of pseudonyms.
    """

    def __init__(self, run: Run, reviews: Reviews, spec: str | None, limit: int, salt: bytes) -> None:
        self.reviews, self.salt = reviews, salt
        self.shape = run.shape
        self._files: list[Path] = []
        self._source: Source | None = None
        self.fault: str | None = None
        if spec is not None and (files := _loose_pictures(Path(spec))):
            self._files = files[:limit]
            self._cases = {
                f"s{i}": Case(f"s{i}", writable(str(f.relative_to(spec)))) for i, f in enumerate(self._files)
            }
            return
        if spec is not None:
            self._source = build_source(run.config, spec, shape=run.shape)
            test = np.flatnonzero(self._source.test)
            indices = test if len(test) else np.arange(len(self._source))
        else:
            try:
                self._source, _, indices = held_out(run)
            except EverlearnError as error:  # on a machine without the run's source there are the cases that were sent
                self.fault = f"the run's own held-out samples are no cases here: {error}"
                self._cases = {}
                return
            _, indices = split(indices, run.config.seed)
        self._root = Path(spec or run.config.data.source)
        patients = self._source.patients
        self._cases = {
            f"s{i}": Case(
                f"s{i}",
                writable(str(self._source.names[i])),
                None if patients is None else self.pseudonym(str(patients[i])),
            )
            for i in indices[:limit].tolist()
        }

    def __len__(self) -> int:
        return len(self._cases) + int(self.reviews.db.value("SELECT COUNT(*) FROM cases"))

    def all(self) -> list[Case]:
        """Every case: first what was sent, newest first, then the source's."""
        rows = self.reviews.rows("SELECT number, name, patient FROM cases ORDER BY number DESC")
        return [Case(f"u{r['number']}", r["name"], r["patient"]) for r in rows] + list(self._cases.values())

    def get(self, id_: str) -> Case:
        """One case, under its one id; raises `NotFoundError` if there is none."""
        name = case_name(id_) or ""
        if name in self._cases:
            return self._cases[name]
        if name.startswith("u"):
            row = self.reviews.db.row("SELECT number, name, patient FROM cases WHERE number = ?", int(name[1:]))
            if row is not None:
                return Case(name, row["name"], row["patient"])
        raise NotFoundError(f"there is no case {id_!r}; see the worklist")

    def picture(self, id_: str) -> Tensor:
        """``[C, H, W]`` uint8 as the model takes it."""
        id_ = self.get(id_).id
        if id_.startswith("u"):
            packed = self.reviews.db.value("SELECT picture FROM cases WHERE number = ?", int(id_[1:]))
            return torch.frombuffer(bytearray(zlib.decompress(packed)), dtype=torch.uint8).reshape(self.shape)
        if self._files:
            return torch.from_numpy(read_picture(self._files[int(id_[1:])], self.shape[0], self.shape[1]))
        assert self._source is not None
        return torch.from_numpy(np.ascontiguousarray(self._source.read(int(id_[1:]))))

    def original(self, id_: str) -> bytes:
        """A PNG of the picture as it is, at most 1600 pixels a side."""
        id_ = self.get(id_).id
        if id_.startswith("u"):
            return bytes(self.reviews.db.value("SELECT original FROM cases WHERE number = ?", int(id_[1:])))
        if self._files:
            return _png(look_at_file(self._files[int(id_[1:])]))
        assert self._source is not None
        file = self._root / str(self._source.names[int(id_[1:])])
        if self._root.is_dir() and file.is_file() and file.resolve().is_relative_to(self._root.resolve()):
            return _png(look_at_file(file))
        return to_png(self.picture(id_))

    def add(self, content: bytes) -> Case:
        """Take in a picture or DICOM file. Pixels alone are kept, no name, header or EXIF; a patient by pseudonym.

        A DICOM file that says of itself that names are written into its pixels is refused.
        """
        picture, original, patient = self.read(content, keep=True)
        digest = hmac.new(self.salt, content, hashlib.sha256).hexdigest()
        with self.reviews.transaction() as db:
            known = db.row("SELECT number, name, patient FROM cases WHERE sha256 = ?", digest)
            if known is None:
                packed = zlib.compress(picture.tobytes(), 1)
                number = db.value(
                    "INSERT INTO cases (at, name, patient, sha256, picture, original) VALUES (?, '', ?, ?, ?, ?) "
                    "RETURNING number",
                    *(time.time(), patient, digest, packed, original),
                )
                db.execute("UPDATE cases SET name = 'sent ' || number WHERE number = ?", number)
                return Case(f"u{number}", f"sent {number}", patient)
        return Case(f"u{known['number']}", known["name"], known["patient"])

    def read(self, content: bytes, *, keep: bool = False) -> tuple[NDArray[np.uint8], bytes, str | None]:
        """What the model takes, a PNG to show, and the patient's pseudonym, of a file's bytes."""
        if not content:
            raise DataError("the file is empty; expected a picture or a DICOM file")
        with _in_memory(content) as path:
            try:
                image = look_at_file(path)
                patient = read_header(path)[1] if is_dicom(path) else ""
                if keep and is_dicom(path) and is_burnt_in(path):
                    raise DataError(
                        "the DICOM file says that names are written into its pixels (Burned In Annotation YES); "
                        "expected one where they were removed"
                    )
            except DataError as error:
                raise DataError(
                    str(error).replace(str(path), "the file sent").removeprefix("the file sent: ")
                ) from None
        return fit(image, self.shape), _png(image), self.pseudonym(patient) if patient else None

    def pseudonym(self, patient: str) -> str:
        """The same for the same patient in this run, and no way back without the run's secret."""
        return pseudonym(self.salt, patient)


def pseudonym(salt: bytes, patient: str) -> str:
    """A patient's pseudonym under a run's secret.

    Examples
    --------
    >>> pseudonym(b"secret", "Jane Doe")
    'p-341473d7bdcdb1a7'
    """
    return "p-" + hmac.new(salt, patient.encode(), hashlib.sha256).hexdigest()[:16]


@contextmanager
def _in_memory(content: bytes) -> Iterator[Path]:
    """A file of what was sent: one without a place on any disk, where the system has such a thing."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("sent"), "wb", buffering=0) as file:
            file.write(content)
            yield Path(f"/proc/self/fd/{file.fileno()}")
        return
    with tempfile.TemporaryDirectory(prefix="everlearn-") as folder:
        (Path(folder) / "sent").write_bytes(content)
        yield Path(folder) / "sent"


def to_png(picture: Tensor) -> bytes:
    """A PNG of ``[C, H, W]`` uint8."""
    pixels = picture.cpu().numpy()
    return _png(Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def as_url(png: bytes) -> str:
    """A PNG as a URL that holds it, for a page that must show it even after it was replaced in memory."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png(image: Image.Image) -> bytes:
    from everlearn.data.decode import plain

    image = plain(image).copy()
    image.info.clear()
    image.thumbnail((_LARGEST_SHOWN, _LARGEST_SHOWN))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _loose_pictures(folder: Path) -> list[Path]:
    """Pictures that lie in a folder without classes; none if it holds folders or is no folder."""
    if not folder.is_dir() or any(path.is_dir() for path in folder.iterdir()):
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES + DICOM_SUFFIXES)
