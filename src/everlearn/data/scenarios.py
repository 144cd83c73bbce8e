"""Harder streams from any source: shifted domains, a long tail, wrong labels. Each wraps a `Source` and reads nothing.

The tests of a source stay as they are, save that a shifted domain's test samples are shifted like its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from everlearn.data.pictures import Chosen
from everlearn.data.source import Source
from everlearn.errors import SettingError

Picture = NDArray[np.uint8]

_NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)  # standard deviation on the scale 0..1
_BLUR = (0.02, 0.035, 0.05, 0.07, 0.1)  # standard deviation in sides
_OCCLUSION = (0.05, 0.1, 0.2, 0.3, 0.4)  # share of the area
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)  # added on the scale 0..1


def domains(
    source: Source,
    shifts: Sequence[str] = ("none", "noise", "blur", "occlusion", "brightness"),
    seed: int = 0,
) -> Source:
    """Deal the samples evenly to domains, each with its own shift; every sample is in one domain.

    Parameters
    ----------
    source : Source
        Of any kind.
    shifts : sequence of str
        ``none``, ``noise`` (Gaussian), ``blur`` (Gaussian), ``occlusion`` (a grey square somewhere) or ``brightness``
        (added), each with a severity from 1 to 5 behind a colon if it is not 3, as in ``noise:5``, in the manner of
        Hendrycks & Dietterich 2019 (arXiv 1903.12261).
    seed : int
        Of the dealing, and with a sample's number of what is drawn for it.

    Returns
    -------
    Source
        With ``tasks`` numbered in the order of shifts, for `by_task`, and ``sites`` that bear their names, for
        `by_site`. Classes and test parts are dealt evenly too.

    Raises
    ------
    SettingError
        If a shift is unknown or comes twice.

    Examples
    --------
    >>> from everlearn.data import by_task, open_source
    >>> shifted = domains(open_source("builtin:digits"), ["none", "noise:5"])
    >>> [len(task) for task in by_task(shifted).tasks], sorted(set(shifted.sites.tolist()))
    ([719, 719], ['noise:5', 'none'])
    """
    parsed = [_parse(shift) for shift in shifts]
    if not parsed or len(set(shifts)) < len(shifts):
        raise SettingError(f"shifts are {', '.join(shifts) or 'none at all'}; expected one or more, each once")
    rng = np.random.default_rng([seed, 3])
    task = np.zeros(len(source), dtype=np.int64)
    strata = source.labels * 2 + source.test
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        task[members] = (np.arange(len(members)) + rng.integers(len(shifts))) % len(shifts)
    return replace(
        source,
        name=f"{source.name}, domains {', '.join(shifts)}",
        read=_Shifted(source.read, tuple(parsed), task, seed),
        tasks=task,
        sites=np.array(shifts)[task],
    )


def long_tailed(source: Source, ratio: float = 100.0, seed: int = 0) -> Source:
    """Thin out training samples: class c of C keeps n · ratio^(−c/(C−1)) of them, n the largest class's number.

    Cui et al. 2019, *Class-Balanced Loss Based on Effective Number of Samples* (arXiv 1901.05555). A class keeps at
    least one sample, and no more than it has.

    Parameters
    ----------
    source : Source
        Of any kind.
    ratio : float
        The first class's number over the last one's, 1 or more.
    seed : int
        Of which are kept.

    Raises
    ------
    SettingError
        If ratio is below 1.

    Examples
    --------
    >>> from everlearn.data import open_source
    >>> import numpy as np
    >>> tail = long_tailed(open_source("builtin:digits"), ratio=10)
    >>> np.bincount(tail.labels[~tail.test]).tolist()
    [142, 113, 88, 68, 52, 41, 31, 24, 19, 15]
    """
    if not 1 <= ratio < np.inf:
        raise SettingError(
            f"ratio is {ratio}; expected 1 or more times as many samples of the first class as of the last"
        )
    rng = np.random.default_rng([seed, 4])
    train = [np.flatnonzero((source.labels == c) & ~source.test) for c in range(len(source.class_names))]
    most, last = max(len(members) for members in train), max(1, len(train) - 1)
    keep = source.test.copy()
    for c, members in enumerate(train):
        n = max(1, round(most * ratio ** (-c / last)))
        keep[rng.permutation(members)[:n]] = True
    return select(source, np.flatnonzero(keep), f"{source.name}, long-tailed {ratio:g}")


def noisy_labels(source: Source, share: float = 0.2, kind: str = "symmetric", seed: int = 0) -> Source:
    """Give a share of the training samples a wrong label; where it differs from the source's, it is wrong.

    Parameters
    ----------
    source : Source
        Of two classes or more.
    share : float
        Of the training samples, rounded to whole samples.
    kind : {"symmetric", "next"}
        Any other class, equally likely, or always the class behind the true one.
    seed : int
        Of which labels, and which wrong ones.

    Raises
    ------
    SettingError
        If share is outside 0..1, the kind is unknown, or there is one class only.

    Examples
    --------
    >>> from everlearn.data import open_source
    >>> source = open_source("builtin:digits")
    >>> noisy = noisy_labels(source, share=0.1)
    >>> wrong = noisy.labels != source.labels
    >>> int(wrong.sum()), bool(wrong[source.test].any())
    (144, False)
    """
    classes = len(source.class_names)
    if not 0 <= share <= 1:
        raise SettingError(f"share is {share}; expected 0 to 1 of the training samples")
    if kind not in ("symmetric", "next"):
        raise SettingError(f"kind is {kind!r}; expected 'symmetric' or 'next'")
    if classes < 2:
        raise SettingError(f"{source.name} has one class; a wrong label needs another one")
    rng = np.random.default_rng([seed, 5])
    train = np.flatnonzero(~source.test)
    wrong = rng.permutation(train)[: round(share * len(train))]
    labels = source.labels.copy()
    step = rng.integers(1, classes, len(wrong)) if kind == "symmetric" else 1
    labels[wrong] = (labels[wrong] + step) % classes
    return replace(source, name=f"{source.name}, {share:.0%} wrong labels", labels=labels)


def select(source: Source, keep: NDArray[np.int64], name: str) -> Source:
    """A source of some of the samples, in the order given.

    Examples
    --------
    >>> from everlearn.data import open_source
    >>> few = select(open_source("builtin:digits"), np.array([5, 3]), "two digits")
    >>> len(few), few.labels.tolist(), few.names
    (2, [5, 3], ['digits[5]', 'digits[3]'])
    """
    return replace(
        source,
        name=name,
        labels=source.labels[keep],
        names=[source.names[i] for i in keep],
        read=_Selected(source.read, keep),
        test=source.test[keep],
        times=None if source.times is None else source.times[keep],
        tasks=None if source.tasks is None else source.tasks[keep],
        sites=None if source.sites is None else source.sites[keep],
        patients=None if source.patients is None else source.patients[keep],
        regions=None if source.regions is None else source.regions.select(keep, Chosen(source.regions.pictures, keep)),
    )


def shift(picture: Picture, kind: str, severity: int, rng: np.random.Generator) -> Picture:
    """One picture ``[C, H, W]`` of uint8, shifted; arguments as the parts of a shift of `domains`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> shift(np.full((1, 8, 8), 100, np.uint8), "brightness", 1, rng).max()
    np.uint8(126)
    """
    return SHIFTS[kind](picture, severity - 1, rng)


def _noise(picture: Picture, s: int, rng: np.random.Generator) -> Picture:
    return _bytes(picture + 255 * _NOISE[s] * rng.standard_normal(picture.shape))


def _blur(picture: Picture, s: int, rng: np.random.Generator) -> Picture:
    kernel = ImageFilter.GaussianBlur(_BLUR[s] * max(picture.shape[1:]))
    return np.stack([np.asarray(Image.fromarray(channel).filter(kernel)) for channel in picture])


def _occlusion(picture: Picture, s: int, rng: np.random.Generator) -> Picture:
    h, w = picture.shape[1:]
    a, b = round(h * _OCCLUSION[s] ** 0.5), round(w * _OCCLUSION[s] ** 0.5)
    i, j = rng.integers(h - a + 1), rng.integers(w - b + 1)
    out = picture.copy()
    out[:, i : i + a, j : j + b] = 128
    return out


def _brightness(picture: Picture, s: int, rng: np.random.Generator) -> Picture:
    return _bytes(picture + 255 * _BRIGHTNESS[s])


SHIFTS: dict[str, Callable[[Picture, int, np.random.Generator], Picture]] = {
    "none": lambda picture, s, rng: picture,
    "noise": _noise,
    "blur": _blur,
    "occlusion": _occlusion,
    "brightness": _brightness,
}


@dataclass(frozen=True)
class _Shifted:
    """Reads sample i and shifts it as its domain has it, the same way every time; picklable."""

    read: Callable[[int], Picture]
    shifts: tuple[tuple[str, int], ...]
    task: NDArray[np.int64]
    seed: int

    def __call__(self, i: int) -> Picture:
        kind, severity = self.shifts[self.task[i]]
        return shift(self.read(i), kind, severity, np.random.default_rng([self.seed, 6, i]))


@dataclass(frozen=True)
class _Selected:
    """Reads sample i of a selection; picklable."""

    read: Callable[[int], Picture]
    keep: NDArray[np.int64]

    def __call__(self, i: int) -> Picture:
        return self.read(int(self.keep[i]))


def _parse(text: str) -> tuple[str, int]:
    kind, _, severity = text.partition(":")
    if kind not in SHIFTS or severity not in ("", "1", "2", "3", "4", "5"):
        expected = f"expected {', '.join(SHIFTS)}, with a severity from 1 to 5 behind a colon if any"
        raise SettingError(f"there is no shift {text!r}; {expected}")
    return kind, int(severity or 3)


def _bytes(values: NDArray[np.floating]) -> Picture:
    return np.rint(values).clip(0, 255).astype(np.uint8)
