"""One lesion: its shape inside the tissues that it may replace, and the uptake within it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seganypet.phantom.canvas import Box, Canvas, smooth_field

MIN_ML = 0.3  # of what is left of a lesion where the tissues around it are not its own


@dataclass(frozen=True, eq=False)
class Lesion:
    """What is to be painted.

    Attributes:
        centre_mm: Where it began, in the patient's coordinates, shape (3,).
        volume_ml: Its volume, in mL; less where the tissues have no room.
        suv_max: SUVmax that the image shall show about.
        over: Labels of the tissues that it may replace.
        infiltrating: Whether it grows in strands and fades into its surroundings, instead of having an edge.
    """

    centre_mm: np.ndarray
    volume_ml: float
    suv_max: float
    over: list[int]
    infiltrating: bool = False


def paint_lesion(
    canvas: Canvas, activity: np.ndarray, instances: np.ndarray, label: int, lesion: Lesion, rng: np.random.Generator
) -> bool:
    """Paint one lesion into `activity` and `instances`, in place.

    Args:
        canvas: Label map of the tissues.
        activity: Uptake (SUVbw) before imaging, shape of the canvas.
        instances: Label map of the lesions so far; none of them is painted over.
        label: The lesion's label, 1 to 255.
        lesion: What is to be painted.
        rng: Source of random numbers.

    Returns:
        Whether there was room for it.
    """
    radius = (lesion.volume_ml * 750 / np.pi) ** (1 / 3)
    box, shape = _shape(canvas, instances, lesion, radius, rng)
    if shape is None:
        return False
    mask, depth_mm, fields = shape
    instances[box][mask] = label
    view = activity[box]
    volume_ml = float(mask.sum()) * float(np.prod(_spacing(canvas))) / 1000
    view[mask] = _uptake(view[mask], depth_mm[mask], [field[mask] for field in fields], volume_ml, lesion, rng)
    return True


def _shape(
    canvas: Canvas, instances: np.ndarray, lesion: Lesion, radius: float, rng: np.random.Generator
) -> tuple[Box, tuple[np.ndarray, np.ndarray, list[np.ndarray]] | None]:
    """Box, and in it the mask, depth (mm) below the surface and a coarse and a fine random field; None without room."""
    widest = 2.1 if lesion.infiltrating else 1.8  # radii from the centre to the farthest voxel
    reach = widest * radius + 4
    lo, hi = lesion.centre_mm - reach, lesion.centre_mm + reach
    box = canvas.box(lo, hi)
    n_blobs = int(rng.integers(1, 3 + int(lesion.volume_ml > 5) * 2))
    offsets = np.float32(radius) * rng.normal(0, 0.45, (n_blobs, 3)).astype(np.float32)
    stretch = np.float32(radius) * rng.uniform(0.7, 1.35, (n_blobs, 3)).astype(np.float32)
    coarse = smooth_field(rng, canvas.axes(box), lo, hi, max(0.7 * radius, 5))
    fine = smooth_field(rng, canvas.axes(box), lo, hi, max(0.35 * radius, 4))
    if not coarse.size:
        return box, None
    axes = [axis - np.float32(c) for axis, c in zip(canvas.mesh(box), lesion.centre_mm, strict=True)]
    level: np.ndarray = np.full(coarse.shape, 9, np.float32)
    for offset, size in zip(offsets, stretch, strict=True):
        np.minimum(level, sum(((p - o) / s) ** 2 for p, o, s in zip(axes, offset, size, strict=True)), out=level)
    np.sqrt(level, out=level)
    level += (0.3 if lesion.infiltrating else 0.16) * coarse  # wavy, or in strands
    if lesion.infiltrating:
        level += 0.22 * fine
    may_grow = np.zeros(256, bool)
    may_grow[lesion.over] = True
    level[~may_grow[canvas.labels[box]] | (instances[box] > 0)] = 99
    voxel_ml = float(np.prod(_spacing(canvas))) / 1000
    n = min(max(int(round(lesion.volume_ml / voxel_ml)), 1), level.size - 1)
    edge = min(float(np.partition(level.ravel(), n)[n]), widest)
    parts, count = ndimage.label(level < edge)
    if not count:
        return box, None
    mask = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    if mask.sum() * voxel_ml < MIN_ML:
        return box, None
    return box, (mask, (edge - level) * np.float32(radius), [coarse, fine])


def _uptake(
    tissue: np.ndarray, depth_mm: np.ndarray, fields: list[np.ndarray], volume_ml: float, lesion: Lesion,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Uptake (SUVbw) of a lesion's voxels, shape (N,), from that of the tissue that it replaces.

    Uneven on two scales. The larger it is, the more often has it parts of low grade, near the uptake of muscle, and
    cold cores with a hot rim: one or several, some as far as its edge.
    """
    coarse, fine = fields
    large = float(np.interp(np.log10(volume_ml), (0.5, 2.5), (0, 1)))  # 3 mL .. 300 mL
    hot = np.exp(rng.uniform(0.05, 0.15 + 0.35 * large) * coarse + rng.uniform(0.12, 0.35) * fine)
    low_grade, necrotic = rng.random(2) < (0.08 + 0.3 * large, 0.02 + 0.55 * large)
    if low_grade:
        hot *= 1 - rng.uniform(0.5, 0.85) * _sigmoid((coarse - rng.uniform(-0.2, 0.8)) / 0.25)
    if necrotic:
        hot *= 1 + rng.uniform(0, 0.7) * np.exp(-depth_mm / 8)
    # Small hot spots lose height to the resolution; SUVmax is that of the image.
    diameter_mm = 2 * (volume_ml * 750 / np.pi) ** (1 / 3)
    recovery = float(np.interp(diameter_mm, (6, 10, 13, 17, 22, 28), (0.22, 0.4, 0.6, 0.78, 0.92, 1.0)))
    hot *= min(lesion.suv_max / recovery, 70) / float(np.percentile(hot, 97))
    if necrotic:
        cold = depth_mm / float(depth_mm.max()) - rng.uniform(0.15, 0.6)
        cold += rng.uniform(0.03, 0.25) * fine + rng.uniform(0, 0.2) * coarse
        core = _sigmoid(cold / rng.uniform(0.03, 0.12))
        hot += core * (rng.uniform(0.3, 1.3) - hot)
    if lesion.infiltrating:
        hot = tissue + (hot - tissue) * (1 - np.exp(-depth_mm / (rng.uniform(0.25, 0.8) * float(depth_mm.max()))))
    elif not (low_grade or necrotic):
        hot = np.maximum(hot, 0.6 * hot + 1.3 * float(np.median(tissue)))
    return np.maximum(hot, 0.1).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def _spacing(canvas: Canvas) -> list[float]:
    return [float(axis[1] - axis[0]) for axis in (canvas.x, canvas.y, canvas.z)]
