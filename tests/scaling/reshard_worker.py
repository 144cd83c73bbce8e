"""Run in several processes: read a run's checkpoint in another layout, and compare whole tensors with a file's."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from everlearn.scaling import optimisers
from everlearn.scaling.checkpoint import Checkpoints, optimiser_tensors, tensors_of
from everlearn.scaling.engine import Engine
from everlearn.scaling.mesh import build_mesh
from everlearn.scaling.processes import connect, leave
from everlearn.scaling.settings import Layout, Settings


def main() -> None:
    run, layout, expected = Path(sys.argv[1]), Layout(**json.loads(sys.argv[2])), Path(sys.argv[3])
    _, world = connect(60)
    settings = Settings.load(run / "config.toml")
    engine = Engine.build(settings.language(257), build_mesh(layout, world), seed=99)
    made = optimisers.build(engine.named_parameters(), settings.optimiser)
    Checkpoints(run / "checkpoints", world=world).load(engine, made)
    tensors = tensors_of(engine) | optimiser_tensors(engine, made)
    whole = {name: (t.full_tensor() if isinstance(t, DTensor) else t).contiguous() for name, t in tensors.items()}
    if not expected.exists() and world == 1:
        save_file({name: tensor.clone() for name, tensor in whole.items()}, expected)
    else:
        held = load_file(expected)
        assert layout.pp > 1 or set(held) == set(whole), set(held) ^ set(whole)
        wrong = [name for name, tensor in whole.items() if not torch.equal(tensor, held[name])]
        assert not wrong, wrong
    leave()


if __name__ == "__main__":
    main()
