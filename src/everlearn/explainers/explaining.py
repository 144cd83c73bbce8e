"""Explain decisions: any explainer by its name, evidence from memory, the faithfulness measured, and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import SettingError
from everlearn.explainers.ada_sise import AdaSISE
from everlearn.explainers.captum_adapter import GradientShap, InputXGradient, IntegratedGradients, Occlusion
from everlearn.explainers.evidence import evidence
from everlearn.explainers.explainer import Explainer, resolve_target, undisturbed
from everlearn.explainers.explanation import Explanation
from everlearn.explainers.frugal_sise import FrugalSISE
from everlearn.explainers.grad_cam import GradCAM
from everlearn.explainers.grad_cam_plus_plus import GradCAMPlusPlus
from everlearn.explainers.integrated_grad_cam import IntegratedGradCAM
from everlearn.explainers.layer_cam import LayerCAM
from everlearn.explainers.refine_cam import RefineCAM
from everlearn.explainers.rise import RISE
from everlearn.explainers.score_cam import ScoreCAM
from everlearn.explainers.sise import SISE
from everlearn.explainers.token_masking import TokenMasking
from everlearn.explainers.token_sampling import TokenSampling
from everlearn.explainers.words import words
from everlearn.learners.learner import Learner
from everlearn.metrics.confidence import confidence as confidence_in
from everlearn.metrics.verdict import measure
from everlearn.metrics.word_faithfulness import measure_words
from everlearn.models import TextModel

EXPLAINERS: dict[str, Callable[..., Explainer]] = {
    "sise": SISE,
    "ada_sise": AdaSISE,
    "frugal_sise": FrugalSISE,
    "grad_cam": GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "integrated_grad_cam": IntegratedGradCAM,
    "layer_cam": LayerCAM,
    "refine_cam": RefineCAM,
    "score_cam": ScoreCAM,
    "rise": RISE,
    "token_sampling": TokenSampling,
    "integrated_gradients": IntegratedGradients,
    "gradient_shap": GradientShap,
    "input_x_gradient": InputXGradient,
    "occlusion": Occlusion,
}
TEXT_EXPLAINERS: dict[str, Callable[..., Explainer]] = {"token_masking": TokenMasking} | {
    name: EXPLAINERS[name] for name in ("integrated_gradients", "gradient_shap", "input_x_gradient", "occlusion")
}

ClassNames = Callable[[int], str] | Mapping[int, str] | Sequence[str]


def explain(
    model: Learner | nn.Module,
    inputs: Tensor,
    target: int | Tensor | None = None,
    explainer: str | Explainer | None = None,
    class_names: ClassNames | None = None,
    *,
    top: int = 3,
    k: int | None = None,
    steps: int = 16,
    random: int | None = None,
    seed: int = 0,
    chunk: int = 16,
    normalise: Callable[[Tensor], Tensor] | None = None,
    confidence: str = "auto",
    cutoff: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> list[Explanation]:
    """Explain decisions: map, evidence, words and measured faithfulness.

    Parameters
    ----------
    model : Learner or nn.Module
        A bare module gives logits ``[n, classes]`` and has no evidence.
    inputs : Tensor
        ``[n, C, H, W]``: uint8, or floating point and then normalised already. Of a learner of texts their bytes.
    target : int or Tensor, optional
        What to explain: label codes for a learner, class indices for a module; by default the prediction.
    explainer : str or Explainer
        A name in ``EXPLAINERS``, or for texts in ``TEXT_EXPLAINERS``, or an explainer over the same model; by default
        "sise", for texts "token_masking".
    class_names : callable, mapping or sequence, optional
        From a label code to its name.
    top, k : int
        Remembered samples for and against, and neighbours that vote (`evidence`).
    steps, random, seed : int
        Of the faithfulness curves: points, random maps (2 or more; 8, and for texts 10 pairs of random orders) and
        their seed. It costs 2 (steps + 1)(random + 1) forwards a picture.
    chunk : int
        Pictures computed at once.
    normalise : callable, optional
        From uint8 to what a bare module takes, if it has no ``normalise`` of its own.
    confidence : {"auto", "softmax", "sigmoid", "none"}
        How outputs become confidences.
    cutoff : float, optional
        Confidence, a probability unless ``confidence`` is "none", below which no finding is drawn: such a picture gets
        an empty map, and words that say so.
    progress : callable, optional
        Called with the steps done and all steps, two a picture: its map, its faithfulness.
    **settings
        Passed to the explainer, such as ``mu=0.3`` or ``layers=["layer4"]``.

    Returns
    -------
    list of Explanation

    Raises
    ------
    SettingError
        If the explainer is unknown, the target is none of the model's, or bytes cannot be normalised.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> explanation = explain(model, torch.rand(1, 1, 8, 8), class_names=["cat", "dog"])[0]
    >>> explanation.map.shape, explanation.words.split(",")[0] in ("Predicted: cat", "Predicted: dog")
    (torch.Size([1, 8, 8]), True)
    """
    learner = model if isinstance(model, Learner) else None
    if learner and confidence == "auto":
        confidence = "softmax"  # as `Learner.predict`, also when only one class has been seen
    network = _Predictor(learner) if learner else model
    assert isinstance(network, nn.Module)
    x = _prepared(model, inputs, normalise)
    if len(x) == 0:
        return []
    tell = progress or (lambda done, of: None)
    pieces = [model.model.pieces(text) for text in inputs] if learner and isinstance(model.model, TextModel) else None
    explainer = explainer or ("token_masking" if pieces else "sise")
    method = _explainer(explainer, TEXT_EXPLAINERS if pieces else EXPLAINERS, network, chunk, confidence, settings)
    with undisturbed(network):
        wanted = _class_indices(learner, target) if learner else target
        predicted = resolve_target(network, x, None, confidence, chunk)
        classes = predicted if wanted is None else resolve_target(network, x, wanted, confidence, chunk)
        psi = confidence_in(network, x, classes, confidence, chunk).tolist()
        maps, trust = [], []
        for i, p in enumerate(psi):
            xi, ci = x[i : i + 1], classes[i : i + 1]
            draws = cutoff is None or p >= cutoff
            maps.append(method.attribute(xi, ci) if draws else xi.new_zeros(1, 1, *x.shape[2:]).float())
            tell(2 * i + 1, 2 * len(x))
            usual = random or (10 if pieces else 8)
            n, r = (steps, usual) if draws else (1, 2)  # of an empty map there is little to measure
            curves: dict[str, Any] = {"steps": n, "random": r, "seed": seed, "kind": confidence, "chunk": chunk}
            if pieces:
                maps[-1] = pieces[i].of_words(maps[-1][0, 0, 0], method.additive)[None, None, None]
                trust.append(measure_words(network, xi, maps[-1][0, 0, 0], pieces[i].words, ci, **curves))
            else:
                trust += measure(network, xi, maps[-1], ci, **curves)
            tell(2 * i + 2, 2 * len(x))
    cases = evidence(learner, inputs, classes, top, k) if learner else [None] * len(x)
    named = _named(class_names)
    found = []
    for i, c in enumerate(classes.tolist()):
        e = Explanation(
            target=c,
            code=learner.classes.codes[c] if learner else c,
            probability=psi[i],
            predicted=c == int(predicted[i]),
            map=maps[i][0].cpu(),
            evidence=cases[i],
            faithfulness=trust[i],
            words="",
            explainer=explainer if isinstance(explainer, str) else type(explainer).__name__,
            kind=confidence,
            cutoff=cutoff,
            parts=pieces[i].parts if pieces else (),
            rest=pieces[i].rest if pieces else "",
        )
        found.append(replace(e, words=words(e, named)))
    return found


class _Predictor(nn.Module):
    """The learner's classifier, linear or nearest class mean, as a module over normalised pictures."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        if not learner.classes.codes:
            raise SettingError("nothing has been learned yet; observe a batch before explaining")
        self.model = learner.model
        self.logits = learner.logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x)


