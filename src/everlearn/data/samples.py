"""Samples and batches: what travels from a file to a learner."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everlearn.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Samples stacked in the order of their stream.

    Parameters
    ----------
    inputs : Tensor
        ``[n, C, H, W]`` uint8 pictures (0..255), or the bytes of texts, ``[n, 1, 1, B]``. They stay bytes until the
        model normalises them on its own device.
    labels : Tensor
        ``[n]`` int64 label codes on the CPU: any non-negative integers. A learner gives each code a class index when it
        first sees it.
    ids : Tensor
        ``[n]`` int64 numbers that name the samples within a run.
    task : int or None
        The task the batch belongs to, where the stream has borders that a method may look at.
    end : int
        Position in the stream just behind the last sample, quarantined ones included: where to go on after this batch.
    regions : Tensor, optional
        ``[n, 1, h, w]`` uint8: how far each part of a picture lies in the region that its decision should rest on, 255
        inside; 255 throughout where none is known. Of any size, over the whole picture.

    Raises
    ------
    DataError
        If inputs, labels and ids have different lengths or the wrong type.

    Examples
    --------
    >>> import torch
    >>> batch = Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([3, 1]))
    >>> len(batch), batch.ids.tolist()
    (2, [0, 1])
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor = None  # type: ignore[assignment]  # 0 … n−1 unless given
    task: int | None = None
    end: int = 0
    regions: Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids is None:
            object.__setattr__(self, "ids", torch.arange(len(self.labels)))
        if self.inputs.dtype != torch.uint8 or self.inputs.ndim != 4:
            found = f"{self.inputs.dtype} {tuple(self.inputs.shape)}"
            raise DataError(f"a batch's inputs are {found}; expected uint8 [n, channels, height, width]")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise DataError(f"a batch's labels are {found}; expected int64 [n]")
        if not len(self.inputs) == len(self.labels) == len(self.ids):
            lengths = f"{len(self.inputs)} inputs, {len(self.labels)} labels, {len(self.ids)} ids"
            raise DataError(f"a batch has {lengths}; expected equal numbers")
        if self.regions is not None and (
            self.regions.dtype != torch.uint8 or self.regions.ndim != 4 or self.regions.shape[:2] != (len(self), 1)
        ):
            found = f"{self.regions.dtype} {tuple(self.regions.shape)}"
            raise DataError(f"a batch of {len(self)} has the regions {found}; expected uint8 [n, 1, height, width]")
        if len(self.labels) and int(self.labels.min()) < 0:
            raise DataError(f"a batch has the label {int(self.labels.min())}; expected codes of 0 or more")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: Tensor) -> Batch:
        """Return the samples at the given positions, in that order."""
        regions = None if self.regions is None else self.regions[keep]
        return replace(self, inputs=self.inputs[keep], labels=self.labels[keep], ids=self.ids[keep], regions=regions)
