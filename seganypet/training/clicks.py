"""A simulated user for whole batches, on the device of the network: clicks, and masks to start from."""

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


def draw_start_masks(soft_label: Tensor, points: Tensor, window_size: int) -> Tensor:
    """Logits to start from: what is known of a target where its window follows another, or where a mask was given.

    A third of them holds what a smaller window round the click would have held, a third what lies on one side of a
    plane, and a third all of it; the border of each is disturbed, so that it is too large here and too small there.

    Args:
        soft_label: Fraction of target, (N, 1, m, m, m).
        points: First clicks in voxels of the window, (N, 1, 3).
        window_size: Number of voxels along each side of the window.

    Returns:
        Logits, (N, 1, m, m, m); 0 where nothing is known.
    """
    count, size, device = len(soft_label), soft_label.shape[-1], soft_label.device
    shape = (count, 1, 1, 1, 1)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(shape, device=device)

    ticks = (torch.arange(size, device=device) + 0.5) / size
    where = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij"))[None]  # (1, 3, m, m, m), 0 to 1
    clicks = ((points[:, 0] + 0.5) / window_size)[:, :, None, None, None]
    distance = (where - clicks).square().sum(1, keepdim=True).sqrt()
    direction = F.normalize(torch.randn(count, 3, 1, 1, 1, device=device), dim=1)
    height = ((where - clicks) * direction).sum(1, keepdim=True)
    kind = torch.rand(shape, device=device)
    part = torch.where(kind < 1 / 3, distance < drawn(0.05, 0.35), torch.ones_like(distance, dtype=torch.bool))
    known = torch.where(kind > 2 / 3, height < drawn(0.02, 0.3), torch.ones_like(part))
    field = F.interpolate(torch.randn(count, 1, 6, 6, 6, device=device), size=[size] * 3, mode="trilinear")
    smooth = F.avg_pool3d(soft_label, 5, 1, 2, count_include_pad=False)
    mask = (smooth + drawn(0.0, 0.35) * field > drawn(0.3, 0.7)) & part
    return torch.where(mask, drawn(1, 6), -drawn(1, 6)) * known
