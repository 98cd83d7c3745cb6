"""Organs of a scan without any prompt: a coarse look at the whole body, then a network prompted with what it saw.

    scan -> 10 mm voxels in RAS order -> locator -> probabilities of each label
         -> of each organ the largest piece that lies on its side of the body     coarse masks
         -> the coarse mask and a click in its middle -> promptable network
         -> what agrees with the coarse mask                                      Proposal

A proposal is where somebody starts to correct, never a truth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from seganypet.errors import SegAnyPETError, UnitError
from seganypet.metrics import dice
from seganypet.model.base import PromptableNetwork
from seganypet.model.checkpoints import load_locator, load_model, weights_sha256
from seganypet.model.locator import Locator
from seganypet.organs import ORGANS
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.look import cover, spacings_mm
from seganypet.prompting.session import Session
from seganypet.prompting.window import extent_mm, mask_on_grid, resample
from seganypet.prompting.window_decoder import WindowDecoder, best_precision
from seganypet.regions import CONNECTED_26, Box, bounding_box, deepest_voxel, widen_box

# Where left and right organs lie along x: to the patient's right, 1, or left, -1, of the body's middle.
SIDES = {
    "liver": 1, "kidney_right": 1, "lung_lower_lobe_right": 1, "lung_upper_lobe_right": 1, "lung_middle_lobe_right": 1,
    "kidney_left": -1, "spleen": -1, "lung_lower_lobe_left": -1, "lung_upper_lobe_left": -1,
}  # fmt: skip
BODY_SUV = 0.06  # voxels of the locator above it are body, see `prompting.body`
MIN_ML = 3.0  # a smaller piece is no organ
MIN_AGREEMENT = 0.5  # DSC of the prompted mask with the coarse one; below it the coarse one stays
DECODED = 2  # times that a window is decoded, the second time with its own answer before it
REACH_MM = 16.0  # so far the prompted mask may go beyond the coarse one
# The DSC to expect, as a multiple of the mean of what the locator's probabilities promise and of the agreement of both
# masks; from phantoms 300 to 311. No prostate was found there: its factor is the aorta's.
REACHED = {
    "liver": 1.0, "kidney_left": 1.08, "kidney_right": 1.08, "heart": 0.98, "spleen": 0.95, "aorta": 0.67,
    "prostate": 0.67,
} | {name: 0.89 for name in ORGANS if name.startswith("lung_")}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Proposal:
    """What was proposed for one scan.

    Attributes:
        volume: The scan.
        labels: Organs on the scan's grid, disjoint: 1 to 12 in the order of ORGANS, 0 elsewhere; (I, J, K) uint8.
        names: Name of each label in `labels`.
        confidence: For each of these organs the DSC to expect, 0 to 1. It is calibrated on phantoms, whose anatomy is
            simpler than anatomy: on a patient it may be too high.
        not_in_view: Organs that were asked for and not found: outside the field of view, not there at all, as the
            prostate of a woman, or missed, as the prostate of most men.
        proposed_by: Networks that drew it, with the first digits of their weights' SHA-256, for tables.
    """

    volume: Volume
    labels: np.ndarray
    names: Mapping[int, str]
    confidence: Mapping[str, float]
    not_in_view: tuple[str, ...]
    proposed_by: str

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Mask of each organ, bool, shape of the volume."""
        return {name: self.labels == label for label, name in self.names.items()}


@dataclass(frozen=True, eq=False)
class Place:
    """Where the locator sees an organ.

    Attributes:
        margin: The organ's probability minus the largest of all other labels, on the locator's grid, float32; positive
            in one piece alone.
        affine: Voxels of that grid to RAS+ millimetres, (4, 4).
        expected_dsc: The DSC that the probabilities promise.
    """

    margin: np.ndarray
    affine: np.ndarray
    expected_dsc: float

    def on_grid(self, volume: Volume) -> np.ndarray:
        """The organ on a volume's grid, bool; margins are interpolated, and thresholded last."""
        mask = np.zeros(volume.shape, bool)
        box = _box_on_grid(volume, self.margin > 0, self.affine)
        affine = volume.affine.copy()
        affine[:3, 3] = volume.to_mm([part.start for part in box])
        margin = torch.from_numpy(self.margin)[None, None]
        found = resample(margin, self.affine, affine, [part.stop - part.start for part in box])
        np.greater(found[0, 0].numpy(), 0, out=mask[box])
        return mask


