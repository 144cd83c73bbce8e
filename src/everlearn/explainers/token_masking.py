"""Token masking: SISE on the words of a text.

Sattarzadeh et al. 2021, *Explaining Convolutional Neural Networks through Attribution-Based Input Sampling and
Block-Wise Feature Aggregation* (AAAI 2021, arXiv 2010.00672), with a sentence encoder's hidden states in place of
feature maps. Covered by the patent that `sise` names.

Letters as in `sise`: m mask, t token, Ψ confidence in the target class, A_k channel k of a layer's hidden states, V_l
map of layer l.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError, SettingError
from everlearn.explainers.explainer import Explainer
from everlearn.metrics.confidence import log_odds, outputs
from everlearn.models.sentence_encoder import SentenceEncoder


class TokenMasking(Explainer):
    r"""Channels of hidden states as masks over tokens, scored by the confidence that they leave, layer by layer.

    1. One backward pass gives :math:`\alpha_k = \sum_t \partial\Psi/\partial A_k(t)` of every layer. The ``masks``
       channels with the largest :math:`|\alpha_k|`, turned round where α is negative, are masks: hidden states, unlike
       maps behind a ReLU, speak by being low as well. A mask keeps the ``kept`` share of tokens where the channel is
       highest; the others are not there, since a token at half its weight is none that an encoder has met.
    2. :math:`V_l(t) = \sum_m (\Psi(m) - \bar\Psi)\, m(t) / \sum_m m(t)`, over its largest size. The mean
       :math:`\bar\Psi` is taken off: a text has few tokens, and what all masks share would else drown what tells them
       apart. Below 0 the confidence is lower where the token is kept: it speaks against the class.
    3. The map is the mean of all V_l.

    Tokens that the encoder adds are never masked.

    Parameters
    ----------
    model, chunk, confidence
        As for `Explainer`; a learner of texts.
    layers
        Not used: all of them.
    masks : int
        Of each layer.
    kept : float
        Share of tokens that a mask keeps, between 0 and 1.
    """

    def __init__(self, model: nn.Module, *settings: Any, masks: int = 32, kept: float = 0.5, **more: Any) -> None:
        super().__init__(model, *settings, **more)
        if masks < 2 or not 0 < kept < 1:
            raise SettingError(f"masks is {masks} and kept {kept}; expected 2 or more, and a share between 0 and 1")
        self.masks, self.kept = masks, kept

    def explain_one(self, x: Tensor, target: Tensor) -> Tensor:
        """Map ``[1, T]`` over tokens, −1 to 1."""
        encoder = encoder_of(self.model)
        present = int((x[0, -1, 0] > 0).sum())
        inside = slice(encoder.before, present - encoder.behind)
        E = torch.zeros(x.shape[2:], device=x.device)
        layers = self._states_and_gradients(encoder, x, target)
        for A, gradient in layers:
            V = self.layer_map(x, target, inside, A[0, inside], gradient[0, inside])
            E[0, inside] += V / len(layers)
        return E

    def layer_map(self, x: Tensor, target: Tensor, inside: slice, A_td: Tensor, gradient_td: Tensor) -> Tensor:
        """V_l over the tokens inside, −1 to 1."""
        alpha = gradient_td.sum(0)
        chosen = alpha.abs().topk(min(self.masks, len(alpha))).indices
        channels = (A_td[:, chosen] * alpha[chosen].sign()).T
        highest = channels.topk(max(1, round(self.kept * channels.shape[1])), dim=1).indices
        m = torch.zeros_like(channels).scatter_(1, highest, 1.0).unique(dim=0)
        if len(m) < 2:
            return torch.zeros_like(A_td[:, 0])
        psi = []
        for part in m.split(self.chunk):
            weight = x.new_ones(len(part), x.shape[3])
            weight[:, inside] = part.to(x.dtype)
            psi.append(self.score(x * weight[:, None, None], target))
        scores = torch.cat(psi) - torch.cat(psi).mean()
        V = (scores @ m) / m.sum(0).clamp(min=1)
        return V / V.abs().max().clamp(min=torch.finfo(V.dtype).tiny)

    def _states_and_gradients(self, encoder: SentenceEncoder, x: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        with torch.enable_grad(), encoder.recording() as states:
            logits = outputs(self.model, x.detach().clone().requires_grad_())
            y = log_odds(logits, target, self.kind).float().sum()
            gradients = torch.autograd.grad(y, states[1:], allow_unused=True)
        found = [(A.detach().float(), g) for A, g in zip(states[1:], gradients)]
        return [(A, torch.zeros_like(A) if g is None else g.float()) for A, g in found]


def encoder_of(model: nn.Module) -> SentenceEncoder:
    """The sentence encoder inside a model."""
    for module in model.modules():
        encoder = getattr(module, "encoder", None)
        if isinstance(encoder, SentenceEncoder):
            return encoder
    raise ModelError(f"{type(model).__name__} has no sentence encoder; token masking explains learners of texts")
