"""An average of weights that predicts: one-pass learning at a high rate ends wherever its last batches leave it.

Polyak & Juditsky 1992, *Acceleration of Stochastic Approximation by Averaging*; Izmailov et al. 2018, *Averaging
Weights Leads to Wider Optima and Better Generalization* (arXiv 1803.05407), which measures BatchNorm's statistics anew
too: those that the learning model carries along do not fit the average.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from everlearn.learners.follower import Follower
from everlearn.learners.group import Group
from everlearn.memory import Memory
from everlearn.models import Model

_MEASURED = 50
"""Batches that BatchNorm is measured on."""


class AveragedModel(Follower):
    """The learning model's `Follower`, which predicts in its place.

    Parameters
    ----------
    model : Model
        Where the average begins.
    alpha : float
        α, in (0, 1]: the average reaches back about 1/α steps.

    Examples
    --------
    >>> import torch
    >>> from everlearn.models import Model
    >>> model = Model(torch.nn.Flatten(), feature_dim=4)
    >>> model.head.grow(2, torch.Generator().manual_seed(0))
    >>> average = AveragedModel(model, alpha=0.5)
    >>> for value in (0.0, 1.0, 2.0):
    ...     _ = model.head.bias.data.fill_(value)
    ...     average.follow(model)
    >>> average.model.head.bias.tolist()
    [1.25, 1.25]
    """

    def __init__(self, model: Model, alpha: float) -> None:
        super().__init__(model, alpha)
        self._weights: dict[str, Tensor] | None = None

    def changed(self) -> None:
        """Weights or memory have changed: BatchNorm is measured anew when a prediction is wanted."""
        self._weights = None

    def weights(self, model: Model, batches: Iterable[Tensor], group: Group | None = None) -> dict[str, Tensor]:
        """The average, by the names of ``model``'s state, with BatchNorm's statistics measured on ``batches``.

        Parameters
        ----------
        model : Model
            Whose parameters say which of the average's take gradients: attributions go through them.
        batches : iterable of Tensor
            ``[n, C, H, W]`` normalised, n ≥ 2 each; not read where nothing has changed since the last call.
        group : Group, optional
            Whose statistics are averaged.
        """
        if self._weights is None:
            with torch.inference_mode(False), torch.no_grad():
                state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
                self._measure(batches)
                statistics, several = batchnorm_statistics(self.model), group or Group()
                several.add_up(statistics)
                for each in statistics:
                    each /= several.size
                measured = self.model.state_dict()
                self._weights = {name: tensor.clone() for name, tensor in measured.items()}
                self.model.load_state_dict(state)  # what is saved is the average alone, whenever predictions are made
            for name, parameter in model.named_parameters():
                self._weights[name].requires_grad_(parameter.requires_grad)
        return self._weights

    def _measure(self, batches: Iterable[Tensor]) -> None:
        layers = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not layers:
            return
        kept = [layer.momentum for layer in layers]
        for i, batch in enumerate(batches):
            for layer in layers:
                if i == 0:
                    layer.reset_running_stats()
                    layer.momentum = None  # the plain mean over batches
                layer.train()
            self.model.features(batch)
        for layer, momentum in zip(layers, kept):
            layer.momentum = momentum
            layer.eval()


def batchnorm_statistics(model: nn.Module) -> list[Tensor]:
    """Running means and variances of all BatchNorm layers."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    held = [t for layer in layers for t in (layer.running_mean, layer.running_var)]
    return [t for t in held if t is not None]


def remembered_batches(memory: Memory, replay: int, seed: int, newest: float = 1.0) -> Iterator[Tensor]:
    """Pictures as steps see them: ``replay`` out of all of memory, ``newest`` times as many out of its newest tenth."""
    rng = torch.Generator().manual_seed(seed)
    if memory.size < 2:
        return
    order = torch.randperm(memory.size, generator=rng).to(memory.device)
    last = memory.steps[: memory.size].argsort(descending=True, stable=True)[: math.ceil(memory.size / 10)]
    for slots in order.split(replay)[:_MEASURED]:
        recent = torch.randint(len(last), (math.ceil(newest * len(slots)),), generator=rng).to(memory.device)
        yield memory.take(torch.cat([slots, last[recent]])).inputs
