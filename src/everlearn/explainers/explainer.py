"""What all explainers share: the call, the target, and a model that is afterwards as it was before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.explainers.layers import FeatureMap, forward_with_maps
from everlearn.metrics.confidence import KINDS, confidence, log_odds, outputs, probabilities, target_logits


class Explainer:
    """From a model's decision to a map over the picture: `attribute`, as in Captum.

    A method is a subclass with its own `explain_one`.

    Parameters
    ----------
    model : nn.Module
        Normalised pictures ``[n, C, H, W]`` in, ``[n, classes]`` logits out.
    layers : sequence of str, optional
        Names of the submodules to explain by; by default they are found (`everlearn.explainers.layers`).
    chunk : int
        Perturbed pictures computed at once: the bound on memory. A processor's cache likes few, an accelerator many.
    confidence : {"auto", "softmax", "sigmoid", "none"}
        How outputs become confidences: "sigmoid" for several labels at once, "none" for regression.

    Attributes
    ----------
    additive : bool
        Whether the map's values are shares of one whole: of a word's tokens they are then summed, else averaged.

    Raises
    ------
    SettingError
        If a setting is out of range.
    """

    additive: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str] | str | None = None,
        chunk: int = 16,
        *,
        confidence: str = "auto",
    ) -> None:
        if chunk < 1:
            raise SettingError(f"chunk is {chunk}; expected 1 or more pictures at once")
        if confidence not in KINDS:
            raise SettingError(f"confidence is {confidence!r}; expected one of {', '.join(KINDS)}")
        self.model = model
        self.layers = [layers] if isinstance(layers, str) else layers
        self.chunk = chunk
        self.kind = confidence

    def attribute(self, inputs: Tensor, target: int | Tensor | None = None) -> Tensor:
        """Maps of what each decision rests on.

        Parameters
        ----------
        inputs : Tensor
            ``[n, C, H, W]`` floating point, normalised as the model expects.
        target : int or Tensor, optional
            The class, or ``[n]`` classes, to explain; by default the one that the model predicts.

        Returns
        -------
        Tensor
            ``[n, 1, H, W]`` float32 on the inputs' device. A model that does not depend on the picture gives zeros.

        Raises
        ------
        SettingError
            If the inputs or the target do not fit the model.
        """
        check_inputs(inputs)
        with torch.inference_mode(False), undisturbed(self.model):  # a caller may stand in inference mode
            inputs = inputs.clone() if inputs.is_inference() else inputs.detach()
            maps = torch.zeros(len(inputs), 1, *inputs.shape[2:], device=inputs.device)
            if len(inputs) == 0:
                return maps
            target = resolve_target(self.model, inputs, target, self.kind, self.chunk)
            for i in range(len(inputs)):
                found = self.explain_one(inputs[i : i + 1], target[i : i + 1])
                maps[i, 0] = torch.nan_to_num(found.detach().float(), nan=0.0, posinf=0.0, neginf=0.0)
        return maps

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]`` of one picture ``[1, C, H, W]`` for ``target [1]``; the model is in evaluation mode."""
        raise NotImplementedError

    # what the methods are built from

    def maps_and_gradients(
        self, x: Tensor, target: Tensor, of: str, *, last: bool = False, pixels: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """For each layer, from large maps to small: the maps A and ∂y/∂A, ``[n, K, h, w]`` float32.

        Parameters
        ----------
        of : {"log-odds", "logit"}
            What y is. The gradient of the log-odds is the confidence's up to a positive factor, and never vanishes.
        last : bool
            Only the last layer.
        pixels : bool
            The inputs too, as the first map.
        """
        x = x.detach().clone().requires_grad_()
        logits, maps = forward_with_maps(self.model, x, self.layers)
        maps = ([FeatureMap(x, "first", (x.shape[2], x.shape[3]))] if pixels else []) + (maps[-1:] if last else maps)
        with torch.enable_grad():
            y = (log_odds if of == "log-odds" else target_logits)(logits, target, self.kind).float().sum()
            gradients = torch.autograd.grad(y, [m.tensor for m in maps], allow_unused=True)
        return [(m.channels_first(), _or_zeros(m, g)) for m, g in zip(maps, gradients)]

    def score(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Ψ ``[n]`` of inputs for one class ``target [1]``, in chunks, without gradient."""
        return confidence(self.model, inputs, target.expand(len(inputs)), self.kind, self.chunk)


def _or_zeros(m: FeatureMap, gradient: Tensor | None) -> Tensor:
    return m.channels_first(torch.zeros_like(m.tensor) if gradient is None else gradient)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule's mode is as it was, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def resolve_target(
    model: nn.Module, inputs: Tensor, target: int | Tensor | None, kind: str = "auto", chunk: int = 64
) -> Tensor:
    """``[n]`` class indices on the inputs' device: the given ones, or those that the model predicts."""
    if target is None:
        with torch.no_grad():
            return torch.cat([probabilities(outputs(model, x), kind).argmax(1) for x in inputs.split(chunk)])
    wanted = torch.as_tensor(target, device=inputs.device)
    if wanted.is_floating_point() or wanted.ndim > 1 or (wanted.ndim == 1 and len(wanted) != len(inputs)):
        found = f"{wanted.dtype} {tuple(wanted.shape)}"
        raise SettingError(f"target is {found}; expected a class index or one for each of {len(inputs)} inputs")
    return wanted.to(torch.int64).expand(len(inputs))


def check_inputs(inputs: Tensor) -> None:
    """Refuse what is not a batch of normalised pictures."""
    if inputs.ndim != 4 or not inputs.is_floating_point():
        found = f"{inputs.dtype} {tuple(inputs.shape)}"
        raise SettingError(f"inputs are {found}; expected normalised floats [n, channels, height, width]")
