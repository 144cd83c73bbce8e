"""Does a map answer to the model and hold still for the picture? Infidelity, sensitivity, weight randomisation."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.metrics.confidence import confidence

Attribute = Callable[[Tensor, Tensor], Tensor]  # (inputs, target) → maps [n, 1, H, W]


def infidelity(
    model: nn.Module,
    inputs: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    samples: int = 100,
    square: float = 0.25,
    seed: int = 0,
    kind: str = "auto",
    chunk: int = 64,
) -> Tensor:
    r"""E[(β Iᵀ Φ − (Ψ(x) − Ψ(x − I)))²] over random squares I set to 0; lower is better.

    Yeh et al. 2019, *On the (In)fidelity and Sensitivity of Explanations* (arXiv 1901.09392). Maps have no unit, so
    each is scaled by its best β, as the paper does: :math:`\beta = E[ab]/E[a^2]`, a = Iᵀ Φ, b the change of Ψ. A map
    has one value a pixel, so I counts a pixel once, whatever its channels.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    inputs, maps, target : Tensor
        ``[n, C, H, W]``, ``[n, 1, H, W]``, ``[n]``.
    samples, seed : int
        Random squares, the same for all pictures.
    square : float
        The largest side, as a share of the picture's.
    kind, chunk
        As for `insertion_auc`.

    Returns
    -------
    Tensor
        ``[n]``.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    >>> infidelity(model, torch.ones(1, 1, 8, 8), torch.rand(1, 1, 8, 8), torch.tensor([1])).shape
    torch.Size([1])
    """
    if samples < 1 or not 0 < square <= 1:
        raise SettingError(f"samples is {samples} and square is {square}; expected 1 or more, and a share up to 1")
    n, _, h, w = inputs.shape
    hidden = random_squares(samples, h, w, square, torch.Generator().manual_seed(seed)).to(inputs.device)
    a = torch.einsum("shw,nhw->ns", hidden.double(), maps[:, 0].double())
    before = confidence(model, inputs, target, kind, chunk).double()
    b = torch.zeros(n, samples, dtype=torch.float64, device=inputs.device)
    for i in range(n):
        shown = inputs[i] * ~hidden[:, None]
        b[i] = before[i] - confidence(model, shown, target[i].expand(samples), kind, chunk).double()
    scale = (a * b).mean(1) / (a * a).mean(1).clamp(min=torch.finfo(torch.float64).tiny)
    return ((scale[:, None] * a - b) ** 2).mean(1).float()


def random_squares(n: int, h: int, w: int, largest: float, generator: torch.Generator) -> Tensor:
    """``[n, h, w]`` bools: a square of a random side and place in each."""
    limit = max(1, round(largest * min(h, w)))
    side = torch.randint(1, limit + 1, (n,), generator=generator)
    top = (torch.rand(n, generator=generator) * (h - side + 1)).long()
    left = (torch.rand(n, generator=generator) * (w - side + 1)).long()
    y, x = torch.arange(h)[None, :, None], torch.arange(w)[None, None]
    s, t, u = side[:, None, None], top[:, None, None], left[:, None, None]
    return (y >= t) & (y < t + s) & (x >= u) & (x < u + s)


def sensitivity(
    attribute: Attribute, inputs: Tensor, target: Tensor, *, radius: float = 0.02, samples: int = 10, seed: int = 0
) -> Tensor:
    """The largest relative change of the map, ‖Φ(x + δ) − Φ(x)‖ / ‖Φ(x)‖ over random |δ| ≤ radius; lower is steadier.

    Yeh et al. 2019 (arXiv 1901.09392). It says nothing of truth: a constant map is the steadiest.

    Parameters
    ----------
    attribute : callable
        ``attribute(inputs, target)`` gives maps, such as an explainer's.
    inputs, target : Tensor
        ``[n, C, H, W]`` and ``[n]``.
    radius : float
        In units of the normalised picture.

    Returns
    -------
    Tensor
        ``[n]``; 0 for a map of zeros that stays so.

    Examples
    --------
    >>> import torch
    >>> sensitivity(lambda x, t: torch.ones(len(x), 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2))
    tensor([0., 0.])
    """
    if samples < 1 or not radius > 0:
        raise SettingError(f"samples is {samples} and radius is {radius}; expected 1 or more, and a radius above 0")
    generator = torch.Generator().manual_seed(seed)
    still = attribute(inputs, target).flatten(1).double()
    worst = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for _ in range(samples):
        delta = (torch.rand(inputs.shape, generator=generator) * 2 - 1) * radius
        moved = attribute(inputs + delta.to(inputs), target).flatten(1).double()
        worst = torch.maximum(worst, (moved - still).norm(dim=1))
    return (worst / still.norm(dim=1).clamp(min=1e-12)).float()


def weight_randomisation(
    build: Callable[[nn.Module], Attribute], model: nn.Module, inputs: Tensor, target: Tensor, *, seed: int = 0
) -> list[tuple[str, Tensor]]:
    """Rank correlation of the maps with those of the model whose weights are drawn anew, layer by layer from the head.

    Adebayo et al. 2018, *Sanity Checks for Saliency Maps* (arXiv 1810.03292): a map that stays the same does not
    explain what the model has learned. The given model is not touched; a copy is.

    Parameters
    ----------
    build : callable
        ``build(model)`` gives an ``attribute`` over that model.
    model : nn.Module
    inputs, target : Tensor
        ``[n, C, H, W]`` and ``[n]``.
    seed : int
        Of the new weights; the global random state stays as it was.

    Returns
    -------
    list of (str, Tensor)
        For each layer with weights, from the last registered to the first, its name and Spearman's ρ ``[n]`` once it
        and all before it in the list are random. A constant map has ρ 0.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> build = lambda m: (lambda x, t: m[1].weight[1].detach().reshape(1, 1, 4, 4).expand(len(x), 1, 4, 4))
    >>> [name for name, rho in weight_randomisation(build, model, torch.ones(1, 1, 4, 4), torch.tensor([1]))]
    ['1']
    """
    trained = build(model)(inputs, target)
    other = copy.deepcopy(model)
    found = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, module in reversed(list(other.named_modules())):
            own = list(module.parameters(recurse=False))
            if not own:
                continue
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for p in own:
                    nn.init.normal_(p, std=0.02)
            found.append((name, spearman(trained, build(other)(inputs, target))))
    return found


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation ``[n]`` of maps ``[n, 1, H, W]``; equal values share their mean rank; 0 for a constant map."""
    ra, rb = (torch.stack([_mean_ranks(row) for row in t.flatten(1)]) if len(t) else t.flatten(1) for t in (a, b))
    ra, rb = (r - r.mean(1, keepdim=True) for r in (ra, rb))
    return ((ra * rb).sum(1) / (ra.norm(dim=1) * rb.norm(dim=1)).clamp(min=1e-12)).float()


def _mean_ranks(values: Tensor) -> Tensor:
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count - 1) / 2)[place]
