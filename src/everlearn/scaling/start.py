"""Weights to begin with: another run's, a GGUF file's, or those of a folder in Hugging Face's format; any layout."""

from __future__ import annotations

from pathlib import Path

import torch

from everlearn.errors import ModelError, SettingError
from everlearn.models import language_gguf, language_hf
from everlearn.models.language import Language
from everlearn.scaling.checkpoint import load_model
from everlearn.scaling.engine import Engine
from everlearn.scaling.initialise import named, part, where


def begin_with(source: Path, engine: Engine) -> None:
    """Copy the source's weights into an engine; each process reads the whole and keeps its part.

    Raises
    ------
    SettingError
        If there is no such source.
    ModelError
        If its model is not the engine's; says in what.
    """
    weights = dict(model_in(source).named_parameters())
    with torch.no_grad():
        for stage in engine.stages:
            for name, parameter in named(stage):
                name = "embed.weight" if name == "head.weight" and engine.config.tied else name
                found = weights.get(name)
                if found is None or found.shape != parameter.shape:
                    has = "nothing" if found is None else tuple(found.shape)
                    raise ModelError(f"{source} has {has} for {name}; the model's is {tuple(parameter.shape)}")
                held = found if not hasattr(parameter, "device_mesh") else found[where(parameter)]  # type: ignore[arg-type]
                part(parameter).copy_(held)


def model_in(source: Path) -> Language:
    """The model of a run's newest checkpoint, a GGUF file, or a folder with config.json and safetensors."""
    if source.suffix == ".gguf":
        return language_gguf.load(source)
    if (source / "checkpoints").is_dir():
        return load_model(source / "checkpoints")[0]
    if (source / "config.json").is_file():
        return language_hf.load(source)
    raise SettingError(f"start is {source}: neither a run, a .gguf file, nor a folder with config.json")
