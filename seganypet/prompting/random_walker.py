"""Random walker segmentation from the same clicks: no training, no threshold, and negative clicks count fully.

A `RandomWalkerSession` takes the calls of a model's session, as a `ThresholdSession` does.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from seganypet.errors import UnitError
from seganypet.pet.volume import Volume
from seganypet.prompting.classical import ClassicalSession, growing
from seganypet.prompting.prompts import InitialMask, Prompt, Voxel, signed_voxels
from seganypet.regions import CONNECTED_26, Box, bounding_box

RANDOM_WALKER = "random_walker"  # its name among the baselines
# Chosen on phantoms 300 and 302 (make_phantom), internal.
BETA = 200.0  # weight of a step is exp(-BETA d^2), d the difference of log(1 + SUV)
SMOOTHING_MM = 3.0  # sigma of a Gaussian, against noise
SIMILAR = 0.2  # largest difference of log(1 + SUV) between voxels that look alike
MAX_DIFFERENT = 0.05  # fraction of the voxels of a ball that may look different from the click
MIN_SEED_MM, MAX_SEED_MM = 6.0, 40.0  # radius of that ball
SEED_FRACTION = 0.9  # of that radius, so that a seed stays away from the edge
BORDER_MM = 6.0  # by which the border of a mask to start from may move outwards
MARGIN_MM, MARGIN_RADII = 25.0, 3.0  # margin of the box beyond the clicks
VOXEL_MM = 4.0
MAX_VOXELS = 100_000  # of the box; beyond this number, its voxels become larger

Point = tuple[Voxel, bool]  # and whether it is foreground


class Walked(NamedTuple):
    """A mask inside a box of the volume."""

    box: Box
    mask: np.ndarray


class RandomWalkerSession(ClassicalSession):
    """Random walker segmentation behind the calls of a model's session.

    A walker starts at a voxel, steps more readily between voxels of similar intensity, and reaches one of the seeds
    first. A voxel belongs to the mask if a positive seed is the more likely one, and if its 26-connected piece contains
    a positive click, or a voxel of another positive prompt.

    Intensities are log(1 + SUV), smoothed. The seed of a click is the largest ball around it (6 to 40 mm) in which
    nearly all voxels look like the clicked one, without those that do not: an organ that is clicked in its middle gets
    a large seed, a lesion a small one. A seed ends half way to a click of the other sign. Background seeds are the same
    around negative clicks, and the faces of a box around all clicks, at a distance of 25 mm and three radii of the
    largest positive ball. A face at the end of the volume is not a seed, because an organ may be cut there, unless the
    box is the whole volume. If the mask comes near a face that is a seed, the size of the margin is doubled, once.

    A scribble is a seed at every voxel, with such balls around 8 of them. What a box or lasso leaves out is background;
    as the first prompt, it also has a ball at its centre. Of a mask to start from, the core is a seed, and what lies
    6 mm outside is background, unless it is within two radii of a positive ball. At last, clicked voxels go to their
    side.

    The box is averaged to voxels of about 4 mm, or larger ones if it had more than 100 000; probabilities are resampled
    to the volume's grid by linear interpolation.

    Args:
        volume: PET in SUVbw.

    Raises:
        UnitError: The volume is in another unit.

    Source: L. Grady, Random walks for image segmentation, IEEE TPAMI 28 (2006) 1768-1783; solved by scikit-image. The
    size of the seeds is this package's own choice: with single voxels the nearest seed wins, whatever the image shows.
    """

    def __init__(self, volume: Volume) -> None:
        if volume.unit != "SUVbw":
            raise UnitError(
                f"{volume.source} is in {volume.unit}; the random walker compares logarithms of SUV and needs SUVbw."
            )
        super().__init__(volume)
        self._radii: dict[tuple[int, int, int], float] = {}

    def _predict(self, prompts: tuple[Prompt, ...], previous: Walked | None) -> Walked:
        points, positive = _points(prompts), growing(prompts)
        voxels = [ijk for ijk, _ in points]
        for prompt in positive:
            if isinstance(prompt, InitialMask):
                voxels += [tuple(side.start for side in prompt.box), tuple(side.stop - 1 for side in prompt.box)]
        if isinstance(prompts[-1], InitialMask):
            self._tell("The random walker starts from the core of this mask, and finds its border anew.")
        reach_mm = MARGIN_MM + MARGIN_RADII * max(self._radius_mm(ijk) for ijk, _ in signed_voxels(positive))
        box = box_around(self.volume, voxels, reach_mm)
        mask = self._walk(prompts, box)
        if self._nears_face(mask, box):
            box = box_around(self.volume, voxels, 2 * reach_mm)
            mask = self._walk(prompts, box)
        settled = self._mask_on_grid(Walked(box, mask))
        self._constrain(settled, prompts)
        box = bounding_box(settled) or box
        return Walked(box, settled[box].copy())

    def _mask_on_grid(self, prediction: Walked) -> np.ndarray:
        mask = np.zeros(self.volume.shape, bool)
        mask[prediction.box] = prediction.mask
        return mask

    def _provenance(self) -> dict[str, str]:
        return {"name": "random walker", "rule": RANDOM_WALKER}

    def _walk(self, prompts: Sequence[Prompt], box: Box) -> np.ndarray:
        """The mask inside a box, bool, shape of the box."""
        from skimage.segmentation import random_walker

        values = self._contrast(box)
        factors = self._factors(values.shape)
        coarse = _averaged(values, factors)  # (I, J, K) -> (I / fi, J / fj, K / fk)
        seeds = self._seeds(prompts, box, coarse, factors)
        if not (seeds == 2).any():  # a volume of a few voxels, all of them near the click
            return np.ones(values.shape, bool)
        spacing = factors * self.volume.spacing
        # scikit-image divides beta by ten standard deviations, which depend on what else the box holds; 0 breaks it.
        if coarse.std() < 1e-6:
            coarse[0, 0, 0] += 1e-3
        with warnings.catch_warnings(action="ignore"):  # scikit-image recommends pyamg, which is not needed
            positive, _ = random_walker(
                coarse, seeds, beta=BETA * 10 * coarse.std(), mode="cg_j", spacing=spacing / VOXEL_MM,
                return_full_prob=True,
            )  # fmt: skip
        # A coarse voxel c covers voxels f c to f c + f - 1, so its centre is f c + (f - 1) / 2.
        probability = ndimage.affine_transform(
            positive, 1 / factors, (1 - factors) / (2 * factors), values.shape, order=1, mode="nearest"
        )
        pieces, _ = ndimage.label(probability >= 0.5, CONNECTED_26)
        roots = np.concatenate([_roots(prompt) for prompt in growing(prompts)])
        kept = pieces[tuple(within(roots, box).T)]
        return np.isin(pieces, kept[kept > 0])

    def _seeds(self, prompts: Sequence[Prompt], box: Box, coarse: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """1 for the object, 2 for the background, 0 where the walker decides; shape of `coarse`."""
        seeds = np.zeros(coarse.shape, np.int32)
        whole = all(part == slice(0, size) for part, size in zip(box, self.volume.shape, strict=True))
        for axis, (part, size) in enumerate(zip(box, self.volume.shape, strict=True)):
            faces = np.moveaxis(seeds, axis, 0)
            if whole or part.start > 0:
                faces[0] = 2
            if whole or part.stop < size:
                faces[-1] = 2
        points = _points(prompts)
        balls_mm = [  # distances from the point, one for each
            distance_mm(coarse.shape, within(ijk, box) // factors, self.volume.affine[:3, :3] * factors)
            for ijk, _ in points
        ]
        if isinstance(prompts[0], InitialMask):
            self._seed_mask(seeds, prompts[0], box, factors)
            for (ijk, foreground), near_mm in zip(points, balls_mm, strict=True):
                if foreground:  # there is room around what is to be added
                    seeds[(seeds == 2) & (near_mm <= 2 * self._radius_mm(ijk))] = 0
        allowed = np.ones(self.volume.shape, bool)
        for prompt in prompts:
            if not prompt.binds_voxels:
                prompt.constrain(allowed)
        seeds[_averaged(allowed[box].astype(float), factors) == 0] = 2
        for (ijk, foreground), near_mm in zip(points, balls_mm, strict=True):
            similar = np.abs(coarse - coarse[tuple(within(ijk, box) // factors)]) <= SIMILAR
            seeds[(near_mm <= self._seed_mm(ijk, foreground, points)) & similar] = 1 if foreground else 2
        for prompt in prompts:  # of two in one coarse voxel, the newer wins
            if prompt.binds_voxels:
                seeds[tuple((within(prompt.voxels, box) // factors).T)] = 1 if prompt.foreground else 2
        return seeds

    def _seed_mask(self, seeds: np.ndarray, start: InitialMask, box: Box, factors: np.ndarray) -> None:
        """Put the seeds of a mask to start from: its core, and what lies farther from it than its border may move."""
        core = np.zeros(self.volume.shape, bool)
        core[tuple(start.core(self.volume.spacing).T)] = True
        away_mm = ndimage.distance_transform_edt(~start.mask[box], sampling=self.volume.spacing)
        seeds[_averaged((away_mm <= BORDER_MM).astype(float), factors) == 0] = 2
        seeds[_averaged(core[box].astype(float), factors) > 0] = 1

    def _seed_mm(self, ijk: Voxel, foreground: bool, points: Sequence[Point]) -> float:
        """Radius of a point's seed, at most half way to a point of the other sign."""
        apart_mm = [
            float(np.linalg.norm(self.volume.to_mm(ijk) - self.volume.to_mm(other)))
            for other, sign in points
            if sign != foreground
        ]
        return min([SEED_FRACTION * self._radius_mm(ijk), *(0.5 * mm for mm in apart_mm)])

    def _radius_mm(self, ijk: Voxel) -> float:
        """Radius of the largest ball around a voxel in which nearly all voxels look like it, within the limits."""
        if ijk not in self._radii:
            box = box_around(self.volume, [ijk], MAX_SEED_MM)
            values, centre = self._contrast(box), within(ijk, box)
            away_mm = distance_mm(values.shape, centre, self.volume.affine[:3, :3]).ravel()
            order = np.argsort(away_mm, kind="stable")
            different = (np.abs(values - values[tuple(centre)]) > SIMILAR).ravel()[order]
            too_many = np.flatnonzero(np.cumsum(different) > MAX_DIFFERENT * np.arange(1, different.size + 1))
            radius_mm = float(away_mm[order][max(too_many[0] - 1, 0)]) if too_many.size else MAX_SEED_MM
            self._radii[ijk] = float(np.clip(radius_mm, MIN_SEED_MM, MAX_SEED_MM))
        return self._radii[ijk]

    def _contrast(self, box: Box) -> np.ndarray:
        """log(1 + SUV) of a box, smoothed, float64."""
        smooth = ndimage.gaussian_filter(self.volume.data[box], SMOOTHING_MM / np.array(self.volume.spacing))
        return np.log1p(np.maximum(smooth, 0)).astype(float)

    def _factors(self, shape: Sequence[int]) -> np.ndarray:
        """Number of voxels along each axis of a box that are averaged to one of the walker's."""
        spacing = np.array(self.volume.spacing)
        mm = max(VOXEL_MM, (np.prod(shape) * np.prod(spacing) / MAX_VOXELS) ** (1 / 3))
        return np.maximum(np.round(mm / spacing), 1).astype(int)

    def _nears_face(self, mask: np.ndarray, box: Box) -> bool:
        """Whether the mask comes within two of the walker's voxels of a face that was a background seed."""
        depths = 2 * self._factors(mask.shape)
        for axis, (part, size, depth) in enumerate(zip(box, self.volume.shape, depths, strict=True)):
            along = np.moveaxis(mask, axis, 0)
            if (part.start > 0 and along[:depth].any()) or (part.stop < size and along[-depth:].any()):
                return True
        return False


