"""The language model against plain formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from everlearn.errors import ModelError
from everlearn.models.language import Context, Language, LanguageConfig, attend, rotate, turns
from everlearn.models.mixture import Experts, Mixture, Router, grouped, grouped_padded

SMALL = {"layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "ffn": 48, "vocab": 64, "seq_len": 32}


def attention_by_hand(q, k, v, window):
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for head in range(q.shape[2]):
            group = head // (q.shape[2] // k.shape[2])
            for i in range(q.shape[1]):
                first = max(0, i - window + 1) if window else 0
                scores = k[b, first : i + 1, group] @ q[b, i, head] / q.shape[3] ** 0.5
                out[b, i, head] = scores.softmax(0) @ v[b, first : i + 1, group]
    return out


@pytest.mark.parametrize("window", [0, 1, 3, 100])
def test_attention_equals_the_sum_written_out(window, rng):
    q = torch.randn(2, 7, 4, 8, generator=rng)
    k, v = torch.randn(2, 2, 7, 2, 8, generator=rng)
    torch.testing.assert_close(attend(q, k, v, window), attention_by_hand(q, k, v, window))


def test_attention_with_places_is_attention_of_the_part(rng):
    q, k, v = torch.randn(3, 1, 8, 2, 4, generator=rng)
    places = torch.tensor([1, 6, 7])
    whole = attend(q, k, v, 4)
    part = attend(q[:, places], k, v, 4, places=(places, torch.arange(8)))
    torch.testing.assert_close(part, whole[:, places])


def test_rotary_scores_depend_on_the_distance_only(rng):
    q, k = torch.randn(2, 1, 1, 1, 16, generator=rng)

    def score(i, j):
        return (rotate(q, *turns(torch.tensor([i]), 16, 1e4)) * rotate(k, *turns(torch.tensor([j]), 16, 1e4))).sum()

    torch.testing.assert_close(score(5, 2), score(105, 102), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(score(5, 2), score(5, 3))


def test_no_logit_sees_a_later_token():
    torch.manual_seed(0)
    config = LanguageConfig(**SMALL, experts=4, top_k=2, expert_ffn=16, dense_layers=1)
    model = Language(config).eval()
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 64
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


CHOICES = [
    {},
    {"tied": True},
    {"gated": False, "positions": True},
    {"qk_norm": True},
    {"norm_after": True},
    {"experts": 4, "top_k": 2, "expert_ffn": 8, "shared_ffn": 8},
]


@pytest.mark.parametrize("changes", CHOICES)
def test_a_few_steps_lower_the_loss(changes):
    torch.manual_seed(0)
    model = Language(LanguageConfig(**SMALL | changes))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    tokens = torch.randint(64, (4, 17))
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_grouped_products_equal_a_loop(counts, aligned):
    torch.manual_seed(0)
    width = 8 if aligned else 7
    rows, weights = torch.randn(sum(counts), width), torch.randn(len(counts), width, 12)
    expected = torch.cat([part @ w for part, w in zip(rows.split(counts), weights)])
    sizes = torch.tensor(counts)
    torch.testing.assert_close(grouped(rows, weights, sizes), expected, rtol=1e-4, atol=1e-5)
    half = grouped(rows.bfloat16(), weights.bfloat16(), sizes)
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(grouped_padded(rows, weights, sizes), expected, rtol=1e-4, atol=1e-5)


def test_the_mixture_equals_a_loop_over_tokens():
    torch.manual_seed(0)
    layer = Mixture(16, 6, 2, 12, 8, scale=2.5)
    layer.router.bias.normal_()
    x = torch.randn(2, 5, 16)
    expected = []
    for token in x.flatten(0, 1):
        scores = (layer.router.weight @ token).sigmoid()
        chosen = (scores + layer.router.bias).topk(2).indices
        y = layer.shared(token)
        for e in chosen:
            inner = F.silu(token @ layer.experts.gate[e]) * (token @ layer.experts.up[e])
            y = y + 2.5 * scores[e] / scores[chosen].sum() * (inner @ layer.experts.down[e])
        expected.append(y)
    torch.testing.assert_close(layer(x), torch.stack(expected).view_as(x), rtol=1e-4, atol=1e-6)


def test_balance_spreads_tokens_over_experts():
    torch.manual_seed(0)
    router = Router(8, 4, 1, "sigmoid", True, 1.0)
    with torch.no_grad():
        router.weight.copy_(torch.randn(4, 8) + torch.tensor([3.0, 0, 0, 0])[:, None])
    x = torch.rand(400, 8)

    def busiest():
        return router(x)[1].flatten().bincount(minlength=4).max().item() / 400

    before = busiest()
    for _ in range(300):
        router.counts.zero_()
        router(x)
        router.balance(0.01)
    assert before > 0.9
    assert busiest() < 0.4


def test_an_expert_without_tokens_has_no_gradient():
    torch.manual_seed(0)
    experts = Experts(8, 3, 8)
    x, chosen = torch.randn(5, 8), torch.tensor([0, 2, 0, 2, 2])[:, None]
    experts(x, torch.ones(5, 1), chosen).sum().backward()
    assert experts.gate.grad[1].abs().sum() == 0
    assert experts.gate.grad[0].abs().sum() > 0


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_contexts_cover_the_sequence_once(size, balanced):
    parts = [Context(rank, size, balanced).positions(16 // size) for rank in range(size)]
    assert sorted(torch.cat(parts).tolist()) == list(range(16))


def test_global_blocks_are_spread_with_one_last():
    config = LanguageConfig(**SMALL | {"layers": 8, "window": 4, "local_layers": 6})
    assert [config.is_local(i) for i in range(8)] == [True, True, True, False] * 2
    assert not any(LanguageConfig(**SMALL).is_local(i) for i in range(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"hidden": 33}, "hidden 33 does not divide by 4 heads"),
        ({"kv_heads": 3}, "4 heads do not divide by 3 kv_heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"local_layers": 1}, "local_layers 1 with window 0"),
        ({"score": "tanh"}, "score is 'tanh'"),
        ({"experts": 4}, "4 experts with top_k 0"),
        ({"ffn": 0}, "ffn is 0"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        LanguageConfig(**SMALL | changes)
