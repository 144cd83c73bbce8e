"""Otsu's threshold: the split of values into two groups that differ most."""

from __future__ import annotations

import torch
from torch import Tensor


def otsu_threshold(values: Tensor) -> Tensor:
    r"""Threshold with the largest between-class variance, exact over all values (no histogram).

    Over all splits of the sorted values into :math:`n_0` low and :math:`n_1` high ones with means :math:`\mu_0, \mu_1`,
    maximise :math:`n_0 n_1 (\mu_1 - \mu_0)^2` (Otsu 1979, *A Threshold Selection Method from Gray-Level Histograms*).

    Parameters
    ----------
    values : Tensor
        ``[..., N]``, N ≥ 1; each row has its own threshold.

    Returns
    -------
    Tensor
        ``[...]``: the largest value of the low group; what exceeds it is high. For equal values that value.

    Examples
    --------
    >>> import torch
    >>> otsu_threshold(torch.tensor([0.1, 0.2, 0.15, 0.9, 0.8])).item()
    0.20000000298023224
    """
    x = values.sort(dim=-1).values
    n = x.shape[-1]
    if n == 1:
        return x[..., 0]
    low_sum = x.to(torch.float64).cumsum(-1)
    n0 = torch.arange(1, n, device=x.device, dtype=torch.float64)
    n1 = n - n0
    difference = (low_sum[..., -1:] - low_sum[..., :-1]) / n1 - low_sum[..., :-1] / n0
    between = n0 * n1 * difference**2
    # a split inside equal values is none
    between = torch.where(x[..., 1:] > x[..., :-1], between, -1.0)
    return x.gather(-1, between.argmax(-1, keepdim=True))[..., 0]
