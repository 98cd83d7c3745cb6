"""A simulated user for whole batches, on the device of the network."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pick_clicks(region: Tensor, label: Tensor, deep: float) -> tuple[Tensor, Tensor]:
    """One click per target at a random position in a region; foreground or background by the label at that position.

    Args:
        region: Region to click in, on the grid of the low-resolution logits, (N, 1, m, m, m), 0 or 1, never all 0.
        label: Label of each target, 0 or 1, (N, 1, n, n, n).
        deep: Fraction of clicks that lie deep inside the region; the others lie anywhere in it.

    Returns:
        Points in voxels of the window, (N, 1, 3) float32; labels (N, 1), 1 foreground and 0 background.
    """
    batch, size, step = len(region), region.shape[-1], label.shape[-1] // region.shape[-1]
    depth = region  # becomes high where the region is thick: a cheap distance transform, one axis after the other
    for kernel, padding in (((7, 1, 1), (3, 0, 0)), ((1, 7, 1), (0, 3, 0)), ((1, 1, 7), (0, 0, 3))):
        depth = F.avg_pool3d(depth, kernel, 1, padding)
    noise = torch.rand_like(depth)
    thick = torch.rand(batch, 1, 1, 1, 1, device=region.device) < deep
    score = torch.where(thick, depth * (0.9 + 0.1 * noise), noise) * region
    where = score.flatten(1).argmax(1)
    coarse = torch.stack([where // size**2, where // size % size, where % size], dim=1)  # (N, 3)
    points = coarse * step + torch.randint(0, step, (batch, 3), device=region.device)
    labels = label[torch.arange(batch, device=region.device), 0, points[:, 0], points[:, 1], points[:, 2]]
    return points[:, None].float(), labels[:, None].long()
