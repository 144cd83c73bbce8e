"""Captum's attributions (Integrated Gradients, occlusion, gradient SHAP, …) behind the same call.

Kokhlikyan et al. 2020, *Captum: A unified and generic model interpretability library for PyTorch* (arXiv 2009.07896).
Captum is an optional dependency: ``pip install everlearn[explain]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.explainers.explainer import Explainer
from everlearn.metrics.confidence import outputs, target_logits

METHODS = ("integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion")


class CaptumAdapter(Explainer):
    """One of Captum's methods for the target's logit against a blank picture (zeros), channels summed with their signs.

    Of a text the channels are a token's embedding, so the gradients are those at the embeddings; the blank text has the
    mask token in every place, and an occluded token is not there.

    Absolute values are not taken: they hide what speaks against the class and hurt faithfulness (arXiv 2407.11910).

    Parameters
    ----------
    model, layers, chunk, confidence
        As for `Explainer`; no layer is used.
    method : {"integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion"}
    steps : int
        Points on the path of Integrated Gradients, or samples of gradient SHAP.
    window : int, optional
        Side of the occluded square, by default an eighth of the picture, moved by half its side.
    seed : int
        Of gradient SHAP's draws; the global random states stay as they were.

    Raises
    ------
    SettingError
        If the method is unknown or Captum is not installed.

    Examples
    --------
    >>> import pytest
    >>> captum = pytest.importorskip("captum")
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> CaptumAdapter(model, method="integrated_gradients").attribute(torch.rand(1, 1, 4, 4)).shape
    torch.Size([1, 1, 4, 4])
    """

    additive = True

    def __init__(
        self,
        model: nn.Module,
        *settings: Any,
        method: str = "integrated_gradients",
        steps: int = 32,
        window: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        super().__init__(model, *settings, **more)
        if method not in METHODS:
            raise SettingError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
        if steps < 1 or (window is not None and window < 1):
            raise SettingError(f"steps is {steps} and window is {window}; expected 1 or more")
        self.method, self.steps, self.window, self.seed = method, steps, window, seed

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[H, W]``, of both signs."""
        try:
            from captum import attr
        except ImportError as error:
            raise SettingError("this explainer needs Captum; install everlearn[explain]") from error

        def logit(inputs: Tensor) -> Tensor:
            return target_logits(outputs(self.model, inputs.to(x.dtype)), target.expand(len(inputs)), self.kind)

        with torch.enable_grad(), _seeded(self.seed):
            leaf = x.detach().clone().requires_grad_()
            if self.method == "integrated_gradients":
                call = attr.IntegratedGradients(logit)
                found = call.attribute(leaf, n_steps=self.steps, internal_batch_size=self.chunk)
            elif self.method == "gradient_shap":
                found = attr.GradientShap(logit).attribute(leaf, torch.zeros_like(x), n_samples=self.steps, stdevs=0.0)
            elif self.method == "input_x_gradient":
                found = attr.InputXGradient(logit).attribute(leaf)
            else:
                side = min(self.window or max(1, max(x.shape[2:]) // 8), *x.shape[2:])
                stride = max(1, side // 2)
                call = attr.Occlusion(logit)
                found = call.attribute(
                    x.detach(),
                    sliding_window_shapes=(x.shape[1], side, side),
                    strides=(x.shape[1], stride, stride),
                    perturbations_per_eval=self.chunk,
                )[:, :1]  # all channels go at once, so each carries the whole difference
        return found[0].detach().float().sum(0)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Captum draws from the global states of PyTorch and NumPy: seed both, and put them back."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


IntegratedGradients = partial(CaptumAdapter, method="integrated_gradients")
GradientShap = partial(CaptumAdapter, method="gradient_shap")
InputXGradient = partial(CaptumAdapter, method="input_x_gradient")
Occlusion = partial(CaptumAdapter, method="occlusion")
