"""Inner products of single samples' gradients, from one forward and one backward pass of the batch.

A layer z = W a has for sample i the gradient Gᵢ = Σ_t δᵢₜ aᵢₜᵀ over the places t at which it is applied, with δᵢₜ the
derivative of sample i's own loss by zᵢₜ. Both factors are at hand once the summed loss has been differentiated by every
layer's output (Goodfellow 2015, *Efficient per-example gradient computations*, arXiv 1510.01799), as long as no layer
mixes samples: in evaluation mode BatchNorm does not. Gradients are held for one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from everlearn.models import Model
from everlearn.models.heads import LinearHead


def gradient_products(
    model: Model, inputs: Tensor, targets: Tensor, passed: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Inner products of the gradients of all samples' own cross-entropies, over all trained parameters.

    Models with trained layers other than convolutions, linear layers and BatchNorm take a way that costs several times.

    Parameters
    ----------
    model : Model
        In evaluation mode.
    inputs, targets : Tensor
        ``[n, C, H, W]`` and ``[n]``.
    passed : callable, optional
        How features ``[n, d]``, float32, are computed; by default ``model.features``. Its precision is the products'.

    Returns
    -------
    Tensor
        ``[n, n]`` float32, symmetric, squared lengths on its diagonal.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = Model(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), feature_dim=4).eval()
    >>> model.head.grow(2, torch.Generator().manual_seed(0))
    >>> gradient_products(model, torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])).shape
    torch.Size([3, 3])
    """
    trained = {m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))}
    if all(map(_is_known, trained)):
        layers = trained - {model.head}
        seen: list[tuple[nn.Module, Tensor, Tensor]] = []
        with torch.enable_grad():
            f = _heard(layers, seen, lambda: (passed or model.features)(inputs))
            logits = model.head(f)
            loss = F.cross_entropy(logits.float(), targets, reduction="sum")
        if len(seen) == len(layers):  # each layer once: weights used twice, or not through their layer, would differ
            *deltas, d = torch.autograd.grad(loss, [z for _, _, z in seen] + [logits])
            f = f.detach()
            K = (d @ d.T) * (f @ f.T + 1) if model.head in trained else d.new_zeros(len(d), len(d))
            for (layer, a, _), delta in zip(seen, deltas):
                K += _products(layer, a.detach(), delta)
            return K
    return _one_by_one(model, inputs, targets)


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and set(layer.dilation) == {1} and all(p.requires_grad for p in layer.parameters())
    known = (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, LinearHead)
    return isinstance(layer, known) and all(p.requires_grad for p in layer.parameters())


def _heard(layers: set[nn.Module], seen: list[tuple[nn.Module, Tensor, Tensor]], run: Callable[[], Tensor]) -> Tensor:
    """What ``run`` gives, while the layers' inputs and outputs are written down in ``seen``."""

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append((layer, inputs[0], output))
        return output.clone()  # what follows may change its input in place

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


def _products(layer: nn.Module, a: Tensor, delta: Tensor) -> Tensor:
    """``[n, n]``: the inner products of one layer's gradients, of its inputs and the derivatives by its outputs."""
    n = len(a)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        mean, var = cast(Tensor, layer.running_mean), cast(Tensor, layer.running_var)
        of_channel = (1, -1) + (1,) * (a.dim() - 2)
        a, delta = a.float(), delta.float()
        a = (a - mean.view(of_channel)) * (var + layer.eps).rsqrt().view(of_channel)
        G = torch.cat([(delta * a).reshape(n, len(mean), -1).sum(2), delta.reshape(n, len(mean), -1).sum(2)], 1)
        return G @ G.T
    a = a.to(delta.dtype)
    if isinstance(layer, nn.Conv2d):
        delta, a = delta.movedim(1, -1).flatten(1, 2), _patches(layer, a)
    else:
        delta, a = delta.reshape(n, -1, delta.shape[-1]), a.reshape(n, -1, a.shape[-1])
    G = (delta.transpose(1, 2) @ a).flatten(1)
    if getattr(layer, "bias", None) is not None:
        G = torch.cat([G, delta.sum(1)], 1)
    return (G @ G.T).float()


def _patches(layer: nn.Conv2d, a: Tensor) -> Tensor:
    """``[n, places, kernel · channels]``: what the kernel sees; `F.unfold` takes six times as long here."""
    (down, across), (kh, kw), (sh, sw) = cast("tuple[int, int]", layer.padding), layer.kernel_size, layer.stride
    a = F.pad(a, (across, across, down, down)).movedim(1, -1).contiguous()
    return a.unfold(1, kh, sh).unfold(2, kw, sw).movedim(3, -1).flatten(3).flatten(1, 2)


def _one_by_one(model: Model, inputs: Tensor, targets: Tensor) -> Tensor:
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (x[None],)).float(), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, targets)
    K = inputs.new_zeros(len(inputs), len(inputs), dtype=torch.float32)
    for G in gradients.values():
        K += G.flatten(1) @ G.flatten(1).T
    return K
