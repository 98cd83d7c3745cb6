"""What a threshold reaches from the same clicks: the rules of PET reading rooms, and an oracle that knows the answer.

A `ThresholdSession` takes the calls of a model's session, so that whatever drives a model drives a threshold.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from seganypet.errors import ClickError, GeometryError, SegAnyPETError, UnitError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import Prompt, signed_voxels
from seganypet.prompting.random_walker import RANDOM_WALKER, RandomWalkerSession
from seganypet.regions import CONNECTED_26, bounding_box

RULES = ("41%", "2.5", "4.0", "41% hottest", "band")  # those that tables show; see ThresholdSession
PEAK_RADIUS_MM = 15.0
BAND = 0.8
BAND_SIGMA_MM = 4.0
_RULE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<percent>%?)(?P<hottest> hottest)?")


class Region(NamedTuple):
    """What one positive click grew: its starting voxel, and the mask inside a box of the volume."""

    start: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    mask: np.ndarray


class ThresholdSession(PromptSession):
    """Threshold growing behind the calls of a model's session.

    Rules, by name:
        "41%": voxels of at least 41 % of the maximum within 15 mm of the click, 26-connected to the clicked voxel.
        "2.5", "4.0": voxels of at least this SUVbw, 26-connected to the clicked voxel.
        "41% hottest", "2.5 hottest", ...: the same, grown from the hottest voxel within 15 mm of the click, as a
            workstation does that snaps to the local maximum. Without this word a click on a voxel below the threshold,
            such as the necrotic core of a tumour, grows nothing.
        "band": for organs, which are not hotter than all around them. In the volume smoothed by a Gaussian of sigma
            4 mm, voxels from 0.8 to 1 / 0.8 times the intensity at the click, 26-connected to it.
    Any number may stand in the place of 41, 2.5 or 4.0.

    Several positive clicks give the union of what each grows. A negative click takes away what lies nearer (in mm) to
    it than to every positive click; of the rest, only pieces that hold a positive click or its starting voxel stay.

    Args:
        volume: The scan.
        rule: Name of the rule.

    Raises:
        SegAnyPETError: A rule that cannot be read.
        UnitError: A volume that is not PET; a fixed SUV threshold on a volume that is not in SUVbw.
    """

    def __init__(self, volume: Volume, rule: str = "41%") -> None:
        parts = _RULE.fullmatch(str(rule))
        if rule != "band" and (parts is None or float(parts["number"]) == 0):
            raise SegAnyPETError(
                f"unknown threshold rule {rule!r}; expected a share of the peak ('41%') or an SUV ('2.5'), each "
                "perhaps with ' hottest' behind it, or 'band'."
            )
        fixed = parts is not None and not parts["percent"]
        if volume.unit == "HU" or (volume.unit != "SUVbw" and fixed):
            need = "SUVbw" if fixed else "PET (SUVbw or Bq/mL)"
            raise UnitError(f"{volume.source}: rule {rule!r} needs {need}; the volume's unit is {volume.unit}.")
        super().__init__(volume)
        self.rule = rule
        self._parts = parts
        self._data = volume.data
        if parts is None:
            self._data = ndimage.gaussian_filter(volume.data, BAND_SIGMA_MM / np.array(volume.spacing))
        self._flood = _Flood(self._data)
        self._regions: dict[tuple[int, int, int], Region] = {}

    def _predict(self, prompts: tuple[Prompt, ...], previous: tuple[Prompt, ...] | None) -> tuple[Prompt, ...]:
        for ijk, foreground in signed_voxels(prompts[-1:]):
            if foreground:
                self._region(ijk)  # what can fail fails here, before the prompt counts
        return prompts  # a mask follows from prompts alone

    def _mask_on_grid(self, prediction: tuple[Prompt, ...]) -> np.ndarray:
        mask = np.zeros(self.volume.shape, bool)
        positives = [ijk for ijk, foreground in signed_voxels(prediction) if foreground]
        negatives = [ijk for ijk, foreground in signed_voxels(prediction) if not foreground]
        regions = [self._region(ijk) for ijk in positives]
        for region in regions:
            mask[region.box] |= region.mask
        if negatives:
            self._cut(mask, positives, negatives, [region.start for region in regions])
        return mask

    def _provenance(self) -> dict[str, str]:
        return {"name": f"threshold {self.rule}", "rule": self.rule}

    def _region(self, ijk: tuple[int, int, int]) -> Region:
        """What a positive click grows; kept, so that each click grows once."""
        if ijk not in self._regions:
            start, lower, upper = self._limits(ijk)
            grown = self._flood.grow(start, lower, upper)
            box = bounding_box(grown) or (slice(0, 0),) * 3
            self._regions[ijk] = Region(start, box, grown[box].copy())
        return self._regions[ijk]

    def _limits(self, ijk: tuple[int, int, int]) -> tuple[tuple[int, int, int], float, float]:
        """Where to start growing, and between which intensities."""
        if self._parts is None:
            value = float(self._data[ijk])
            return ijk, *sorted((BAND * value, value / BAND))
        peak_ijk, peak = hottest_voxel(self.volume, ijk)
        number = float(self._parts["number"])
        lower = number / 100 * peak if self._parts["percent"] else number
        return peak_ijk if self._parts["hottest"] else ijk, lower, np.inf

    def _cut(self, mask: np.ndarray, positives: list, negatives: list, starts: list) -> None:
        """Take out of a mask, in place, what is nearer to a negative click, and pieces that then hang on nothing."""
        box = bounding_box(mask)
        if box is None:
            return
        corner = np.array([part.start for part in box])
        inside = mask[box].copy()
        for negative in negatives:
            nearer = np.ones(inside.shape, bool)
            for positive in positives:
                nearer &= self._nearer(np.array(negative) - corner, np.array(positive) - corner, inside.shape)
            inside &= ~nearer
        labels, _ = ndimage.label(inside, CONNECTED_26)
        roots = [ijk for ijk in (*positives, *starts) if mask[ijk]]
        kept = [labels[tuple(np.array(ijk) - corner)] for ijk in roots]
        mask[box] = np.isin(labels, kept) & inside

    def _nearer(self, a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Voxels nearer to a than to b: one side of a plane, |v-a|^2 < |v-b|^2 in the metric of the affine."""
        metric = self.volume.affine[:3, :3].T @ self.volume.affine[:3, :3]
        slope = 2 * metric @ (a - b)
        i, j, k = (slope[axis] * np.arange(size) for axis, size in enumerate(shape))
        return i[:, None, None] + j[:, None] + k > a @ metric @ a - b @ metric @ b


