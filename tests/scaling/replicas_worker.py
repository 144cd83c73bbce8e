"""One process of a replica group; group 1 is killed once, in the middle of a step. Leaves its weights behind."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from everlearn.scaling.checkpoint import held_tensors
from everlearn.scaling.pretrain import prepare
from everlearn.scaling.replicas import group
from everlearn.scaling.settings import Settings
from everlearn.scaling.train import Training


def main(config: Path, folder: Path, at: int) -> None:
    settings = Settings.load(config)
    if group() == 0:
        prepare(settings, folder)
    while not list(folder.glob("data/[!.]*.tokens")):
        time.sleep(0.05)
    training = Training(settings, folder)
    passes = training.engine.forward_backward

    def pass_or_die(tokens, labels):
        loss = passes(tokens, labels)
        again = (folder / "killed").exists()
        if group() == 1 and again and not (folder / "healed").exists():
            (folder / "healed").write_text(str(training.state.step))  # the first pass after the second start
        if group() == 0 and training.state.step == at + 10:
            while not (folder / "back").exists():  # so that there is somebody to heal from
                time.sleep(0.05)
        if group() == 1 and training.state.step >= at and not again:
            (folder / "killed").write_text(str(training.state.step))
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    training.engine.forward_backward = pass_or_die
    if (folder / "killed").exists():
        (folder / "back").touch()
    training.run()
    found = held_tensors(training.engine, training.optimisers)
    torch.save({name: x.clone() for name, x in found.items()}, folder / f"weights-{group()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
