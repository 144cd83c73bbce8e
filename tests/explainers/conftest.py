"""Models whose right explanation is known, and a learner that has learned."""

import pytest
import torch
from torch import nn

from everlearn.data.samples import Batch
from everlearn.learners.er import ER
from everlearn.models import build_model


class Quadrant(nn.Module):
    """Says class 1 for light in the upper right quadrant of a grey 16×16 picture, and sees nothing else."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        with torch.no_grad():
            for conv in (self.conv1, self.conv2):
                conv.weight.abs_()
                conv.bias.zero_()
        window = torch.zeros(8, 8)
        window[:4, 4:] = 1.0
        self.register_buffer("window", window)

    def forward(self, x):
        h = self.pool(self.conv1(x).relu()) * self.window
        light = self.drop(self.conv2(h).relu()).mean((2, 3)).mean(1)
        return torch.stack([torch.zeros_like(light), 100 * light - 1], 1)


@pytest.fixture
def quadrant():
    torch.manual_seed(0)
    return Quadrant()


@pytest.fixture
def spots():
    """Pictures with two blobs each: one in the upper right quadrant, one in the lower left."""
    generator = torch.Generator().manual_seed(0)
    x = 0.05 * torch.rand(3, 1, 16, 16, generator=generator)
    x[:, :, 2:6, 10:14] += 1.0
    x[:, :, 10:14, 2:6] += 1.0
    return x


def tiny_cnn(outputs=3, channels=1):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, outputs),
    )


@pytest.fixture
def cnn():
    torch.manual_seed(0)
    return tiny_cnn


@pytest.fixture(scope="session")
def learner():
    """ER on two classes of 8×8 pictures: light above (code 7), light below (code 3)."""
    generator = torch.Generator().manual_seed(0)
    learner = ER(build_model("slim_resnet18", channels=1, size=8), memory=40, precision="float32", device="cpu")
    for step in range(12):
        labels = torch.tensor([7, 3])[torch.arange(10) % 2]
        inputs = torch.randint(0, 60, (10, 1, 8, 8), generator=generator)
        inputs[labels == 7, :, :4] += 150
        inputs[labels == 3, :, 4:] += 150
        learner.observe(Batch(inputs.to(torch.uint8), labels, torch.arange(10) + 10 * step))
    return learner


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 60, (2, 1, 8, 8), generator=generator)
    inputs[0, :, :4] += 150
    inputs[1, :, 4:] += 150
    return inputs.to(torch.uint8)
