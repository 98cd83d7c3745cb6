"""Where to look: the window that fits an object, found by the network itself.

    first_look   the first prompt: a hot spot, what the network sees in a fine and in a wide window, what is even around
                 the click; of several answers the one with the clearest edge
    look_at_region   the same for a box or a lasso
    follow       the window moves to where the object turned out to be, finer if it is small
    cover        windows over a mask to start from

Whoever clicks knows neither the size of the object nor its middle; a window centred on a click beside the middle cuts
the object, and a network takes what it sees of it for the whole. So the window is centred on the mask found so far, and
decoded again with that mask as the logits of the step before.

Ours, not published; the figures that chose these numbers are in benchmarks/sessions.md.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from seganypet.model.base import PromptableNetwork
from seganypet.prompting.binding import EDGE
from seganypet.prompting.prompts import Box, InitialMask, Lasso
from seganypet.prompting.window import Window, resample
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import (
    PointMM,
    WindowLogits,
    keep_clicked_components,
    mask_extent_mm,
    resample_logits,
    touched_faces,
)
from seganypet.regions import CONNECTED_6, CONNECTED_26

FINEST_MM = 1.5
# Looks, in multiples of the network's own voxel size.
WIDE, FINE = 1.5, 0.5
EXTENT = 0.2  # of a window's side; what spans less is decoded in a finer window
MAX_COVER = 64  # windows over a mask to start from; one that needs more gets coarser ones
LATTICE = 16  # windows that follow lie on a lattice of this fraction of their side, so that many are known already

# A spot: what is seen in the fine look, small and with an edge all around; less of it before its window is found.
SPOT_ML, SPOT_EDGE, MAYBE_SPOT_EDGE = 60.0, 0.8, 0.72
# A hot region: as large as a spot at most, and so much hotter than its surroundings.
HOT, HOT_FRACTIONS, HOT_PEAK_MM, HOT_SHELL_MM = 1.6, (0.42, 0.5, 0.6, 0.7), 6.0, (4.0, 14.0)
# One nested in something warm is left to the network, which must see a spot there, too.
FAR_SHELL_MM, NESTED, NESTED_EDGE = (20.0, 32.0), 1.8, 0.65
# An even region: what is connected to the click and differs from it by no more than this fraction, smoothed.
EVEN, EVEN_SMOOTHING_MM = 0.3, 5.0
START_LOGIT = 3.0  # of what is not the network's own, but given to it to start from
WARM = 1.5  # times what is just outside it: less is no organ that a PET shows
EVEN_HANDICAP = 0.8  # of its edge, against that of what the network sees alone
EDGE_STEP = 0.15  # of log(1 + SUV), from which two neighbours differ


class Scales(NamedTuple):
    """Voxel sizes of windows, in mm.

    Attributes:
        own: That of the network, or the one that the user fixed.
        finest: Smallest that a window may take that follows.
        looks_around: Whether a first prompt is seen at several.
    """

    own: float
    finest: float
    looks_around: bool


class Edge(NamedTuple):
    """How clearly a mask stands out.

    Attributes:
        mean: Mean difference, in log(1 + intensity), between the voxels just outside and the mask beside them.
        fraction: Fraction of the voxels just outside that differ.
    """

    mean: float
    fraction: float


def spacings_mm(model: PromptableNetwork, spacing_mm: float | None, min_spacing_mm: float | None) -> Scales:
    """The voxel sizes that suit a network, as far as the user has not fixed them.

    A network in SUV is robust to other voxel sizes than its own; released networks, of z-scores, keep theirs.
    """
    own = float(model.config.spacing_mm)
    if spacing_mm is not None:
        return Scales(spacing_mm, min_spacing_mm or spacing_mm, looks_around=False)
    around = model.config.intensity == "log_suv"
    return Scales(own, min_spacing_mm or (min(own, FINEST_MM) if around else own), around)


def first_look(decoder: WindowDecoder, points: list[PointMM], scales: Scales) -> WindowLogits:
    """The window that fits what was clicked first, and the network's logits in it."""
    clicked_mm = next(mm for mm, foreground in points if foreground)

    def look(spacing_mm: float) -> WindowLogits:
        blank = decoder.blank(decoder.window(clicked_mm, spacing_mm))
        return clicked_part(decoder.decode(blank, points), points)

    if not scales.looks_around:
        return settled(decoder, look(scales.own), points, scales)
    fine_mm = max(FINE * scales.own, scales.finest)
    spot = look(fine_mm)
    hot = hot_region(decoder, spot.window, clicked_mm)
    if hot is not None and (not is_nested(decoder, hot) or edge_of(decoder, spot).fraction >= NESTED_EDGE):
        return settled(decoder, clicked_part(decoder.decode(hot, points), points), points, scales)
    if is_spot(decoder, spot, MAYBE_SPOT_EDGE):
        spot = settled(decoder, spot, points, scales)
        if is_spot(decoder, spot, SPOT_EDGE):
            return spot
    wide = follow(decoder, look(WIDE * scales.own), points, scales)
    region = even_region(decoder, decoder.window(clicked_mm, WIDE * scales.own), clicked_mm)
    if is_warm(decoder, region):
        even = follow(decoder, clicked_part(decoder.decode(region, points), points), points, scales)
        if EVEN_HANDICAP * edge_of(decoder, even).mean > edge_of(decoder, wide).mean:
            wide = even
    return follow(decoder, wide, points, scales)


