"""Safe decoding of one picture: a file of any usual kind becomes uint8 ``[C, H, W]`` as wanted, or a `DataError`.

How a picture is brought to shape:

- **Size**: the largest centred part with the wanted sides' ratio is resized to it, bilinear with antialiasing. For a
  square that is the usual "resize the shorter side, crop the centre": what is round stays round, no frame is added.
- **Colour**: CMYK, palette and the like become RGB; one channel is wanted: luma (ITU-R 601); three are wanted of a grey
  picture: the grey three times. What is transparent turns black.
- **16 bits**: 0..65535 becomes 0..255, whatever part of the range the picture uses, so that pictures stay comparable.
- **EXIF**: the picture is turned upright. Of several frames or pages the first is read.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from everlearn.errors import DataError

MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_PLUGINS = (JpegImagePlugin, PngImagePlugin, BmpImagePlugin, TiffImagePlugin, WebPImagePlugin)  # imported, so known
_FORMATS = ["JPEG", "PNG", "BMP", "TIFF", "WEBP"]  # those that Pillow decodes itself, no helper program started
_ORIENTATION = 0x0112

Shape = tuple[int, int, int]
"""(C, H, W)."""


def decode_picture(
    path: str | Path, shape: Shape, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> NDArray[np.uint8]:
    """Read one picture file.

    Parameters
    ----------
    path : str or Path
        JPEG, PNG, BMP, TIFF or WebP; the content decides, not the name.
    shape : (C, H, W)
        Wanted; C is 1 or 3.
    max_pixels, max_bytes : int
        Larger pictures and files are refused before anything is decoded.

    Returns
    -------
    array of uint8
        ``[C, H, W]``.

    Raises
    ------
    DataError
        If the file is missing, no picture, damaged, truncated, or too large.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (64, 48), 200).save(folder + "/grey.png")
    ...     decode_picture(folder + "/grey.png", (3, 32, 32)).shape
    (3, 32, 32)
    """
    check_file(path, max_bytes)
    with one_line(path):
        return fit(_decoded(path, shape, max_pixels), shape)


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Image.Image:
    """Decode one picture file, upright, in the mode and size it has."""
    check_file(path, max_bytes)
    with one_line(path):
        return _decoded(path, None, max_pixels)


def fit(image: Image.Image, shape: Shape) -> NDArray[np.uint8]:
    """Bring a decoded picture to uint8 ``[C, H, W]``, as the head of this module says."""
    channels, height, width = shape
    image = plain(image)
    if channels == 1:
        image = image.convert("L")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, box=_centre(image.size, width / height))
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], channels, axis=0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def plain(image: Image.Image) -> Image.Image:
    """The picture as 8-bit grey ("L") or RGB."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA")
        layers = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, layers).convert("L" if grey else "RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def is_grey(image: Image.Image, tolerance: int = 2) -> bool:
    """Whether a picture shows no colour, however it is stored; lossy compression may leave a difference of 1 or 2."""
    image = plain(image)
    if image.mode == "L":
        return True
    pixels = np.asarray(image).astype(np.int16)
    return int((pixels.max(2) - pixels.min(2)).max()) <= tolerance


def check_file(path: str | Path, max_bytes: int = MAX_BYTES) -> None:
    """Refuse what is no regular file, is empty, or is too large."""
    try:
        status = os.stat(path)  # noqa: PTH116  # as everywhere on the way of one sample: pathlib costs time
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from None
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder; expected a file with one picture")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is no regular file; expected a file with one picture")
    if status.st_size == 0:
        raise DataError(f"{path}: the file is empty")
    if status.st_size > max_bytes:
        raise DataError(f"{path}: the file has {status.st_size:,} bytes; the limit is {max_bytes:,}")


def check_pixels(path: str | Path, width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture by the size its header states."""
    if width * height > max_pixels:
        raise DataError(f"{path}: the picture has {width} × {height} pixels; the limit is {max_pixels:,} pixels")
    if width < 1 or height < 1:
        raise DataError(f"{path}: the picture has {width} × {height} pixels")


@contextmanager
def one_line(path: str | Path) -> Iterator[None]:
    """What a decoder raises on damaged or hostile bytes becomes one line with the file's name; no warning gets out."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")
            yield
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(f"{path}: not a picture that can be read; expected JPEG, PNG, BMP, TIFF or WebP") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: the picture has far more pixels than the limit of {MAX_PIXELS:,}") from None
    except Exception as error:  # parsers of hostile bytes raise anything: struct.error, SyntaxError, MemoryError …
        raise DataError(f"{path}: damaged picture ({_reason(error)})") from None


def _decoded(path: str | Path, near: Shape | None, max_pixels: int) -> Image.Image:
    """With ``near``, a far larger JPEG is decoded at half size or less, at least twice that shape: much faster."""
    with Image.open(path, formats=_FORMATS) as image:
        width, height = image.size
        check_pixels(path, width, height, max_pixels)
        if near is not None and min(width, height) >= 4 * max(near):
            image.draft(None, (2 * max(near), 2 * max(near)))
        image.load()
        if ("exif" in image.info or image.format == "TIFF") and image.getexif().get(_ORIENTATION, 1) != 1:
            return ImageOps.exif_transpose(image)
        return image


def _reason(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return (text or type(error).__name__)[:300]


def _centre(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The largest centred box with the given width/height."""
    width, height = size
    w, h = min(width, height * ratio), min(height, width / ratio)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _to_8_bits(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    values = pixels.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also where a value is not a number
        raise DataError(f"the picture's values go from {low:g} to {high:g}; expected 8 bits or 16 (0..65535)")
    if pixels.dtype.kind == "f" and 0 < high <= 1:
        raise DataError(f"the picture's values are fractions up to {high:g}; save it with 8 or 16 bits")
    return np.rint(values / 257).astype(np.uint8)
