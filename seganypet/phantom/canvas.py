"""Rasterising soft shapes into a label map, a bounding box at a time.

Coordinates are millimetres in the patient: x to the patient's right from the spine's midline,
y to the front from the centre of the vertebral bodies, z to the head from the liver's dome.
A shape is a *level*: roughly the signed distance to its surface, in mm, negative inside.
"""

from collections.abc import Iterable, Sequence

import numpy as np

Box = tuple[slice, ...]
Point = Sequence[float] | np.ndarray


def smooth_field(
    rng: np.random.Generator, axes: Sequence[np.ndarray], lo: Point, hi: Point, step_mm: float
) -> np.ndarray:
    """A smooth random field with mean 0 and variance 1, the same in the patient whatever the grid.

    Random numbers sit on nodes `step_mm` apart between the corners `lo` and `hi`; Gaussian
    kernels spread them. Kernels are separable, so three small matrix products do it.

    Args:
        rng: Source of random numbers.
        axes: Coordinates (mm) of the grid along x, y, z; shapes (I,), (J,), (K,).
        lo, hi: Corners (mm) of the region that the field covers, the same on every grid.
        step_mm: Distance of the nodes; the field is smooth on this scale.

    Returns:
        Field on the grid, shape (I, J, K), float32.
    """
    nodes, kernels = [], []
    for axis, low, high in zip(axes, lo, hi, strict=True):
        node = np.arange(low - 1.5 * step_mm, high + 2.5 * step_mm, step_mm)
        kernel = np.exp(-0.5 * ((np.asarray(axis)[:, None] - node) / (0.7 * step_mm)) ** 2) + 1e-12
        kernels.append((kernel / np.sqrt((kernel**2).sum(1, keepdims=True))).astype(np.float32))
        nodes.append(len(node))
    field = rng.standard_normal(nodes, np.float32)  # (a, b, c)
    field = np.tensordot(kernels[0], field, (1, 0))  # (I, b, c)
    field = np.matmul(kernels[1], field)  # (I, J, c)
    return np.matmul(field, kernels[2].T)  # (I, J, K)


class Canvas:
    """A label map and the patient coordinates of its voxels.

    Attributes:
        x, y, z: Coordinates (mm) along the three axes, float32, growing.
        labels: What has been painted, shape (I, J, K), uint8; 0 is outside the body.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        self.x, self.y, self.z = (np.asarray(axis, np.float32) for axis in (x, y, z))
        self.labels = np.zeros((len(x), len(y), len(z)), np.uint8)

    def box(self, lo: Point, hi: Point) -> Box:
        """Slices of the voxels between two corners (mm); empty ones where the grid ends before."""
        return tuple(
            slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high, side="right")))
            for axis, low, high in zip((self.x, self.y, self.z), lo, hi, strict=True)
        )

    def axes(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates (mm) inside a box along x, y, z, 1D."""
        return self.x[box[0]], self.y[box[1]], self.z[box[2]]

    def mesh(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates (mm) inside a box that broadcast to (I, J, K)."""
        x, y, z = self.axes(box)
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def paint(
        self,
        box: Box,
        level: np.ndarray,
        layers: Sequence[tuple[int, float]],
        over: Iterable[int] | None = None,
    ) -> None:
        """Paint where `level` lies below minus a layer's depth, the outermost layer first.

        Args:
            box: Part of the grid that is painted.
            level: Signed distance (mm) to the surface in the box, negative inside.
            layers: Pairs (label, depth in mm below the surface).
            over: Labels that may be painted over; None: all but "outside the body".
        """
        view = self.labels[box]
        allowed = np.zeros(256, bool)
        allowed[1:] = over is None
        allowed[list(over or ())] = True
        allowed = allowed[view]
        for label, depth_mm in layers:
            view[(level < -depth_mm) & allowed] = label

    def ellipsoid(
        self,
        centre: Point,
        half: Point,
        rng: np.random.Generator | None = None,
        warp_mm: float = 0.0,
        step_mm: float = 30.0,
        shear_xz: float = 0.0,
    ) -> tuple[Box, np.ndarray]:
        """Box and level of an ellipsoid with half axes `half` (mm), its surface warped by a random field."""
        margin = 3 * warp_mm + abs(shear_xz) * half[2]
        lo = [c - h - margin for c, h in zip(centre, half, strict=True)]
        hi = [c + h + margin for c, h in zip(centre, half, strict=True)]
        box = self.box(lo, hi)
        x, y, z = self.mesh(box)
        z = z - centre[2]
        x = x - centre[0] - shear_xz * z
        radius = np.sqrt((x / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 + (z / half[2]) ** 2)
        level = (radius - 1) * np.float32(np.prod(half) ** (1 / 3))
        if warp_mm and rng is not None:
            level += warp_mm * smooth_field(rng, self.axes(box), lo, hi, step_mm)
        return box, level

    def tube(
        self,
        path: np.ndarray,
        radii: np.ndarray | float,
        rng: np.random.Generator | None = None,
        warp_mm: float = 0.0,
        step_mm: float = 30.0,
    ) -> tuple[Box, np.ndarray]:
        """Box and level of a tube along the points `path`, shape (N, 3), with one radius (mm) per point."""
        path = np.asarray(path, np.float32)
        radii = np.broadcast_to(np.asarray(radii, np.float32), len(path))
        margin = 3 * warp_mm + 3
        lo, hi = (path - radii[:, None]).min(0) - margin, (path + radii[:, None]).max(0) + margin
        whole = self.box(lo, hi)
        level = np.full([part.stop - part.start for part in whole], 99, np.float32)
        for start, end, r0, r1 in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
            reach = max(r0, r1) + margin
            low, high = np.maximum(np.minimum(start, end) - reach, lo), np.minimum(np.maximum(start, end) + reach, hi)
            box = self.box(low, high)
            x, y, z = self.mesh(box)
            if 0 in (x.size, y.size, z.size):
                continue
            step = end - start
            along = (x - start[0]) * step[0] + (y - start[1]) * step[1] + (z - start[2]) * step[2]
            along = np.clip(along / max(float(step @ step), 1e-6), 0, 1)
            distance = np.sqrt(
                (x - start[0] - along * step[0]) ** 2
                + (y - start[1] - along * step[1]) ** 2
                + (z - start[2] - along * step[2]) ** 2
            )
            inner = tuple(
                slice(part.start - outer.start, part.stop - outer.start)
                for part, outer in zip(box, whole, strict=True)
            )
            np.minimum(level[inner], distance - (r0 + (r1 - r0) * along), out=level[inner])
        if warp_mm and rng is not None:
            level += warp_mm * smooth_field(rng, self.axes(whole), lo, hi, step_mm)
        return whole, level


def curve(points: Sequence[Point], n: int) -> np.ndarray:
    """`n` points (mm), shape (n, 3), along a smooth curve through `points`."""
    from scipy.interpolate import PchipInterpolator

    path = np.asarray(points, float)
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    return PchipInterpolator(knots, path)(np.linspace(0, knots[-1], n))