def settled(
    decoder: WindowDecoder, part: WindowLogits, points: list[PointMM], scales: Scales, most: int = 2
) -> WindowLogits:
    """The window after it followed its mask, at most so often."""
    for _ in range(most):
        part = follow(decoder, part, points, scales)
    return part


def look_at_region(decoder: WindowDecoder, region: Box | Lasso, points: list[PointMM], scales: Scales) -> WindowLogits:
    """The window that fits a box or lasso, decoded with the ellipsoid in it as the logits so far.

    What is drawn in a slice is taken to be as thick as it is wide, on the average.
    """
    volume = decoder.volume
    corners = np.array([region.low_ijk, region.high_ijk] if isinstance(region, Box) else region.path_ijk)
    low, high = corners.min(0), corners.max(0)
    half_mm = (high - low + 1) / 2 * volume.spacing
    drawn = low < high
    half_mm[~drawn] = half_mm[drawn].mean() if drawn.any() else half_mm[~drawn]
    spacing_mm = ladder(2 * half_mm.max() / (EXTENT * decoder.model.config.window_size), scales)
    part = decoder.blank(decoder.window(volume.to_mm((low + high) / 2), spacing_mm))
    voxels = np.stack(np.meshgrid(*[np.arange(part.logits.shape[-1])] * 3, indexing="ij"), -1)
    ijk = volume.to_ijk(apply_affine(part.affine, voxels))
    radius = np.linalg.norm((ijk - (low + high) / 2) * volume.spacing / half_mm, axis=-1)
    logits = np.clip(2 * START_LOGIT * (1 - radius), -START_LOGIT, START_LOGIT).astype(np.float32)
    part = replace(part, logits=torch.from_numpy(logits)[None, None].to(part.logits.device))
    return follow(decoder, clicked_part(decoder.decode(part, points), points), points, scales)


def follow(
    decoder: WindowDecoder, part: WindowLogits, points: list[PointMM], scales: Scales, largest_mm: float = np.inf
) -> WindowLogits:
    """The prediction for a window that fits the mask of another better; the same one if it fits well enough.

    With a single voxel size, such as a released network's, whose windows take seconds to embed, a window fits unless
    its mask meets a face. What is larger than `largest_mm` is taken to be no larger: one click does not turn a node
    into an organ.
    """
    clicked_mm = part.foreground_in(points)
    if not clicked_mm or (scales.finest == scales.own and not touched_faces(part.logits)):
        return part
    low, high = mask_extent_mm(part, clicked_mm)
    wanted = ladder(min(float((high - low).max()), largest_mm) / (EXTENT * part.window.size), scales)
    lattice = wanted * part.window.size / LATTICE
    window = decoder.window(np.rint((low + high) / 2 / lattice) * lattice, wanted)
    if window == part.window or not all(window.contains_mm(mm) for mm in clicked_mm):
        return part
    return clicked_part(decoder.decode(WindowLogits(window, resample_logits(part, window)), points), points)