def propose(volume: Volume, model: PromptableNetwork | str = "tiny", organs: Sequence[str] | None = None) -> Proposal:
    """Propose the organs of a scan, without any prompt.

    Args:
        volume: FDG-PET in SUVbw, shape (I, J, K), on any grid.
        model: Promptable 3D network that draws what was found; its name or path, or a network from `load_model`.
        organs: Names of organs; None: all twelve.

    Returns:
        Masks on the scan's grid, each with the DSC to expect; to be corrected, not to be taken for the truth.

    Raises:
        UnitError: The volume is not in SUVbw.
        SegAnyPETError: No volume, an unknown organ, or a network that is not promptable in 3D.
        CheckpointError: Weights that cannot be opened.
    """
    organs = ORGANS if organs is None else tuple(organs)
    if unknown := [name for name in organs if name not in ORGANS]:
        raise SegAnyPETError(f"organs: {', '.join(map(repr, unknown))} unknown; expected some of {', '.join(ORGANS)}.")
    if not isinstance(volume, Volume):
        got = type(volume).__name__
        raise SegAnyPETError(f"propose(volume) needs a volume, such as load_volume returns; got {got}.")
    if volume.unit != "SUVbw":
        raise UnitError(
            f"{volume.source} is in {volume.unit}, but organs are found by their uptake in SUVbw. Load DICOM with "
            "load_dicom, which converts, or convert with to_suvbw(volume, ...)."
        )
    network = load_model(model) if isinstance(model, str) else model
    if not Session.serves(network):
        name = getattr(network, "name", type(network).__name__)
        raise SegAnyPETError(f"{name} cannot be prompted in 3D; expected a network such as load_model('tiny').")
    decoder = WindowDecoder(cast(PromptableNetwork, network), volume, best_precision(next(network.parameters()).device))
    locator = load_locator()
    with decoder.computing():
        places = locate(volume, locator)
        drawn = {name: _draw(name, places[name], decoder) for name in organs if name in places}
    labels = np.zeros(volume.shape, np.uint8)
    for name in sorted(drawn, key=lambda name: drawn[name].confidence):  # where two overlap, the more certain one wins
        labels[drawn[name].mask] = ORGANS.index(name) + 1
    for name, one in drawn.items():  # but for what the locator says, whose organs are disjoint
        labels[one.mask & one.coarse] = ORGANS.index(name) + 1
    drawn = {name: one for name, one in drawn.items() if (labels == ORGANS.index(name) + 1).any()}
    return Proposal(
        volume, labels,
        names=MappingProxyType({ORGANS.index(name) + 1: name for name in ORGANS if name in drawn}),
        confidence=MappingProxyType({name: drawn[name].confidence for name in ORGANS if name in drawn}),
        not_in_view=tuple(name for name in organs if name not in drawn),
        proposed_by=f"proposed by {_named(locator)} and {_named(network)}",
    )  # fmt: skip


def _named(network: Any) -> str:
    return f"{network.name} {weights_sha256(network)[:8]}"


def locate(volume: Volume, locator: Locator) -> dict[str, Place]:
    """Where the organs of a scan are, as far as a coarse look tells; those that are not seen are left out."""
    image = _in_ras(volume, locator.config.spacing_mm)
    margin = [(0, -size % locator.config.step) for size in image.shape]
    suv = torch.from_numpy(np.pad(image.data, margin))[None, None]
    i, j, k = image.shape
    with torch.inference_mode():
        probability = locator(suv)[0].softmax(0)[:, :i, :j, :k].numpy()  # (1 + labels, X, Y, Z)
    seen = probability.argmax(0)
    best, second = np.partition(probability, -2, axis=0)[[-1, -2]]
    voxel_ml = locator.config.spacing_mm**3 / 1000
    places = {}
    for label, name in enumerate(locator.config.labels, start=1):
        here = seen == label
        piece = _piece(here, SIDES.get(name), image.data > BODY_SUV, math.ceil(MIN_ML / voxel_ml))
        if name not in ORGANS or piece is None:
            continue
        margin = np.where(here, best - second, probability[label] - best)
        margin[here & ~piece] *= -1
        box = widen_box(bounding_box(piece), (4, 4, 4), piece.shape)
        inside, likely = piece[box], probability[label][box]
        expected = 2 * likely[inside].sum() / (likely.sum() + inside.sum())
        places[name] = Place(margin, image.affine, float(expected))
    return places


