"""What a network said of one window, and what follows from it: components, extent, faces, the same on another grid."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seganypet.pet.volume import Point
from seganypet.prompting.prompt import Voxel
from seganypet.prompting.window import Window, resample
from seganypet.regions import CONNECTED_26

FACE_VOXELS = 4  # low-resolution voxels of mask on a window's face that make it grow

PointMM = tuple[np.ndarray, bool]  # RAS+ millimetres, (3,), and whether it is foreground


@dataclass(frozen=True, eq=False)
class WindowLogits:
    """Prediction of the network for one window of an object.

    Attributes:
        window: Cube that the network saw.
        logits: Low-resolution logits, (1, 1, m, m, m).
        seeds_mm: Foreground points that growth set here, in RAS+ millimetres: where the neighbour's mask was deepest.
    """

    window: Window
    logits: Tensor
    seeds_mm: tuple[Point, ...] = ()

    @property
    def mask(self) -> np.ndarray:
        """Bool, (m, m, m), on the grid of the logits."""
        return (self.logits[0, 0] > 0).cpu().numpy()

    @property
    def volume_ml(self) -> float:
        """Volume of the mask, in mL."""
        return int(self.mask.sum()) * abs(float(np.linalg.det(self.affine))) / 1000

    @property
    def affine(self) -> np.ndarray:
        """Voxels of the logits to RAS+ millimetres, (4, 4)."""
        return self.window.grid_affine(self.logits.shape[-1])

    def holds_mm(self, mm: np.ndarray | Point) -> bool:
        """Whether a position lies inside the mask."""
        return self.window.contains_mm(np.array(mm)) and bool(self.logits[0, 0][self.voxel_at(mm)] > 0)

    def voxel_at(self, mm: np.ndarray | Point) -> Voxel:
        """The voxel of the logits at a position in the window."""
        i, j, k = np.rint(np.linalg.solve(self.affine, [*mm, 1])[:3]).clip(0, self.logits.shape[-1] - 1).astype(int)
        return int(i), int(j), int(k)

    def holds_any(self, positions_mm: list[np.ndarray]) -> bool:
        """Whether the window, not only its mask, holds one of some positions."""
        return any(self.window.contains_mm(mm) for mm in positions_mm)

    def agrees(self, positions_mm: list[np.ndarray], foreground: bool) -> bool:
        """Whether all of some positions that lie in the window are on the side that is meant."""
        return all(self.holds_mm(mm) == foreground for mm in positions_mm if self.window.contains_mm(mm))

    def foreground_in(self, points: list[PointMM]) -> list[np.ndarray]:
        """Positions of the foreground points in the window, in RAS+ millimetres."""
        return [mm for mm, foreground in points if foreground and self.window.contains_mm(mm)]


def keep_clicked_components(part: WindowLogits, positions_mm: list[np.ndarray]) -> Tensor:
    """Logits of a window in which only those components of the mask stay positive that hold one of the positions.

    Components are 26-connected. A position holds on to what lies within one low-resolution voxel of it: a click on an
    edge is a click on the organ.
    """
    mask = part.mask
    components, count = ndimage.label(mask, CONNECTED_26)
    to_voxels = np.linalg.inv(part.affine)
    kept = set()
    for mm in positions_mm:
        i, j, k = np.rint(to_voxels[:3, :3] @ mm + to_voxels[:3, 3]).astype(int)
        around = components[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, max(k - 1, 0) : k + 2]
        kept |= set(np.unique(around).tolist())
    if len(kept - {0}) == count:
        return part.logits
    loose = torch.from_numpy(mask & ~np.isin(components, list(kept - {0}))).to(part.logits.device)
    return torch.where(loose, -part.logits, part.logits)


def pieces_at(part: WindowLogits, positions_mm: list[np.ndarray]) -> int:
    """How many components (26-connected) of the mask of a window hold some of the positions that lie in it."""
    components, _ = ndimage.label(part.mask, CONNECTED_26)
    held = {int(components[part.voxel_at(mm)]) for mm in positions_mm if part.window.contains_mm(mm)}
    return len(held - {0})


def resample_logits(part: WindowLogits, window: Window) -> Tensor:
    """The logits of one window on the grid of another, (1, 1, m, m, m): what is known there before it is decoded."""
    size = part.logits.shape[-1]
    return resample(part.logits, part.affine, window.grid_affine(size), [size] * 3)


def mask_extent_mm(part: WindowLogits, positions_mm: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Corners, in RAS+ millimetres, of the smallest box around the mask of a window and some positions."""
    to_mm = part.affine
    voxels = (part.logits[0, 0] > 0).nonzero().cpu().numpy()  # (n, 3)
    ends = [voxels.min(0), voxels.max(0)] if len(voxels) else []
    corners = np.array([*(to_mm[:3, :3] @ end + to_mm[:3, 3] for end in ends), *positions_mm])
    return corners.min(0), corners.max(0)


def dice_in_window(one: WindowLogits, other: WindowLogits) -> float:
    """DSC of two masks of one window; 0.0 if they lie in two."""
    if one.window != other.window:
        return 0.0
    a, b = one.mask, other.mask
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


def touched_faces(logits: Tensor) -> list[tuple[int, int]]:
    """Faces of a window that its mask meets, as pairs (axis, side), side -1 or +1.

    >>> logits = torch.full((1, 1, 8, 8, 8), -1.0)
    >>> logits[..., 2:5, 2:5, 7] = 1.0
    >>> touched_faces(logits)
    [(2, 1)]
    """
    mask = logits[0, 0] > 0
    return [
        (axis, side)
        for axis in range(3)
        for side in (-1, 1)
        if mask.select(axis, 0 if side < 0 else -1).sum() >= FACE_VOXELS
    ]
