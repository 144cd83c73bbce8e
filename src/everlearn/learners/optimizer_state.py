"""An optimiser's state as named tensors, and its growth with the head."""

from __future__ import annotations

import torch
from torch import Tensor


def pad(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> None:
    """After parameters grew along their first dimension, let moments grow with them: zeros for the new rows."""
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.ndim == parameter.ndim and value.shape != parameter.shape:
                rows = value.new_zeros(len(parameter) - len(value), *value.shape[1:])
                optimizer.state[parameter][name] = torch.cat([value, rows])


def flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State tensors by ``parameter number.name``; numbers become 0-dimensional float64 tensors."""
    state = {}
    for i, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                state[f"{i}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    return state


def unflatten(optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `flatten` gave."""
    parameters = _parameters(optimizer)
    optimizer.state.clear()
    for key, value in state.items():
        i, _, name = key.partition(".")
        optimizer.state[parameters[int(i)]][name] = value.to(parameters[int(i)].device) if value.ndim else value.clone()


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