def baseline_session(volume: Volume, rule: str) -> PromptSession:
    """A session of any classical baseline by name: "random_walker", or a rule of `ThresholdSession`.

    Raises:
        SegAnyPETError: Another name.
        UnitError: A volume in a unit that the baseline cannot use.
    """
    return RandomWalkerSession(volume) if rule == RANDOM_WALKER else ThresholdSession(volume, rule)


class BestThreshold(NamedTuple):
    """Answer of `best_threshold`; an upper bound, not a method."""

    threshold: float
    dsc: float
    mask: np.ndarray


def best_threshold(volume: Volume, truth: np.ndarray, ijk: Sequence[int], steps: int = 64) -> BestThreshold:
    """ORACLE: the threshold from this voxel that agrees best with the truth, chosen with the truth known.

    No threshold rule of whatever kind can do better from the same starting voxel (up to the step). For the oracle of a
    lesion start at its hottest voxel.

    Args:
        volume: The scan.
        truth: True inside the target, shape of `volume`, bool.
        ijk: Voxel from which the 26-connected region grows.
        steps: Number of thresholds tried: quantiles of the truth's intensities up to the one at `ijk`.

    Raises:
        GeometryError: Shapes differ.
        ClickError: Empty truth or a voxel outside the volume.
    """
    if truth.shape != volume.shape or truth.dtype != bool:
        raise GeometryError(f"truth ({truth.dtype}, {truth.shape}) must be bool on the grid of {volume.shape}.")
    ijk = tuple(int(index) for index in ijk)
    if not truth.any() or not volume.contains_ijk(ijk):
        raise ClickError(f"{volume.source}: the oracle needs a target and a voxel inside the volume; got ijk={ijk}.")
    size = np.count_nonzero(truth)
    values = np.minimum(volume.data[truth], volume.data[ijk])
    flood = _Flood(volume.data)
    best = BestThreshold(float("nan"), -1.0, np.zeros_like(truth))
    for threshold in np.unique(np.quantile(values, np.linspace(0, 1, steps), method="lower"))[::-1]:
        mask = flood.grow(ijk, threshold)
        # Lower thresholds only grow the region; once it alone is too large to win, stop.
        if 2 * size / (size + np.count_nonzero(mask)) <= best.dsc:
            break
        dsc = dice(mask, truth)
        if dsc > best.dsc:
            best = BestThreshold(float(threshold), dsc, mask)
    return best


def hottest_voxel(
    volume: Volume, ijk: Sequence[int], radius_mm: float = PEAK_RADIUS_MM
) -> tuple[tuple[int, int, int], float]:
    """The hottest voxel whose centre lies within `radius_mm` of the centre of `ijk`, and its intensity."""
    reach = np.ceil(radius_mm * np.linalg.norm(np.linalg.inv(volume.affine[:3, :3]), axis=1)).astype(int)
    low = np.maximum(np.array(ijk) - reach, 0)
    box = tuple(slice(a, b) for a, b in zip(low, np.array(ijk) + reach + 1, strict=True))
    offsets = np.moveaxis(np.indices(volume.data[box].shape), 0, -1) + low - np.array(ijk)
    far = np.linalg.norm(offsets @ volume.affine[:3, :3].T, axis=-1) > radius_mm
    values = np.where(far, -np.inf, volume.data[box])
    found = np.array(np.unravel_index(np.argmax(values), values.shape)) + low
    found = tuple(int(index) for index in found)
    return found, float(volume.data[found])


class _Flood:
    """26-connected flood fill; visits only the region that it fills, unlike labelling a whole scan."""

    def __init__(self, data: np.ndarray) -> None:
        import SimpleITK as sitk  # slow to import

        self._sitk = sitk
        # SimpleITK counts axes from the fastest one: index (k, j, i) there is (i, j, k) here.
        self._image = sitk.GetImageFromArray(data)

    def grow(self, ijk: Sequence[int], lower: float, upper: float = np.inf) -> np.ndarray:
        """Voxels from `lower` to `upper` connected to `ijk`; bool; empty if `ijk` itself is outside these."""
        filled = self._sitk.ConnectedThreshold(
            self._image,
            seedList=[tuple(int(index) for index in ijk)[::-1]],
            lower=float(lower),
            upper=min(float(upper), float(np.finfo(np.float32).max)),
            connectivity=self._sitk.ConnectedThresholdImageFilter.FullConnectivity,
        )
        return self._sitk.GetArrayViewFromImage(filled).astype(bool)
