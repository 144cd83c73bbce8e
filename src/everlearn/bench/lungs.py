"""Where the lungs are in pictures that nobody has marked: a small U-Net, learned on those that somebody has.

Ronneberger, Fischer, Brox 2015, *U-Net: Convolutional Networks for Biomedical Image Segmentation* (arXiv 1505.04597).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SIDE = 64  # pixels that the network sees
_BATCH = 16


class UNet(nn.Module):
    """Logits of a mask ``[n, 1, H, W]`` for grey pictures of the same size, sides multiples of 8.

    Examples
    --------
    >>> UNet()(torch.zeros(1, 1, 64, 64)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        w = width
        self.down = nn.ModuleList([_block(1, w), _block(w, 2 * w), _block(2 * w, 4 * w), _block(4 * w, 8 * w)])
        self.up = nn.ModuleList([_block(12 * w, 4 * w), _block(6 * w, 2 * w), _block(3 * w, w)])
        self.mask = nn.Conv2d(w, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down to an eighth and up again, with what each size showed beside it."""
        shown = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            shown.append(x)
        for block, beside in zip(self.up, shown[-2::-1]):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), beside], 1))
        return self.mask(x)


def learn_masks(pictures: Tensor, masks: Tensor, epochs: int = 20, seed: int = 0) -> UNet:
    """Learn masks by cross-entropy and Dice; pictures and masks are moved, stretched and relit anew in every pass.

    Parameters
    ----------
    pictures, masks : Tensor
        ``[n, 1, H, W]`` uint8, n ≥ 1; masks 255 inside.
    epochs, seed : int
        Passes, and of everything drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNet()
    generator = torch.Generator().manual_seed(seed)
    x, y = _standard(pictures), F.interpolate(masks.float() / 255, size=(_SIDE, _SIDE), mode="area")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    steps = epochs * -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(_BATCH):
            seen, wanted = _moved(x[chosen], y[chosen], generator)
            logits = model(seen)
            p = logits.sigmoid()
            overlap = 2 * (p * wanted).sum() / (p.sum() + wanted.sum()).clamp(min=1)
            loss = F.binary_cross_entropy_with_logits(logits, wanted) + 1 - overlap
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def masks_of(model: UNet, pictures: Tensor) -> Tensor:
    """Masks ``[n, 1, H, W]`` bool of pictures ``[n, 1, H, W]`` uint8."""
    logits = [model(part) for part in _standard(pictures).split(64)]
    size = (pictures.shape[2], pictures.shape[3])
    return F.interpolate(torch.cat(logits), size=size, mode="bilinear", align_corners=False) > 0


def dice(found: Tensor, wanted: Tensor) -> Tensor:
    """``[n]``: twice the overlap over the sum of two masks ``[n, 1, H, W]``, 0 to 1.

    Examples
    --------
    >>> dice(torch.tensor([[[[True, False]]]]), torch.tensor([[[[True, True]]]]))
    tensor([0.6667])
    """
    both = (found & wanted).flatten(1).sum(1)
    return 2 * both / (found.flatten(1).sum(1) + wanted.flatten(1).sum(1)).clamp(min=1)


def _block(channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for c in (channels_in, channels):
        layers += [nn.Conv2d(c, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _standard(pictures: Tensor) -> Tensor:
    x = F.interpolate(pictures.float(), size=(_SIDE, _SIDE), mode="area")
    return (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True).clamp(min=1)


def _moved(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    n, u = len(x), torch.rand(len(x), 6, generator=generator)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = 0.75 + 0.6 * u[:, 0]
    theta[:, 1, 1] = theta[:, 0, 0] * (0.85 + 0.3 * u[:, 1])
    theta[:, :, 2] = (u[:, 2:4] - 0.5) * 0.5
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    light = u[:, 4:, None, None]
    return x * (0.7 + 0.6 * light[:, :1]) + light[:, 1:] - 0.5, F.grid_sample(y, grid, align_corners=False)