def _in_ras(volume: Volume, spacing_mm: float) -> Volume:
    """The scan on cubic voxels whose axes run to the patient's right, front and head."""
    low, high = extent_mm(volume)
    shape = np.maximum(np.ceil((high - low) / spacing_mm - 1e-6), 1).astype(int)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = (low + high - spacing_mm * (shape - 1)) / 2
    return resample_to(volume, Volume(np.zeros(shape, np.float32), affine, volume.unit))


def _piece(here: np.ndarray, side: int | None, body: np.ndarray, min_voxels: int) -> np.ndarray | None:
    """The largest piece of a mask on the locator's grid that is large enough and on its side; None if there is none."""
    pieces, count = ndimage.label(here, CONNECTED_26)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    for number in 1 + np.argsort(-sizes[1:], kind="stable"):
        if sizes[number] < min_voxels:
            return None
        piece = pieces == number
        if side is None or _lies_on(side, piece, body):
            return piece
    return None


def _lies_on(side: int, piece: np.ndarray, body: np.ndarray) -> bool:
    """Whether the middle of a piece lies on that side of the body's, in the slices that hold it."""
    slices = body[:, :, piece.any(axis=(0, 1))]
    if slices[0].any() or slices[-1].any() or not slices.any():
        return True  # the scan cuts the body at a side: where its middle is cannot be known
    across = slices.sum(axis=(1, 2)).cumsum()
    middle = np.searchsorted(across, across[-1] / 2)
    return bool(side * (np.nonzero(piece)[0].mean() - middle) > 0)


def _box_on_grid(volume: Volume, mask: np.ndarray, affine: np.ndarray) -> Box:
    """The box of a volume's voxels that holds a mask on another grid, and the voxels around it."""
    ends = [(part.start - 1, part.stop) for part in bounding_box(mask)]
    ijk = volume.to_ijk(nib.affines.apply_affine(affine, list(product(*ends))))
    low = np.clip(np.floor(ijk.min(0)), 0, np.array(volume.shape) - 1).astype(int)
    high = np.clip(np.ceil(ijk.max(0)) + 1, low + 1, volume.shape).astype(int)
    i, j, k = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return i, j, k


class Drawn(NamedTuple):
    """An organ as the network draws it and as the locator saw it, bool, shape of the volume; and the DSC to expect."""

    mask: np.ndarray
    coarse: np.ndarray
    confidence: float


def _draw(name: str, place: Place, decoder: WindowDecoder) -> Drawn:
    coarse = place.on_grid(decoder.volume)
    if not coarse.any():
        return Drawn(coarse, coarse, 0.0)
    prompted = prompted_mask(decoder, coarse)
    agreement = dice(prompted, coarse)
    confidence = REACHED[name] * (place.expected_dsc + agreement) / 2
    return Drawn(prompted if agreement >= MIN_AGREEMENT else coarse, coarse, min(confidence, 1.0))


def prompted_mask(decoder: WindowDecoder, coarse: np.ndarray) -> np.ndarray:
    """What a network draws, given a coarse mask as its logits so far and a click on the mask's deepest voxel.

    Only what is connected and near the coarse mask is kept: a leak is none of the organ's.
    """
    volume, start = decoder.volume, InitialMask.pack(coarse)
    deepest = np.add(deepest_voxel(start.inside, volume.spacing), start.low_ijk)
    # In windows of the network's own voxel size: where the organ is, and how large, is known already.
    parts = cover(decoder, start, spacings_mm(decoder.model, float(decoder.model.config.spacing_mm), None))
    for _ in range(DECODED):
        parts = tuple(decoder.decode(part, [(volume.to_mm(deepest), True)]) for part in parts)
    mask = mask_on_grid(volume, [(part.window, part.logits) for part in parts])
    box = widen_box(start.box, np.ceil(REACH_MM / np.array(volume.spacing)), volume.shape)
    near = ndimage.distance_transform_edt(~coarse[box], sampling=volume.spacing) <= REACH_MM
    pieces, count = ndimage.label(mask[box] & near, CONNECTED_26)
    found = np.zeros_like(mask)
    if count:
        found[box] = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    return found
