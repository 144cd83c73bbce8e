"""Is a map over words faithful? Leave words out, or show only some, most important first, and watch the confidence.

Insertion and deletion as for pictures (`everlearn.metrics.faithfulness`), word by word; DeYoung et al. 2020, *ERASER*
(arXiv 1911.03429), call them sufficiency and comprehensiveness. The figure beside is that of random orders of the same
words. They come in pairs, each with its reverse: what one order inserts the other deletes, so a pair costs no more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.metrics.confidence import confidence
from everlearn.metrics.verdict import Faithfulness

_CHANCE = 1e-6


def measure_words(
    model: nn.Module,
    x: Tensor,
    values: Tensor,
    words: Tensor,
    target: Tensor,
    *,
    steps: int = 16,
    random: int = 10,
    seed: int = 0,
    kind: str = "auto",
    chunk: int = 64,
) -> Faithfulness:
    """Insertion and deletion of a map over words and of random orders.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor
        One text's tokens, ``[1, C, 1, T]``; zero is a token that is not there.
    values : Tensor
        ``[W]``, what the map gives each word; equal ones keep the text's order.
    words : Tensor
        ``[T']``: the number of each token's word, −1 for tokens that always stay; T' ≤ T, what is behind stays too.
    target : Tensor
        ``[1]``.
    steps : int
        Parts of W/steps words each, one at least.
    random, seed : int
        Pairs of random orders, 2 or more, and their seed.
    kind, chunk
        As for `everlearn.metrics.faithfulness.insertion_auc`.

    Returns
    -------
    Faithfulness
        "supported": insertion − deletion above that of every random order, which a random map reaches with probability
        1 / (2 random + 2), 4.5 % for 10 pairs; "weak": above their mean, 0; else "not supported".

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[0.0, 4.0, 0.0]]))
    >>> x, words = torch.ones(1, 1, 1, 3), torch.arange(3)
    >>> found = measure_words(model, x, torch.tensor([0.0, 1.0, 0.0]), words, torch.tensor([1]))
    >>> found.insertion > found.random_insertion, found.deletion < found.random_deletion
    (True, True)
    """
    if random < 2:
        raise SettingError(f"random is {random}; expected 2 or more pairs of random orders to compare with")
    W, device = len(values), x.device
    generator = torch.Generator().manual_seed(seed)
    orders = [values.argsort(descending=True, stable=True).cpu()]
    for _ in range(random):
        drawn = torch.randperm(W, generator=generator)
        orders += [drawn, drawn.flip(0)]
    rank_OW = torch.stack(orders).argsort(1)
    steps = max(1, min(steps, W))
    half = torch.linspace(0, W, steps + 1, dtype=torch.float64)
    shown_S = torch.where(half <= W / 2, half.floor(), half.ceil()).long()  # S and W − S words: the same steps reversed
    inserted_OSW = rank_OW[:, None] < shown_S[:, None]
    kept_NW = torch.stack([inserted_OSW, ~inserted_OSW]).flatten(0, 2)
    kept_UW, back_N = kept_NW.unique(dim=0, return_inverse=True)  # the whole text and the empty one come often
    psi = _confidences(model, x, kept_UW.to(device), words.to(device), target, kind, chunk).cpu()
    curves = psi[back_N].reshape(2, 2 * random + 1, steps + 1).double()
    areas = ((curves.sum(2) - (curves[..., 0] + curves[..., -1]) / 2) / steps).tolist()
    scores = [a - b for a, b in zip(*areas)]
    blank = W == 0 or not bool((values != values[0]).any())
    said = "supported" if scores[0] > max(scores[1:]) else "weak" if scores[0] > _CHANCE else "not supported"
    said = "not supported" if blank else said
    return Faithfulness(areas[0][0], areas[1][0], tuple(areas[0][1:]), tuple(areas[1][1:]), said)


def _confidences(
    model: nn.Module, x: Tensor, kept: Tensor, words: Tensor, target: Tensor, kind: str, chunk: int
) -> Tensor:
    """Ψ ``[U]`` of the text with the words that each row of ``kept [U, W]`` keeps."""
    stays = torch.ones(len(kept), x.shape[3], device=x.device, dtype=x.dtype)
    inside = (words >= 0).nonzero().flatten()
    stays[:, inside] = kept[:, words[inside]].to(x.dtype)
    found = [
        confidence(model, x * part[:, None, None], target.expand(len(part)), kind, chunk) for part in stays.split(chunk)
    ]
    return torch.cat(found)
