"""Where a training window lies, and what is cut there.

Windows lie as those of a session do: around a first click, at any voxel size; around an object, of which they hold what
fits; beside it, across one of its faces. Each is turned, stretched and bent a little, in one interpolation.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SPACING_MM = (1.5, 8.0)
PLACEMENTS = {"click": 0.5, "object": 0.35, "beside": 0.15}
FILLS = (0.2, 0.95)  # fraction of a window's side that an object spans
OFF_CENTRE = 0.06  # of a window's side, standard deviation
ROTATION_DEGREES = 10.0  # standard deviation about each axis
STRETCH = 0.12  # standard deviation of the logarithm, along each axis
BEND_MM = 6.0  # largest standard deviation of the displacement
KNOTS = 5  # of the displacement, along each axis


@dataclass(frozen=True, eq=False)
class Geometry:
    """Positions in a scan of the voxels of a window.

    Attributes:
        to_scan: Affine from voxels of the window to voxels of the scan, (4, 4).
        bend: Displacement at the knots, in voxels of the scan, (3, k, k, k) float32; None: none.
        size: Number of voxels along each side of the window.
    """

    to_scan: np.ndarray
    bend: np.ndarray | None
    size: int

    def positions(self) -> np.ndarray:
        """Voxel coordinates in the scan, (3, n, n, n) float32."""
        ticks = np.arange(self.size, dtype=np.float32)
        matrix, start = self.to_scan[:3, :3].astype(np.float32), self.to_scan[:3, 3].astype(np.float32)
        i, j, k = (np.multiply.outer(matrix[:, axis], ticks) for axis in range(3))  # each (3, n)
        i[:] += start[:, None]
        where = i[:, :, None, None] + j[:, None, :, None] + k[:, None, None, :]
        if self.bend is not None:
            smooth = F.interpolate(
                torch.from_numpy(self.bend)[None], size=[self.size] * 3, mode="trilinear", align_corners=True
            )
            where += smooth[0].numpy()
        return where


def place(
    points: np.ndarray, box: np.ndarray, affine: np.ndarray, size: int, spacing_mm: tuple[float, ...], upright: bool,
    rng: np.random.Generator,
) -> Geometry:  # fmt: skip
    """Draw where the window of a target lies.

    Args:
        points: Voxels of the target, (P, 3).
        box: Its first and last voxel, (2, 3).
        affine: Affine of the scan.
        size: Number of voxels along each side of the window.
        spacing_mm: Smallest and largest voxel size.
        upright: Whether the window is only a little turned against the patient; else it lies in any direction.
        rng: Source of random numbers.
    """
    to_mm = affine[:3, :3]
    extent_mm = float(np.abs(to_mm @ (box[1] - box[0] + 1)).max())
    finest, coarsest = spacing_mm
    spacing = float(np.exp(rng.uniform(np.log(finest), np.log(coarsest))))
    centre = points[rng.integers(len(points))].astype(float)
    placement = rng.choice(list(PLACEMENTS), p=list(PLACEMENTS.values()))
    if placement == "object":
        spacing = float(np.clip(extent_mm / (rng.uniform(*FILLS) * size), finest, coarsest))
        if extent_mm < size * spacing:
            centre = box.mean(0)
    offset_mm = rng.normal(0, OFF_CENTRE * size * spacing, 3) * (placement != "click")
    if placement == "beside":
        offset_mm[rng.integers(3)] += rng.choice((-1, 1)) * rng.uniform(0.25, 0.45) * size * spacing
    turn = _rotation(rng, upright) @ np.diag(np.exp(rng.normal(0, STRETCH, 3)))
    to_voxels = np.linalg.inv(to_mm)
    to_scan = np.eye(4)
    to_scan[:3, :3] = to_voxels @ turn * spacing
    to_scan[:3, 3] = centre + to_voxels @ offset_mm - to_scan[:3, :3] @ np.full(3, (size - 1) / 2)
    bend = None
    if rng.random() < 0.5:
        amount = rng.uniform(0, min(BEND_MM, 1.5 * spacing))
        knots = rng.normal(0, amount, (3, KNOTS**3))
        bend = (to_voxels @ knots).reshape(3, KNOTS, KNOTS, KNOTS).astype(np.float32)
    return Geometry(to_scan, bend, size)


def _rotation(rng: np.random.Generator, upright: bool) -> np.ndarray:
    if not upright:
        return np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(rng.normal(0, ROTATION_DEGREES, 3))):
        first, second = (other for other in range(3) if other != axis)
        one = np.eye(3)
        one[[first, second], [first, second]] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    return turn


def cut_uptake(suv: Tensor, geometry: Geometry, positions: np.ndarray) -> np.ndarray:
    """Intensities at the positions, (n, n, n) float32; 0 outside the scan.

    Where the window's voxels are larger than the scan's, several of these are averaged first, as in a session.

    Args:
        suv: The scan, (I, J, K), which may be mapped into memory.
        geometry: Where the window lies.
        positions: Its `positions()`.
    """
    low = np.clip(np.floor(positions.min((1, 2, 3))) - 2, 0, np.array(suv.shape) - 1).astype(int)
    high = np.clip(np.ceil(positions.max((1, 2, 3))) + 3, low + 1, suv.shape).astype(int)
    block = suv[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].float()[None, None]
    steps = np.abs(geometry.to_scan[:3, :3]).max(1)  # voxels of the scan from one voxel of the window to the next
    pool = np.clip(np.rint(steps), 1, np.minimum(3, block.shape[2:])).astype(int)
    if pool.max() > 1:
        block = F.avg_pool3d(block, pool.tolist())
    shift, scale = low + (pool - 1) / 2, 2 / np.maximum(np.array(block.shape[2:]), 1)
    # grid_sample counts from -1 to 1 across the grid, faces included, and wants the last axis first.
    unit = [
        ((positions[axis] - shift[axis]) / pool[axis] + 0.5) * scale[axis] - 1 for axis in (2, 1, 0)
    ]
    grid = torch.from_numpy(np.stack(unit, -1).astype(np.float32))[None]
    return F.grid_sample(block, grid, align_corners=False)[0, 0].numpy()


def cut_labels(layers: Tensor, positions: np.ndarray) -> np.ndarray:
    """Nearest labels at the positions, (L, n, n, n) uint8; 0 outside the scan.

    Args:
        layers: Label maps of the scan, (L, I, J, K), which may be mapped into memory.
        positions: Of the window's voxels, (3, n, n, n).
    """
    shape = np.array(layers.shape[1:])[:, None, None, None]
    nearest = np.rint(positions).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < shape)).all(0)
    i, j, k = np.clip(nearest, 0, shape - 1)
    flat = (i * shape[1, 0, 0, 0] + j) * shape[2, 0, 0, 0] + k
    return np.stack([np.where(inside, layer.numpy().ravel()[flat], 0) for layer in layers]).astype(np.uint8)
