"""What the learners' tests share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # check_learner and linear_oracle stand beside the tests


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
