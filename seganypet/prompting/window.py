"""The cube of voxels that a network sees: sampled from a volume, and its logits carried back.

Both ways are one affine interpolation between the volume's own grid and the window's; in between lie only
RAS+ millimetres. Logits travel back and are thresholded last, so no staircase of rounded masks appears.
"""

from dataclasses import dataclass
from itertools import product

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor

from seganypet.pet.volume import Point, Volume
from seganypet.regions import Box

AIR = {"HU": -1024.0}  # every other unit has nothing, 0, outside the scan


@dataclass(frozen=True)
class Window:
    """A cube of `size`^3 voxels whose axes run along x, y and z of the patient.

    Attributes:
        corner_mm: RAS+ millimetres of the centre of its voxel (0, 0, 0).
        size: Voxels along each side.
        spacing_mm: Voxel size, the same along all axes.
    """

    corner_mm: Point
    size: int
    spacing_mm: float

    @property
    def affine(self) -> np.ndarray:
        """Voxels of the window to RAS+ millimetres, (4, 4)."""
        return self.grid_affine(self.size)

    def grid_affine(self, size: int) -> np.ndarray:
        """Affine of a grid of `size`^3 voxels that fills the same cube."""
        step = self.size / size
        affine = np.diag([self.spacing_mm * step] * 3 + [1.0])
        affine[:3, 3] = np.array(self.corner_mm) + self.spacing_mm * (step - 1) / 2
        return affine

    def to_window(self, mm: ArrayLike) -> np.ndarray:
        """RAS+ millimetres to voxels of the window, (..., 3) in and out."""
        return (np.asarray(mm, float) - np.array(self.corner_mm)) / self.spacing_mm

    def contains_mm(self, mm: ArrayLike) -> bool:
        """True if the point lies inside the cube."""
        ijk = self.to_window(mm)
        return bool(np.all(ijk >= -0.5) and np.all(ijk <= self.size - 0.5))

    @property
    def side_mm(self) -> float:
        """Length of each edge."""
        return self.size * self.spacing_mm

    @property
    def centre_mm(self) -> np.ndarray:
        """RAS+ millimetres of its middle, (3,)."""
        return np.array(self.corner_mm) + (self.size - 1) / 2 * self.spacing_mm

    def corners_mm(self) -> np.ndarray:
        """The eight corners of the cube, (8, 3)."""
        return nib.affines.apply_affine(self.affine, list(product((-0.5, self.size - 0.5), repeat=3)))


def window_around(volume: Volume, centre_mm: np.ndarray, size: int, spacing_mm: float) -> Window:
    """The window centred on a point, pushed back inside the volume where the volume is large enough.

    Along an axis where the volume is the smaller of the two, the window is centred on the volume.
    """
    low, high = extent_mm(volume)
    half = size * spacing_mm / 2
    centre = np.where(high - low > 2 * half, np.clip(centre_mm, low + half, high - half), (low + high) / 2)
    corner = centre - half + spacing_mm / 2
    x, y, z = corner.tolist()
    return Window((x, y, z), size, float(spacing_mm))


