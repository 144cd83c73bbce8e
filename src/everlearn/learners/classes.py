"""Label codes and class indices: an index is given in order of discovery and never changes."""

from __future__ import annotations

import torch
from torch import Tensor

from everlearn.errors import DataError

_LARGEST_CODE = 10**7


class Classes:
    """The codes seen so far; class index = position in ``codes``.

    Examples
    --------
    >>> import torch
    >>> classes = Classes()
    >>> classes.indices(torch.tensor([7, 3, 7])).tolist(), classes.codes
    ([0, 1, 0], [7, 3])
    """

    def __init__(self, codes: list[int] | None = None) -> None:
        self.codes: list[int] = []
        self._index_of = torch.full((16,), -1, dtype=torch.int64)
        for code in codes or []:
            self._add(code)

    def indices(self, labels: Tensor) -> Tensor:
        """Class indices ``[n]`` of label codes ``[n]``; codes not seen before get the next indices."""
        if len(labels) and int(labels.max()) > _LARGEST_CODE:
            raise DataError(f"label code {int(labels.max())} is too large; number classes 0 … {_LARGEST_CODE}")
        labels = labels.cpu()
        if len(labels) == 0:
            return labels
        if int(labels.max()) >= len(self._index_of) or bool((self._index_of[labels] < 0).any()):
            for code in labels.tolist():
                self._add(code)
        return self._index_of[labels]

    def _add(self, code: int) -> None:
        if code >= len(self._index_of):
            more = max(code + 1, 2 * len(self._index_of)) - len(self._index_of)
            self._index_of = torch.cat([self._index_of, torch.full((more,), -1, dtype=torch.int64)])
        if self._index_of[code] < 0:
            self._index_of[code] = len(self.codes)
            self.codes.append(code)
