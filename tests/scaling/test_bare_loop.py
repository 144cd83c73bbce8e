"""On one process a run is the loop that anyone would write, bit for bit."""

import torch
from torch import nn
from torch.nn import functional as F

from everlearn.models.language import Language
from everlearn.scaling.data import Sampler, Tokens, token_file
from everlearn.scaling.initialise import initialise
from everlearn.scaling.pretrain import prepare
from everlearn.scaling.train import Training


def test_every_step_is_the_bare_loops(tiny, tmp_path):
    settings = tiny(layout={"micro_batch": 4}, optimiser={"clip": 0.7, "weight_decay": 0.1})
    prepare(settings, tmp_path / "run")
    training = Training(settings, tmp_path / "run")
    text = token_file(tmp_path / "text.txt", tmp_path / "run")

    sampler, model = Sampler([Tokens(text)], 32, seed=1), Language(training.engine.config)
    initialise(model, 1)
    matrices, norms = ([p for p in model.parameters() if (p.ndim > 1) == wanted] for wanted in (True, False))
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        betas=settings.optimiser.betas, eps=settings.optimiser.eps, fused=True)  # fmt: skip
    clipped = 0
    for step in range(12):
        tokens, labels = sampler.batch(step, 4, slice(0, 4))
        loss = F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * ((step + 1) / 3 if step < 3 else 1 - (max(0, step - 8) / 4) ** 0.5)
        optimiser.step()
        optimiser.zero_grad()
        assert training.step() == (loss.item(), norm.item()), f"step {step}"
        clipped += norm.item() > 0.7
    assert 0 < clipped < 12  # both ways were taken
    theirs = training.engine.stages[0].state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
