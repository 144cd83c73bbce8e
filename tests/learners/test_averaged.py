"""The average that predicts: the mean of weights, with BatchNorm measured on what steps look like."""

import check_learner as check
import torch

from everlearn.learners import ER
from everlearn.learners.averaged import AveragedModel, remembered_batches
from everlearn.memory import Memory


def test_average_is_the_mean_of_the_first_steps_and_slow_then():
    model = check.small_model()
    average, seen = AveragedModel(model, alpha=0.25), []
    for _ in range(6):
        for p in model.parameters():
            p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(seen))))
        seen.append(model.backbone[0].weight.detach().clone())
        average.follow(model)
    mean = torch.stack(seen[:4]).mean(0)
    for weight in seen[4:]:
        mean = 0.75 * mean + 0.25 * weight
    torch.testing.assert_close(average.model.backbone[0].weight, mean)


def test_batch_norm_is_measured_on_the_batches():
    model = check.small_model()
    average = AveragedModel(model, alpha=1.0)
    batches = [5 + 3 * torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    maps = [model.backbone[0](batch) for batch in batches]
    weights = average.weights(model, batches)
    torch.testing.assert_close(
        weights["backbone.1.running_mean"], torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    )
    torch.testing.assert_close(weights["backbone.1.running_var"], torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert weights["backbone.0.weight"].requires_grad  # attributions go through it
    assert torch.equal(average.model.backbone[1].running_mean, torch.zeros(6))  # what is saved is the average alone
    assert average.weights(model, iter(())) is weights


def test_measured_batches_hold_memory_and_the_newest_in_a_steps_shares():
    memory = Memory(40)
    for step in range(40):
        picture = torch.full((1, 1, 8, 8), step, dtype=torch.uint8)
        memory.append(picture, torch.tensor([0]), torch.tensor([step]), step)
    for newest, size in ((1.0, 20), (0.1, 11)):
        batches = [batch[:, 0, 0, 0] for batch in remembered_batches(memory, 10, 0, newest)]
        assert [len(batch) for batch in batches] == [size] * 4
        assert torch.cat([batch[:10] for batch in batches]).sort().values.tolist() == list(range(40))
        assert all((batch[10:] >= 36).all() for batch in batches)


def test_the_average_predicts_and_the_model_learns_on():
    settings = {"memory": 20, "precision": "float32"}
    plain, averaged = ER(check.small_model(), **settings), ER(check.small_model(), average=0.1, **settings)
    for batch in check.stream():
        plain.observe(batch)
        averaged.observe(batch)
    x = check.stream(seed=1)[3].inputs
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, averaged.model.state_dict()[name])
    assert torch.equal(plain.encode(x), averaged.encode(x))
    assert not torch.equal(plain.features(x), averaged.features(x))
    weights = averaged.averaged.weights(averaged.model, ())
    by_hand = torch.nn.functional.linear(averaged.features(x), weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(averaged.predict(x).probabilities, by_hand.softmax(1))
