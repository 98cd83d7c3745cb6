"""What a threshold reaches from the same clicks: the rules of clinical PET reading.

A `ThresholdSession` takes the calls of a model's session, so whatever drives a model can drive a threshold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from seganypet.errors import UnitError
from seganypet.pet.threshold_rules import ThresholdRule
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.prompting.prompts import Prompt, signed_voxels
from seganypet.prompting.random_walker import RANDOM_WALKER, RandomWalkerSession, box_around, distance_mm, within
from seganypet.prompting.simulate import shifted
from seganypet.regions import CONNECTED_26, bounding_box

# The rules that tables show by default.
RULES: tuple[str, ...] = ("41% SUVmax", "SUV>=2.5", "SUV>=4", "41% SUVmax, from hottest", "band")
PEAK_RADIUS_MM = 15.0
BAND = 0.8
BAND_SIGMA_MM = 4.0


class Region(NamedTuple):
    """The region grown from one positive click: its starting voxel, and the mask inside a box of the volume."""

    start: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    mask: np.ndarray


class ThresholdSession(PromptSession):
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

    Several positive clicks give the union of the regions grown from each. A negative click removes what lies nearer (in
    mm) to it than to every positive click; of the rest, only pieces that contain a positive click or its starting voxel
    remain.

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
        self._regions: dict[tuple[int, int, int], Region] = {}

    def _predict(self, prompts: tuple[Prompt, ...], previous: tuple[Prompt, ...] | None) -> tuple[Prompt, ...]:
        for ijk, foreground in signed_voxels(prompts[-1:]):
            if foreground:
                self._region(ijk)  # a failure must come before the prompt counts
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
        """The region grown from a positive click; cached, so that each click grows once."""
        if ijk not in self._regions:
            start, lower, upper = self._limits(ijk)
            grown = self._flood.grow(start, lower, upper)
            box = bounding_box(grown) or (slice(0, 0),) * 3
            self._regions[ijk] = Region(start, box, grown[box].copy())
        return self._regions[ijk]

    def _limits(self, ijk: tuple[int, int, int]) -> tuple[tuple[int, int, int], float, float]:
        """Where to start growing, and between which intensities."""
        if self._rule.is_band:
            value = float(self._data[ijk])
            lower, upper = sorted((BAND * value, value / BAND))
            return ijk, lower, upper
        peak_ijk, peak = hottest_voxel(self.volume, ijk)
        return peak_ijk if self._rule.from_hottest else ijk, self._rule.lowest(peak), np.inf

    def _cut(self, mask: np.ndarray, positives: list, negatives: list, starts: list) -> None:
        """Remove from a mask, in place, what is nearer to a negative click, and pieces that lose their connection."""
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
    """26-connected flood fill; unlike labelling a whole scan, it visits only the region that it fills."""

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