def _prepared(model: Learner | nn.Module, inputs: Tensor, normalise: Callable[[Tensor], Tensor] | None) -> Tensor:
    if inputs.ndim != 4:
        raise SettingError(f"inputs are {tuple(inputs.shape)}; expected [n, channels, height, width]")
    if isinstance(model, Learner):
        return model.model.normalise(inputs.to(model.device))
    first = next(model.parameters(), None)
    inputs = inputs if first is None else inputs.to(first.device)
    if inputs.is_floating_point():
        return inputs
    normalise = normalise or getattr(model, "normalise", None)
    if normalise is None:
        raise SettingError(
            f"inputs are {inputs.dtype} and {type(model).__name__} does not say how to normalise them; "
            "pass normalised floats, or normalise="
        )
    return normalise(inputs)


def _explainer(
    explainer: str | Explainer,
    known: dict[str, Callable[..., Explainer]],
    network: nn.Module,
    chunk: int,
    kind: str,
    settings: dict[str, Any],
) -> Explainer:
    if isinstance(explainer, Explainer):
        return explainer
    if explainer not in known:
        raise SettingError(f"explainer is {explainer!r}; expected one of {', '.join(known)}")
    return known[explainer](network, chunk=chunk, confidence=kind, **settings)


def _class_indices(learner: Learner, target: int | Tensor | None) -> Tensor | None:
    if target is None:
        return None
    asked = torch.as_tensor(target)
    codes = learner.classes.codes
    unknown = [c for c in asked.reshape(-1).tolist() if c not in codes]
    if unknown:
        raise SettingError(f"target is {unknown[0]}; the learner has seen the label codes {codes}")
    return torch.tensor([codes.index(c) for c in asked.reshape(-1).tolist()], dtype=torch.int64).reshape(asked.shape)


def _named(class_names: ClassNames | None) -> Callable[[int], str]:
    if class_names is None:
        return lambda code: f"class {code}"
    if callable(class_names):
        return class_names
    known: Mapping[int, str] = class_names if isinstance(class_names, Mapping) else dict(enumerate(class_names))
    return lambda code: str(known.get(code, f"class {code}"))
