"""What a model's outputs say of one class: the number that explainers and faithfulness metrics measure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError, SettingError

KINDS = ("auto", "softmax", "sigmoid", "none")


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    """Call the model: ``[n, C]``, also where it returns ``[n]`` or an object with ``logits``.

    Raises
    ------
    ModelError
        If what comes out is not one row of numbers for each input.
    """
    out = model(inputs)
    out = getattr(out, "logits", out)
    if isinstance(out, Tensor) and out.ndim == 1 and len(out) == len(inputs):
        out = out[:, None]
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(inputs):
        found = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(f"the model gives {found} for {len(inputs)} inputs; expected one row of outputs for each")
    if out.shape[1] == 0:
        raise ModelError("the model has no outputs yet; learn something first")
    return out


def probabilities(logits: Tensor, kind: str = "auto") -> Tensor:
    """Outputs ``[n, C]`` as confidences, float32 or better.

    Parameters
    ----------
    logits : Tensor
        ``[n, C]``.
    kind : {"auto", "softmax", "sigmoid", "none"}
        "auto" takes the softmax, or for one column the sigmoid. One column under a sigmoid becomes two classes, 0 and
        1. "none" leaves the outputs as they are: regression.

    Returns
    -------
    Tensor
        ``[n, C]``; ``[n, 2]`` for one logit.

    Examples
    --------
    >>> import torch
    >>> probabilities(torch.tensor([[0.0]])).tolist()
    [[0.5, 0.5]]
    """
    if kind not in KINDS:
        raise SettingError(f"confidence is {kind!r}; expected one of {', '.join(KINDS)}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if kind == "none":
        return logits
    if is_binary(logits, kind):
        return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], 1)
    return torch.sigmoid(logits) if kind == "sigmoid" else logits.softmax(1)


def is_binary(logits: Tensor, kind: str) -> bool:
    """Whether one column stands for two classes."""
    return logits.shape[1] == 1 and kind in ("auto", "sigmoid")


def pick(values: Tensor, target: Tensor) -> Tensor:
    """``[n]``: of each row of ``values [n, C]`` the target's.

    Raises
    ------
    SettingError
        If a target is none of 0 … C − 1.
    """
    if len(target) and not 0 <= int(target.amin()) <= int(target.amax()) < values.shape[1]:
        wrong = int(target[(target < 0) | (target >= values.shape[1])][0])
        raise SettingError(f"target is {wrong}; the model has classes 0 … {values.shape[1] - 1}")
    return values.gather(1, target[:, None])[:, 0]


def target_logits(logits: Tensor, target: Tensor, kind: str = "auto") -> Tensor:
    """``[n]`` logits of the target classes; for one logit z it is −z for class 0 and z for class 1."""
    if is_binary(logits, kind):
        logits = torch.cat([-logits, logits], 1)
    return pick(logits, target)


def log_odds(logits: Tensor, target: Tensor, kind: str = "auto") -> Tensor:
    """``[n]`` log(Ψ / (1 − Ψ)) of the target classes, computed without Ψ; for ``kind`` "none" the output itself.

    Its gradient is that of Ψ over Ψ (1 − Ψ) > 0: the same direction, and it does not vanish where Ψ rounds to 1.

    Examples
    --------
    >>> import torch
    >>> log_odds(torch.tensor([[100.0, 0.0]]), torch.tensor([0])).item()
    100.0
    """
    z = target_logits(logits.to(torch.promote_types(logits.dtype, torch.float32)), target, kind)
    if kind in ("none", "sigmoid") or logits.shape[1] == 1:
        return z
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, target[:, None], False)
    return z - logits.to(z.dtype).masked_fill(~others, -torch.inf).logsumexp(1)


def confidence(model: nn.Module, inputs: Tensor, target: Tensor, kind: str = "auto", chunk: int = 64) -> Tensor:
    """Ψ: the confidence ``[n]`` in the target classes ``[n]``, without gradient, ``chunk`` inputs at a time.

    The model's mode is left as it is: put it into evaluation mode before.
    """
    with torch.no_grad():
        parts = [
            pick(probabilities(outputs(model, x), kind), t) for x, t in zip(inputs.split(chunk), target.split(chunk))
        ]
    return torch.cat(parts) if parts else torch.zeros(0, device=inputs.device)