def ladder(spacing_mm: float, scales: Scales) -> float:
    """The next finer voxel size in steps of a factor of the root of two, so that windows repeat; within the bounds."""
    wanted = float(np.clip(spacing_mm, scales.finest, scales.own))
    return max(scales.own * 2 ** (np.floor(2 * np.log2(wanted / scales.own) + 1e-6) / 2), scales.finest)


def clicked_part(part: WindowLogits, points: list[PointMM]) -> WindowLogits:
    """The window with those pieces of its mask alone that hold a foreground point or a seed."""
    seeds_mm = [np.array(mm) for mm in part.seeds_mm if part.window.contains_mm(mm)]
    return replace(part, logits=keep_clicked_components(part, [*part.foreground_in(points), *seeds_mm]))


def is_spot(decoder: WindowDecoder, part: WindowLogits, edge: float) -> bool:
    """Whether a mask is small and stands out from at least a fraction `edge` of what is around it."""
    voxel_ml = abs(np.linalg.det(part.affine)) / 1000
    return part.mask.sum() * voxel_ml <= SPOT_ML and edge_of(decoder, part).fraction >= edge


def edge_of(decoder: WindowDecoder, part: WindowLogits) -> Edge:
    """How clearly the mask of a window stands out from what is just outside it."""
    mask = part.mask
    if not mask.any():
        return Edge(0.0, 0.0)
    uptake = np.log1p(decoder.uptake(part.window))
    shell = ndimage.binary_dilation(mask, CONNECTED_26) & ~mask
    weight = ndimage.uniform_filter(mask.astype(np.float32), 3)
    beside = ndimage.uniform_filter(np.where(mask, uptake, 0).astype(np.float32), 3) / np.maximum(weight, 1e-6)
    steps = np.abs(beside - uptake)[shell]
    return Edge(float(steps.mean()), float((steps > EDGE_STEP).mean())) if steps.size else Edge(0.0, 0.0)


def hot_region(decoder: WindowDecoder, window: Window, clicked_mm: np.ndarray) -> WindowLogits | None:
    """A small hot spot at the clicked place, seen in the scan itself, as logits to start from; None if there is none.

    It is what is connected to the click above a fraction of the nearby peak, for the first fraction at which that is
    small, inside the window, and hot against what is 4 to 14 mm around it; ending at nearly half the contrast.
    """
    part = decoder.blank(window)
    size = part.logits.shape[-1]
    step_mm = window.side_mm / size
    uptake = decoder.uptake(window)
    at = np.clip(np.rint(np.linalg.solve(part.affine, [*clicked_mm, 1])[:3]).astype(int), 0, size - 1)
    reach = max(int(np.rint(HOT_PEAK_MM / step_mm)), 1)
    peak = float(uptake[tuple(slice(max(index - reach, 0), index + reach + 1) for index in at)].max())
    at = tuple(at)
    for fraction in HOT_FRACTIONS:
        labels, _ = ndimage.label(uptake >= fraction * peak)
        region = labels == labels[at]
        if not labels[at] or region.sum() * step_mm**3 / 1000 > SPOT_ML or _meets_face(region):
            continue
        away_mm = ndimage.distance_transform_edt(~region, sampling=step_mm)
        around = float(np.median(uptake[(away_mm > HOT_SHELL_MM[0]) & (away_mm <= HOT_SHELL_MM[1])]))
        inside = float(np.percentile(uptake[region], 95))
        if inside >= HOT * around:
            region &= uptake >= around + EDGE * (inside - around)
            region[at] = True
            logits = np.where(region, START_LOGIT, -START_LOGIT).astype(np.float32)
            return replace(part, logits=torch.from_numpy(logits)[None, None].to(part.logits.device))
    return None


