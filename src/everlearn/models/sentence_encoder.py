"""A frozen sentence encoder out of a local folder in the format of sentence-transformers or Hugging Face.

Reimers & Gurevych 2019, *Sentence-BERT* (arXiv 1908.10084). The transformer itself is Hugging Face's; nothing is
fetched, nothing is unpickled, no code of the folder's is run.

A text becomes its words' embeddings, ``[d + 1, 1, T]``: channels of width d over T tokens, less the embedding of the
mask token, and a last channel that says how much a token counts, 1. Zero is a token that is not there: attention passes
it over, and so does the mean. In this shape a sentence is explained as a picture is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everlearn.errors import ModelError, SettingError

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
_MASKS = ("[MASK]", "<mask>", "[PAD]", "<pad>")
_NOTHING = 1e-6  # a token of less weight is not there
_NEVER = -1e4


class SentenceEncoder:
    """From texts to features; weights never change: they are in no state and no copy, and every text is encoded once.

    A text is encoded by itself, not in a batch: its features are the same bits whatever comes with it, and a run that
    is resumed, with nothing encoded yet, goes on exactly.

    Parameters
    ----------
    folder : Path
        With ``config.json``, ``model.safetensors`` and ``tokenizer.json``; ``1_Pooling/config.json`` and
        ``modules.json`` are heeded where they are there: the mean over tokens or the first, made unit length or not.
    kept : int
        Features kept, of the texts used last.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    SettingError
        If transformers is not installed.
    """

    def __init__(self, folder: Path, kept: int = 50_000) -> None:
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder} is no sentence encoder: it has no {missing[0]}; expected {', '.join(NEEDED)}")
        self.folder, self.kept = folder, kept
        self.transformer, self.tokenizer = _load(folder)
        known = _json(folder / "sentence_bert_config.json") | {}
        limit = int(getattr(self.transformer.config, "max_position_embeddings", 512))
        self.longest = min(int(known.get("max_seq_length") or limit), limit)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.longest)
        self.first_token = bool(_json(folder / "1_Pooling" / "config.json").get("pooling_mode_cls_token"))
        self.unit_length = "Normalize" in (_text(folder / "modules.json") or "Normalize")
        self.words: nn.Embedding = self.transformer.get_input_embeddings()
        self.d = int(self.words.weight.shape[1])
        self.feature_dim = int(self.transformer.config.hidden_size)
        around = self.tokenizer.encode("a").special_tokens_mask
        self.before, self.behind = around.index(0), around[::-1].index(0)  # tokens that are added to every text
        self._base = next((i for t in _MASKS if (i := self.tokenizer.token_to_id(t)) is not None), 0)
        self._features: OrderedDict[tuple[str, bool], Tensor] = OrderedDict()
        self._states: list[Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SentenceEncoder:
        return self  # frozen: a copy would be the same

    @cached_property
    def mark(self) -> Tensor:
        """Eight bytes ``[8]`` that tell these weights and this tokenizer from others."""
        found = hashlib.sha256()
        for name in NEEDED:
            found.update((self.folder / name).read_bytes())
        return torch.tensor(list(found.digest()[:8]), dtype=torch.uint8)

    def encode(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Features ``[n, d]`` of texts, each computed once."""
        reduced = torch.is_autocast_enabled(device.type)
        rows = []
        for text in texts:
            key = (text, reduced)
            if key not in self._features:
                with torch.inference_mode(False), torch.no_grad():
                    self._features[key] = self.features(self.embed([text], device))[0].float()
                if len(self._features) > self.kept:
                    self._features.popitem(last=False)
            self._features.move_to_end(key)
            rows.append(self._features[key])
        return torch.stack(rows) if rows else torch.zeros(0, self.feature_dim, device=device)

    def embed(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Texts as float ``[n, d + 1, 1, T]``, T the tokens of the longest; behind the end of a text all is zero."""
        ids = [self.tokenizer.encode(text).ids for text in texts]
        out = torch.zeros(len(ids), self.d + 1, 1, max(map(len, ids), default=1), device=device)
        self._to(device)
        with torch.inference_mode(False), torch.no_grad():
            for row, tokens in zip(out, ids):
                found = self.words(torch.tensor([self._base, *tokens], device=device)).float()
                row[: self.d, 0, : len(tokens)] = (found[1:] - found[0]).T
                row[self.d, 0, : len(tokens)] = 1
        return out

    def features(self, x: Tensor) -> Tensor:
        """Features ``[n, d]`` of embedded texts ``[n, d + 1, 1, T]``.

        The last channel w, 0 to 1, weighs a token: attention's logits get log w, and the mean is weighted by it. At 0
        the token is not there.
        """
        self._to(x.device)
        x = x[:, :, 0].transpose(1, 2)
        w = x[..., self.d].clamp(0, 1)
        base = self.words.weight[self._base].detach()
        embedded = base + x[..., : self.d]
        whole = not x.requires_grad and bool((w == 1).all())
        bias = torch.where(w > _NOTHING, w.clamp(min=_NOTHING).log(), _NEVER)[:, None, None, :]
        try:
            out = self.transformer(
                inputs_embeds=embedded.to(base.dtype),
                attention_mask=None if whole else bias.expand(-1, 1, w.shape[1], -1),
                output_hidden_states=self._states is not None,
            )
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(self.transformer).__name__
            raise ModelError(f"{kind} of {self.folder} cannot be run: {str(error).splitlines()[0]}") from error
        if self._states is not None:
            self._states += out.hidden_states
        h = out.last_hidden_state
        pooled = h[:, 0] if self.first_token else (h * w[..., None]).sum(1) / w.sum(1, keepdim=True).clamp(_NOTHING)
        return F.normalize(pooled.float(), dim=1) if self.unit_length else pooled.float()

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Inside, what each layer gives, ``[n, T, d]``, embeddings first, is kept of every pass, with its graph."""
        self._states = []
        try:
            yield self._states
        finally:
            self._states = None

    def _to(self, device: torch.device) -> None:
        if self.words.weight.device != device:
            self.transformer.to(device)


def encoder_folder(name: str) -> Path | None:
    """The folder of an encoder: a path, or an installed package that carries one; None where it is neither.

    Examples
    --------
    >>> encoder_folder("slim_resnet18") is None
    True
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    found = importlib.util.find_spec(name.replace("-", "_")) if name.replace("-", "_").isidentifier() else None
    for folder in (found.submodule_search_locations if found else None) or []:
        for inside in (Path(folder), *sorted(p for p in Path(folder).iterdir() if p.is_dir())):
            if all((inside / file).is_file() for file in NEEDED):
                return inside
    return None


def _load(folder: Path) -> tuple[Any, Any]:
    try:
        from tokenizers import Tokenizer
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise SettingError(f"texts need {error.name}; install it with: pip install 'everlearn[text]'") from None
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # both libraries raise anything on a damaged file
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder} cannot be loaded as a sentence encoder: {reason}") from error
    finally:
        logging.set_verbosity(before)
    return model.eval().float().requires_grad_(False), tokenizer


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {file}: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(file) or "{}")
    except ValueError as error:
        raise ModelError(f"{file} is damaged: {error}") from error
    return found if isinstance(found, dict) else {}