def extent_mm(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest x, y, z of the box that holds all voxels, faces included; two arrays of 3."""
    corners_ijk = np.array(list(product(*[(-0.5, size - 0.5) for size in volume.shape])))
    corners_mm = volume.to_mm(corners_ijk)
    return corners_mm.min(0), corners_mm.max(0)


def sample_window(volume: Volume, window: Window) -> Tensor:
    """Intensities of a volume inside a window, (1, 1, n, n, n) float32.

    Where the volume's voxels are finer than the window's, each voxel of the window averages several
    evenly spaced samples, so that noise is averaged and not picked. Outside the volume there is air.
    """
    oversampling = int(np.clip(np.round(window.spacing_mm / min(volume.spacing)), 1, 3))
    affine = window.grid_affine(window.size * oversampling)
    block, block_affine = _crop_to(volume, affine, window.size * oversampling)
    air = AIR.get(volume.unit, 0.0)
    data = torch.from_numpy(block)[None, None]
    if air:
        data = data - air
    return resample(data, block_affine, affine, [window.size * oversampling] * 3, oversampling) + air


def mask_on_grid(volume: Volume, parts: list[tuple[Window, Tensor]]) -> np.ndarray:
    """Threshold the logits of one object's windows on the volume's grid; bool, shape (I, J, K)."""
    mask = np.zeros(volume.shape, bool)
    if box := positive_box(volume, parts):
        low, high = (np.array([getattr(part, end) for part in box]) for end in ("start", "stop"))
        np.greater(_blend(volume, parts, low, high), 0, out=mask[box])
    return mask


def positive_box(volume: Volume, parts: list[tuple[Window, Tensor]]) -> Box | None:
    """A box of the volume that holds all positive logits of one object's windows; None if there are none.

    Where no logits around are positive, neither is what lies between them: most voxels need no computing.
    """
    corners_mm = np.concatenate([np.zeros((0, 3)), *(_positive_corners_mm(*part) for part in parts)])
    if not len(corners_mm):
        return None
    low, high = _box_of_windows(volume, parts)
    least, most = _voxel_box(volume, corners_mm)
    low, high = np.maximum(low, least), np.minimum(high, most)
    return _slices(low, high) if (low < high).all() else None


def logits_on_grid(volume: Volume, parts: list[tuple[Window, Tensor]]) -> np.ndarray:
    """The logits of one object's windows on the volume's grid, float32, shape (I, J, K); 0 outside all windows.

    Args:
        volume: Volume whose grid is used.
        parts: Windows, each with its low-resolution logits (1, 1, m, m, m).
    """
    logits = np.zeros(volume.shape, np.float32)
    if parts:
        low, high = _box_of_windows(volume, parts)
        total = _blend(volume, parts, low, high)
        weight = _blend(volume, [(window, torch.ones_like(part)) for window, part in parts], low, high)
        np.divide(total, weight, out=logits[_slices(low, high)], where=weight > 0)
    return logits


def _blend(volume: Volume, parts: list[tuple[Window, Tensor]], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Weighted sum of logits over windows, at the voxels low .. high - 1 of the volume.

    A window's weight falls towards its faces, so that overlapping windows blend. The sign of the sum is that
    of the weighted mean, so a mask needs no division; of a single window it is the sign of its logits.
    """
    total = np.zeros(high - low, np.float32)
    for window, logits in parts:
        grid_affine, size = window.grid_affine(logits.shape[-1]), logits.shape[-1]
        beyond = nib.affines.apply_affine(grid_affine, list(product((-1, size), repeat=3)))  # where interpolation ends
        first, last = _voxel_box(volume, beyond)
        first, last = np.maximum(low, first), np.minimum(high, last)
        if (first >= last).any():
            continue
        affine = volume.affine.copy()
        affine[:3, 3] = volume.to_mm(first)
        # Interpolated apart: a product interpolated would move the zero crossing between two unequal weights.
        both = torch.cat([logits, _taper(logits).expand_as(logits)], dim=1)
        logits, weight = resample(both, grid_affine, affine, (last - first).tolist())[0]
        total[_slices(first - low, last - low)] += (logits * weight).cpu().numpy()
    return total


def _box_of_windows(volume: Volume, parts: list[tuple[Window, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    return _voxel_box(volume, np.concatenate([window.corners_mm() for window, _ in parts]))


def _voxel_box(volume: Volume, corners_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First voxel, and the one after the last, of the smallest box in the volume that holds points; never empty."""
    corners_ijk = volume.to_ijk(corners_mm)
    low = np.clip(np.ceil(corners_ijk.min(0)), 0, np.array(volume.shape) - 1).astype(int)
    high = np.clip(np.floor(corners_ijk.max(0)) + 1, low + 1, volume.shape).astype(int)
    return low, high


def _positive_corners_mm(window: Window, logits: Tensor) -> np.ndarray:
    """Corners, (8, 3), of the box beyond which interpolated logits cannot be positive; (0, 3) if none is."""
    voxels = (logits[0, 0] > 0).nonzero().cpu().numpy()
    if not len(voxels):
        return np.zeros((0, 3))
    corners = list(product(*zip(voxels.min(0) - 1, voxels.max(0) + 1, strict=True)))
    return nib.affines.apply_affine(window.grid_affine(logits.shape[-1]), corners)


def _slices(low: np.ndarray, high: np.ndarray) -> Box:
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _taper(logits: Tensor) -> Tensor:
    size = logits.shape[-1]
    ramp = 1 - (torch.arange(size, device=logits.device) - (size - 1) / 2).abs() / (size / 2 + 0.5)  # > 0 everywhere
    return ramp[:, None, None] * ramp[:, None] * ramp


def resample(
    source: Tensor, source_affine: np.ndarray, target_affine: np.ndarray, target_shape: list[int], pool: int = 1
) -> Tensor:
    """Trilinear samples of one grid at the voxels of another; 0 outside.

    Args:
        source: Values on the source grid, (1, C, I, J, K).
        source_affine: Affine from voxels of the source to millimetres.
        target_affine: Affine from voxels of the target to millimetres.
        target_shape: Number of voxels of the target along its axes.
        pool: Number of target voxels along each axis that are averaged to one.

    Returns:
        (1, C, *target_shape), each side divided by `pool`.
    """
    to_source = np.linalg.inv(source_affine) @ target_affine
    # The axis of the source along which each axis of the target runs, if they run along any.
    axes = np.abs(to_source[:3, :3]).argmax(0)
    aligned = np.zeros((3, 3))
    aligned[axes, range(3)] = to_source[axes, range(3)]
    reach = np.array(target_shape)
    if len(set(axes)) == 3 and (np.abs(to_source[:3, :3] - aligned) @ reach).max() < 1e-3:
        return _resample_along_axes(source, to_source, axes.tolist(), target_shape, pool)
    # grid_sample counts from -1 to 1 across a grid, faces included, and wants the last axis first.
    to_unit = _unit_from_voxels(source.shape[2:]) @ to_source @ np.linalg.inv(_unit_from_voxels(target_shape))
    theta = torch.from_numpy(to_unit[:3][::-1][:, [2, 1, 0, 3]].copy()).to(source)
    grid = F.affine_grid(theta[None], [1, 1, *target_shape], align_corners=False)
    return F.avg_pool3d(
        F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False), pool
    )


def _resample_along_axes(
    source: Tensor, to_source: np.ndarray, axes: list[int], target_shape: list[int], pool: int
) -> Tensor:
    """As `resample`, for grids whose axes are parallel: one product with a matrix of weights along each axis.

    The same numbers, up to rounding, in a tenth of the time: a trilinear sample is a product of three linear ones.
    """
    values = source
    for along in range(3):
        axis = axes.index(along)
        position = to_source[along, axis] * np.arange(target_shape[axis]) + to_source[along, 3]
        size = source.shape[2 + along]
        weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size)))  # (count, size)
        weights = weights.reshape(target_shape[axis] // pool, pool, size).mean(1).astype(np.float32)
        values = _weighted(values, weights, along)
    return values.permute(0, 1, *(2 + along for along in axes)).contiguous()


def _weighted(values: Tensor, weights: np.ndarray, along: int) -> Tensor:
    """Products of (1, C, I, J, K) with weights (n, size) along the first, second or third axis of space."""
    dense = torch.from_numpy(weights).to(values)
    if along == 2:
        return values @ dense.T
    if along == 1:
        return dense @ values
    rows, rest = values.flatten(3), values.shape[3:]  # (1, C, I, J K)
    if values.device.type == "cpu" and len(weights) < len(rows[0, 0]) and rows.shape[1] == 1:
        # Many voxels of a scan are read here for few samples, so nearly all weights are 0.
        sampled = torch.from_numpy(sparse.csr_array(weights) @ rows[0, 0].numpy())[None, None]
    else:
        sampled = dense @ rows
    return sampled.unflatten(3, rest)


def _unit_from_voxels(shape: tuple[int, ...] | list[int]) -> np.ndarray:
    # Voxel centres 0 .. n-1 of an axis lie at (2 v + 1) / n - 1.
    scale = 2 / np.array(shape, float)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = scale / 2 - 1
    return matrix


def _crop_to(volume: Volume, affine: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a volume that samples at `affine` can touch: reading less is most of the speed."""
    corners = np.array(list(product((0, size - 1), repeat=3)))
    ijk = volume.to_ijk(nib.affines.apply_affine(affine, corners))
    shape = np.array(volume.shape)
    low = np.clip(np.floor(ijk.min(0)) - 1, 0, shape - 1).astype(int)
    high = np.clip(np.ceil(ijk.max(0)) + 2, low + 1, shape).astype(int)
    block_affine = volume.affine.copy()
    block_affine[:3, 3] = volume.to_mm(low)
    block = volume.data[_slices(low, high)]
    return np.ascontiguousarray(block), block_affine
