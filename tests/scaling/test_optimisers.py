"""Muon beside PyTorch's own, and who gets which parameter."""

import pytest
import torch

from everlearn.models.language import Language, LanguageConfig
from everlearn.scaling.optimisers import Muon, build, orthogonalise
from everlearn.scaling.settings import Optimiser


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_muon_goes_where_pytorchs_goes(shape, rng):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    start = torch.randn(shape, generator=rng)
    ours, peer = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mine = Muon([ours], lr=0.1, weight_decay=0.1)
    other = torch.optim.Muon([peer], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=rng)
        peer.grad = ours.grad.clone()
        mine.step()
        other.step()
    moved, expected = (ours - start).detach().flatten(), (peer - start).detach().flatten()
    assert torch.cosine_similarity(moved, expected, 0) > 0.999
    assert moved.norm().item() == pytest.approx(expected.norm().item(), rel=0.02)  # theirs iterates in bfloat16


def test_singular_values_come_near_one_matrix_by_matrix(rng):
    stack = torch.randn(3, 12, 20, generator=rng)
    result = orthogonalise(stack)
    assert ((torch.linalg.svdvals(result) - 0.95).abs() < 0.35).all()
    torch.testing.assert_close(result[1], orthogonalise(stack[1]))


def test_muon_has_the_blocks_matrices_and_norms_are_not_decayed():
    config = LanguageConfig(
        layers=2, hidden=16, heads=2, ffn=16, vocab=32, experts=2, top_k=1, expert_ffn=8, dense_layers=1
    )
    named = dict(Language(config).named_parameters())
    muon, adamw = build(named, Optimiser(name="muon"))
    names = {id(p): name for name, p in named.items()}
    held = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert {"blocks.0.attention.q.weight", "blocks.0.feed.up.weight", "blocks.1.feed.experts.down"} <= held
    assert not held & {"embed.weight", "head.weight", "blocks.1.feed.router.weight", "norm.weight"}
    everything = held | {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert everything == set(named)
    for group in build(named, Optimiser())[0].param_groups:
        assert {p.ndim < 2 for p in group["params"]} == {group["weight_decay"] == 0}