def is_warm(decoder: WindowDecoder, part: WindowLogits) -> bool:
    """Whether a region takes up more than what is just outside it; a lung is even, too, but its lobes are not seen."""
    shell = ndimage.binary_dilation(part.mask, CONNECTED_26, iterations=2) & ~part.mask
    uptake = decoder.uptake(part.window)
    return bool(shell.any() and uptake[part.mask].mean() > WARM * uptake[shell].mean())


def is_nested(decoder: WindowDecoder, hot: WindowLogits) -> bool:
    """Whether a hot region lies in something warm that is itself small, as the pelvis of a kidney does."""
    uptake = decoder.uptake(hot.window)
    away_mm = ndimage.distance_transform_edt(~hot.mask, sampling=hot.window.side_mm / len(uptake))
    near, far = (uptake[(away_mm > low) & (away_mm <= high)] for low, high in (HOT_SHELL_MM, FAR_SHELL_MM))
    return bool(far.size and np.median(near) >= NESTED * np.median(far))


def _meets_face(region: np.ndarray) -> bool:
    return any(region.take(side, axis).any() for axis in range(3) for side in (0, -1))


def even_region(decoder: WindowDecoder, window: Window, clicked_mm: np.ndarray) -> WindowLogits:
    """What looks the same as the clicked place and is connected with it, as logits to start from.

    Thin bridges are cut by a binary opening.
    """
    part = decoder.blank(window)
    size = part.logits.shape[-1]
    uptake = decoder.uptake(window)
    smooth = ndimage.gaussian_filter(uptake, EVEN_SMOOTHING_MM / (window.side_mm / size))
    at = np.rint(np.linalg.solve(part.affine, [*clicked_mm, 1])[:3]).astype(int)
    at = tuple(np.clip(at, 0, size - 1))
    like = np.abs(smooth - smooth[at]) < EVEN * smooth[at]
    core = ndimage.binary_opening(like, CONNECTED_6)
    core[at] = True
    core |= ndimage.binary_dilation(_only(core.shape, at), CONNECTED_6) & like
    labels, _ = ndimage.label(core)
    region = ndimage.binary_dilation(labels == labels[at], CONNECTED_6) & like
    logits = np.where(region, START_LOGIT, -START_LOGIT).astype(np.float32)
    return replace(part, logits=torch.from_numpy(logits)[None, None].to(part.logits.device))


def cover(decoder: WindowDecoder, start: InitialMask, scales: Scales) -> tuple[WindowLogits, ...]:
    """Windows over a mask to start from, whose logits say that mask.

    One window, as coarse as the mask needs it, up to the wide look; a larger mask gets as many as hold some of it.
    """
    volume, size = decoder.volume, decoder.model.config.window_size
    box = start.box
    corners = volume.to_mm([[index for index in corner] for corner in _corners(box)])
    low, high = corners.min(0), corners.max(0)
    widest = WIDE * scales.own if scales.looks_around else scales.own
    wanted = float(np.clip((high - low).max() / (0.6 * size), scales.finest, widest))
    while True:
        counts = np.maximum(np.ceil((high - low) / (0.6 * size * wanted)), 1).astype(int)
        if counts.prod() <= MAX_COVER:
            break
        wanted *= 2**0.5
    affine = volume.affine.copy()
    affine[:3, 3] = volume.to_mm([part.start for part in box])
    inside = torch.from_numpy(start.inside.astype(np.float32))[None, None]
    found = []
    for index in np.ndindex(*counts):
        centre = low + (np.array(index) + 0.5) * (high - low) / counts
        part = decoder.blank(decoder.window(centre, wanted))
        share = resample(inside, affine, part.affine, list(part.logits.shape[2:]))
        part = replace(part, logits=((2 * share - 1) * START_LOGIT).to(part.logits.device))
        if counts.prod() == 1 or share.any():
            found.append(part)
    return tuple(found)


def _corners(box: tuple[slice, ...]) -> list[tuple[int, ...]]:
    ends = [(part.start, part.stop - 1) for part in box]
    return [tuple(ends[axis][bit >> axis & 1] for axis in range(3)) for bit in range(8)]


def _only(shape: tuple[int, ...], at: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[at] = True
    return mask
