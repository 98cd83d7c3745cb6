"""What a threshold reaches from the same clicks: the rules of clinical PET reading.

A `ThresholdSession` takes the calls of a model's session, so whatever drives a model can drive a threshold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from seganypet.errors import UnitError
from seganypet.pet.threshold_rules import ThresholdRule
from seganypet.pet.volume import Volume
from seganypet.pieces import Pieces
from seganypet.prompting.base import PromptSession
from seganypet.prompting.classical import ClassicalSession, growing
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompt import as_voxels
from seganypet.prompting.prompts import Prompt, Voxel, signed_voxels
from seganypet.prompting.random_walker import RANDOM_WALKER, RandomWalkerSession, box_around, distance_mm, within
from seganypet.prompting.shapes import Box as BoxPrompt
from seganypet.prompting.simulate import shifted
from seganypet.regions import Box, bounding_box, box_from, box_of, widen_box

# The rules that tables show by default.
RULES: tuple[str, ...] = ("41% SUVmax", "SUV>=2.5", "SUV>=4", "41% SUVmax, from hottest", "band")
PEAK_RADIUS_MM = 15.0
BAND = 0.8
BAND_SIGMA_MM = 4.0


class Region(NamedTuple):
    """What is found from one prompt.

    Attributes:
        anchors: Voxels that a negative click is weighed against.
        roots: Voxels whose piece of the mask stays when others are cut off, (m, 3).
        found: What was found; packed, because the regions of a session's prompts are kept.
    """

    anchors: tuple[Voxel, ...]
    roots: np.ndarray
    found: PackedMask


class ThresholdSession(ClassicalSession):
    """Region growing by a threshold, behind the calls of a model's session.

    Rules, by name (see `ThresholdRule`; any percentage or SUV may be given):
        "41% SUVmax": voxels of at least 41 % of the maximum within 15 mm of the click, 26-connected to the clicked
            voxel.
        "SUV>=2.5", "SUV>=4": voxels of at least this SUVbw, 26-connected to the clicked voxel.
        "41% SUVmax, from hottest", "SUV>=2.5, from hottest": the same, grown from the hottest voxel within 15 mm of the
            click, as workstations do that snap to the local maximum. Without these words a click on a voxel below the
            threshold, such as the necrotic core of a tumour, grows nothing.
        "band": for organs, which are not hotter than everything around them. In the volume smoothed by a Gaussian of
            sigma 4 mm, voxels from 0.8 to 1 / 0.8 times the intensity at the click, 26-connected to it.

    A positive scribble is grown from all of its voxels, with one threshold: that of the hottest voxel within 15 mm of
    it ("band": from 0.8 times the lowest to 1 / 0.8 times the highest intensity on it). A box or lasso bounds or
    empties its region, see `prompting.shapes`; as the first prompt on an object, it is grown from the hottest voxel
    inside ("band": its centre). A mask to start from stays as it is; what is grown after it reaches no farther from its
    prompt than the mask's core is.

    All of these together give the union of what is grown from each. A negative click or scribble removes what lies
    nearer (in mm) to it than to every positive one (of a scribble, to 8 voxels on it) and to the core of a mask to
    start from; of the rest, only pieces that contain a positive prompt or its starting voxel remain. Clicked voxels are
    on the side that the user said, unless nothing is found at all: then the mask is empty, and `notice` says so.

    Args:
        volume: The scan, a PET.
        rule: Name of the rule, or a `ThresholdRule`.

    Attributes:
        rule: Name of the rule.

    Raises:
        VolumeError: The rule is unknown.
        UnitError: The volume is not a PET, or not in SUVbw where the rule is a fixed SUV.
    """

    def __init__(self, volume: Volume, rule: str | ThresholdRule = "41% SUVmax") -> None:
        self._rule = ThresholdRule.parse(rule)
        self.rule = str(self._rule)
        fixed = self._rule.suvbw is not None
        if volume.unit == "HU" or (volume.unit != "SUVbw" and fixed):
            expected = "SUVbw" if fixed else "PET (SUVbw or Bq/mL)"
            raise UnitError(f"{volume.source} is in {volume.unit}; the rule {self.rule!r} needs {expected}.")
        super().__init__(volume)
        self._data = volume.data
        if self._rule.is_band:
            self._data = ndimage.gaussian_filter(volume.data, BAND_SIGMA_MM / np.array(volume.spacing))
        self._flood = FloodFill(self._data)
        self._regions: dict[Prompt, Region] = {}

    def _predict(self, prompts: tuple[Prompt, ...], previous: tuple[Prompt, ...] | None) -> tuple[Prompt, ...]:
        newest, others = prompts[-1], growing(prompts[:-1])
        if newest in growing(prompts) and not self._region(newest).found:  # a failure comes before it counts
            hottest = max(float(self._data[tuple(voxel)]) for voxel in self._region(newest).roots)
            alone = " Only its own voxels are added." if any(self._region(one).found for one in others) else ""
            self._tell(
                f"Nothing found at this {newest.kind}: {hottest:.3g} {self.volume.unit} is below the threshold "
                f"({self.rule}).{alone}"
            )
        return prompts  # a mask follows from prompts alone

    def _mask_on_grid(self, prediction: tuple[Prompt, ...]) -> np.ndarray:
        mask = np.zeros(self.volume.shape, bool)
        regions = [self._region(prompt) for prompt in growing(prediction)]
        start = prediction[0] if isinstance(prediction[0], InitialMask) else None
        for region in regions:
            mask[region.found.box] |= region.found.inside if start is None else self._within_reach(region, start)
        if not any(region.found for region in regions):
            return mask
        self._constrain(mask, prediction)
        negatives = [prompt for prompt in prediction if prompt.binds_voxels and not prompt.foreground]
        anchors = [voxel for region in regions for voxel in region.anchors]
        self._cut(mask, [voxel for voxel, _ in signed_voxels(negatives)], anchors, start)
        if len(regions) < len(prediction):  # something was taken away
            _keep_pieces(mask, np.concatenate([region.roots for region in regions]))
        return mask

    def _provenance(self) -> dict[str, str]:
        return {"name": f"threshold {self.rule}", "rule": self.rule}

    def _region(self, prompt: Prompt) -> Region:
        """What is found from a prompt; cached, so that each grows once."""
        if prompt not in self._regions:
            self._regions[prompt] = self._found(prompt)
        return self._regions[prompt]

    def _found(self, prompt: Prompt) -> Region:
        if isinstance(prompt, InitialMask):
            return Region((), prompt.voxels, PackedMask.within(self.volume.shape, prompt.box, prompt.inside))
        if prompt.binds_voxels:
            anchors, voxels = [voxel for voxel, _ in prompt.points], prompt.voxels
        else:
            anchors = [prompt.centre_ijk if self._rule.is_band else _hottest_inside(self._data, prompt)]
            voxels = np.array(anchors)
        start, lower, upper = self._limits(voxels)
        grown = PackedMask.within(self.volume.shape, *self._flood.grow(start, lower, upper))
        return Region(tuple(anchors), np.concatenate([voxels, start]), grown)

    def _limits(self, voxels: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Where to start growing, (n, 3), and between which intensities."""
        if self._rule.is_band:
            values = self._data[tuple(voxels.T)].astype(float)
            candidates = np.concatenate([BAND * values, values / BAND])
            return voxels, float(candidates.min()), float(candidates.max())
        start, peak = max((hottest_voxel(self.volume, voxel) for voxel in voxels), key=lambda found: found[1])
        return np.array([start]) if self._rule.from_hottest else voxels, self._rule.lowest(peak), np.inf

    def _cut(
        self, mask: np.ndarray, negatives: Sequence[Voxel], positives: Sequence[Voxel], start: InitialMask | None
    ) -> None:
        """Remove from a mask, in place, what is nearer to a negative voxel than to all positive ones and the start."""
        box = bounding_box(mask)
        if box is None:
            return
        for negative in negatives:
            nearer = np.ones(mask[box].shape, bool)
            for positive in positives:
                nearer &= self._nearer(within(negative, box), within(positive, box), nearer.shape)
            if start is not None:
                voxels = np.argwhere(nearer & mask[box])
                nearer[tuple(voxels.T)] = self._nearer_than_core(voxels + [side.start for side in box], negative, start)
            mask[box] &= ~nearer

    def _within_reach(self, region: Region, start: InitialMask) -> np.ndarray:
        """What is found from a prompt, no farther from it than it is from the core of the mask to start from."""
        if not region.anchors:
            return region.found.inside  # the start itself
        axes, core = self.volume.affine[:3, :3], start.core(self.volume.spacing)
        kept = region.found.inside
        voxels = np.argwhere(kept)
        near = np.zeros(len(voxels), bool)
        for anchor in region.anchors:
            reach_mm = np.linalg.norm((core - anchor) @ axes.T, axis=1).min()
            near |= np.linalg.norm((voxels - within(anchor, region.found.box)) @ axes.T, axis=1) <= reach_mm
        kept[tuple(voxels[~near].T)] = False
        return kept

    def _nearer_than_core(self, voxels: np.ndarray, negative: Voxel, start: InitialMask) -> np.ndarray:
        """Whether voxels, (n, 3), are nearer to a negative one than to the core of the mask to start from.

        The core within twice the depth of the negative voxel is what it denies, and does not count.
        """
        axes, spacing = self.volume.affine[:3, :3], self.volume.spacing
        core_mm, voxels_mm = ((points - negative) @ axes.T for points in (start.core(spacing), voxels))
        core_mm = core_mm[np.linalg.norm(core_mm, axis=1) > 2 * start.depth_at(negative, spacing)]
        if not len(core_mm):
            return np.ones(len(voxels), bool)
        return np.linalg.norm(voxels_mm, axis=1) < KDTree(core_mm).query(voxels_mm)[0]

    def _nearer(self, a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Voxels nearer to a than to b: one side of a plane, |v-a|^2 < |v-b|^2 in the metric of the affine."""
        metric = self.volume.affine[:3, :3].T @ self.volume.affine[:3, :3]
        slope = 2 * metric @ (a - b)
        i, j, k = (slope[axis] * np.arange(size) for axis, size in enumerate(shape))
        limit, nearer = a @ metric @ a - b @ metric @ b, np.empty(shape, bool)
        for plane, along_i in zip(nearer, i, strict=True):  # plane by plane, which stays in the processor's cache
            np.greater((along_i + j)[:, None] + k, limit, out=plane)
        return nearer


def _hottest_inside(data: np.ndarray, prompt: Prompt) -> Voxel:
    """The hottest voxel inside a box or lasso."""
    if isinstance(prompt, BoxPrompt):  # may be as large as the volume
        inside = data[prompt.slices]
        return shifted(np.unravel_index(inside.argmax(), inside.shape), prompt.slices)
    voxels = prompt.voxels
    return as_voxels(voxels[[data[tuple(voxels.T)].argmax()]])[0]


def _keep_pieces(mask: np.ndarray, roots: np.ndarray) -> None:
    """Remove from a mask, in place, the 26-connected pieces that hold none of some voxels."""
    box = bounding_box(mask)
    if box is not None:
        pieces = Pieces(mask[box])
        kept = pieces.at(roots[mask[tuple(roots.T)]] - [part.start for part in box])
        if len(kept) < len(pieces.sizes):
            inner, inside = pieces.mask_of(kept)
            mask[box] = False
            mask[box_from(inner, box)] = inside


def baseline_name(rule: str | ThresholdRule) -> str:
    """The name of a classical baseline as tables have it: "random_walker", or that of a `ThresholdRule`.

    Raises:
        VolumeError: No such baseline.
    """
    return RANDOM_WALKER if rule == RANDOM_WALKER else str(ThresholdRule.parse(rule))


def baseline_session(volume: Volume, rule: str | ThresholdRule) -> PromptSession:
    """A session of a classical baseline by name: "random_walker", or a rule of `ThresholdSession`.

    Raises:
        VolumeError: No such baseline.
        UnitError: The volume's unit does not suit the baseline.
    """
    return RandomWalkerSession(volume) if rule == RANDOM_WALKER else ThresholdSession(volume, rule)


def hottest_voxel(volume: Volume, ijk: Sequence[int]) -> tuple[tuple[int, int, int], float]:
    """The hottest voxel whose centre lies within 15 mm of the centre of `ijk`, and its intensity."""
    box = box_around(volume, [ijk], PEAK_RADIUS_MM)
    nearby = volume.data[box]
    far = distance_mm(nearby.shape, within(ijk, box), volume.affine[:3, :3]) > PEAK_RADIUS_MM
    hottest = np.unravel_index(np.argmax(np.where(far, -np.inf, nearby)), nearby.shape)
    return shifted(hottest, box), float(nearby[hottest])


class FloodFill:
    """26-connected flood fill; it looks only around its seeds, and at the whole scan if the fill goes on from there.

    Args:
        data: Values, shape (I, J, K).
    """

    REACHES = (32, 64)  # voxels around the seeds that are looked at first

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self._whole: tuple[tuple[float, float], Box, Pieces] | None = None  # limits, and what they leave of the scan

    def grow(self, ijk: Sequence[int] | np.ndarray, lower: float, upper: float = np.inf) -> tuple[Box, np.ndarray]:
        """Voxels from `lower` to `upper` connected to a voxel, or to any of several, (n, 3), that are within these.

        Returns:
            The smallest box that holds them, and the voxels within it, bool.
        """
        seeds, shape, limits = np.atleast_2d(ijk), self._data.shape, (float(lower), float(upper))
        if self._whole is None or self._whole[0] != limits:
            for reach in self.REACHES:
                box = widen_box(box_of(seeds), [reach] * 3, shape)
                found, mask = _pieces_at(seeds, box, Pieces(self._within(box, *limits)))
                if not mask.size or not any(_meets(found[axis], box[axis], shape[axis]) for axis in range(3)):
                    return found, mask
            inside = self._within((slice(None),) * 3, *limits)
            box = bounding_box(inside) or (slice(0, 0),) * 3
            self._whole = limits, box, Pieces(inside[box])
        return _pieces_at(seeds, *self._whole[1:])

    def _within(self, box: Box, lower: float, upper: float) -> np.ndarray:
        data = self._data[box]
        return data >= lower if upper == np.inf else (data >= lower) & (data <= upper)


def _pieces_at(seeds: np.ndarray, box: Box, pieces: Pieces) -> tuple[Box, np.ndarray]:
    """Of the pieces in a box of an array, those that hold some voxels of it, and the box of these."""
    inner, mask = pieces.mask_of(pieces.at(seeds - [part.start for part in box]))
    return box_from(inner, box), mask


def _meets(found: slice, looked_at: slice, size: int) -> bool:
    """Whether what was found meets an end of what was looked at along an axis, behind which the array goes on."""
    return 0 < found.start == looked_at.start or found.stop == looked_at.stop < size