def _points(prompts: Sequence[Prompt]) -> list[Point]:
    """The points that become balls: of clicks and scribbles, and of a box or lasso that begins the object."""
    begun = prompts[:1] if not isinstance(prompts[0], InitialMask) else ()
    return signed_voxels([*begun, *(prompt for prompt in prompts[len(begun) :] if prompt.binds_voxels)])


def _roots(prompt: Prompt) -> np.ndarray:
    """Voxels of a positive prompt whose pieces of the mask stay, (n, 3)."""
    is_region = not (prompt.binds_voxels or isinstance(prompt, InitialMask))
    return np.array([prompt.centre_ijk]) if is_region else prompt.voxels


def box_around(volume: Volume, voxels: Sequence[Sequence[int]], reach_mm: float) -> Box:
    """The box around some voxels with a margin of `reach_mm`, within the volume."""
    reach = np.ceil(reach_mm * np.linalg.norm(np.linalg.inv(volume.affine[:3, :3]), axis=1)).astype(int)
    low = np.maximum(np.min(voxels, axis=0) - reach, 0)
    high = np.minimum(np.max(voxels, axis=0) + reach + 1, volume.shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _averaged(values: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Means over blocks of `factors` voxels; an incomplete block at the end of an axis repeats its last voxel."""
    blocks = -(-np.array(values.shape) // factors)
    values = np.pad(values, [(0, missing) for missing in blocks * factors - values.shape], mode="edge")
    (i, j, k), (a, b, c) = blocks, factors
    return values.reshape(i, a, j, b, k, c).mean(axis=(1, 3, 5))


def distance_mm(shape: Sequence[int], centre: Sequence[int] | np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Distance of every voxel of a box from `centre`, in mm; the columns of `axes` are the voxel axes, in mm."""
    i, j, k = (np.arange(size) - at for size, at in zip(shape, centre, strict=True))
    offsets = np.stack(np.meshgrid(i, j, k, indexing="ij"), axis=-1)  # (I, J, K, 3)
    return np.linalg.norm(offsets @ axes.T, axis=-1)


def within(ijk: Sequence[int] | np.ndarray, box: Box) -> np.ndarray:
    """Indices of a voxel, or of several, (n, 3), inside a box."""
    return np.asarray(ijk) - [part.start for part in box]
