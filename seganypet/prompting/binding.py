"""Clicks that bind: what a click settles around itself, and the leak that it takes away with it.

Three rules, all on the volume's own grid and all kept for good (a later decoding does not take them back):

Neighbourhood. If the network leaves a clicked voxel on the wrong side, that voxel changes sides and takes with it what
looks like it: the voxels that are connected to it, whose uptake (mean over 3 x 3 x 3 voxels) differs from its own by no
more than 30 %, and that lie within a quarter of the way to the nearest click of the other sign (2 to 20 mm; 5 mm where
there is none). So a click beside a sharp edge does not cross the edge.

Leak. If a negative click falls into a part of the mask that hangs on the rest by a neck, that part goes whole. A neck
is a place that is at most 0.6 times as thick as the thinner of the two parts that it joins.

Correction. Of a mask to start from, a prompt changes what the network would change in one piece with the prompt, up to
twice as far away as the prompt lies from the mask's border, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Prompt, Voxel
from seganypet.prompting.random_walker import box_around, distance_mm, within
from seganypet.regions import CONNECTED_26, Box, bounding_box, box_within, widen_box

REACH_MM = (2.0, 20.0)
REACH = 0.25  # of the way to the nearest click of the other sign
LONE_REACH_MM = 5.0  # where there is none
SIMILAR = 0.3  # difference of uptake, as a fraction of the click's
SIMILAR_HU = 50.0
NECK = 0.6
# Of a mask to start from a prompt changes what lies as near as this, in multiples of its depth in the error.
CORRECTION, CORRECTION_MM = 2.0, (3.0, 60.0)
SHELL_MM = (4.0, 12.0)
EDGE = 0.45
BLUR_MM = 8.0  # neither blur nor a mask that is too large reaches deeper: what is cold there is a cold core
NECK_GRID_MM = 4.0  # thickness is measured on voxels of about this size


@dataclass(frozen=True, eq=False)
class Edit:
    """Voxels that a prompt put on one side, whatever the network says.

    Attributes:
        box: Part of the volume.
        voxels: Bool, shape of the box.
        foreground: The side.
    """

    box: Box
    voxels: np.ndarray
    foreground: bool

    def apply(self, mask: np.ndarray) -> None:
        """Write it into a mask, bool, shape of the volume, in place."""
        mask[self.box][self.voxels] = self.foreground


def neighbourhood(
    volume: Volume, voxels: Sequence[Sequence[int]], foreground: bool, others: Sequence[Sequence[int]]
) -> Edit:
    """What looks like the voxels of a prompt around them, see the rule above.

    Args:
        volume: The scan.
        voxels: Voxels of the prompt.
        foreground: Its side.
        others: Voxels of prompts of the other side.
    """
    axes = volume.affine[:3, :3]
    apart_mm = [np.linalg.norm(axes @ np.subtract(one, other)) for one in voxels for other in others]
    reach_mm = float(np.clip(REACH * min(apart_mm), *REACH_MM)) if apart_mm else LONE_REACH_MM
    box = box_around(volume, voxels, reach_mm)
    wider = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    inner = tuple(
        slice(a.start - b.start, a.start - b.start + a.stop - a.start) for a, b in zip(box, wider, strict=True)
    )
    smooth = ndimage.uniform_filter(volume.data[wider], 3, mode="nearest")[inner]
    rivals = [within(ijk, box) for ijk in others]
    inside = np.zeros(smooth.shape, bool)
    for ijk in voxels:
        at = within(ijk, box)
        value = smooth[tuple(at)]
        tolerance = SIMILAR_HU if volume.unit == "HU" else SIMILAR * abs(value)
        distance = distance_mm(smooth.shape, at, axes)
        near = (distance <= reach_mm) & (np.abs(smooth - value) <= tolerance)
        for rival in rivals:
            if np.linalg.norm(axes @ (rival - at)) < 2 * reach_mm:
                near &= distance < distance_mm(smooth.shape, rival, axes)
        near[tuple(at)] = True
        labels, _ = ndimage.label(near, CONNECTED_26)
        inside |= labels == labels[tuple(at)]
    return Edit(box, inside, foreground)


def leak_behind_neck(
    mask: np.ndarray, volume: Volume, positives: Sequence[Sequence[int]], negative: Sequence[int]
) -> Edit | None:
    """The part of a mask that a negative click takes away whole, see the rule above; None without a neck.

    Args:
        mask: Mask that was clicked, bool, shape of the volume.
        volume: The scan.
        positives: Voxels of all positive prompts.
        negative: The voxel that was clicked, in the mask.
    """
    from skimage.segmentation import watershed  # slow to import

    box = bounding_box(mask)
    if box is None or not mask[tuple(negative)]:
        return None
    step = np.maximum(np.floor(NECK_GRID_MM / np.array(volume.spacing) + 0.5), 1).astype(int)
    offset = [part.start for part in box]
    coarse = mask[box][tuple(slice(None, None, int(size)) for size in step)]
    thickness = ndimage.distance_transform_edt(np.pad(coarse, 1), sampling=step * volume.spacing)[1:-1, 1:-1, 1:-1]
    top = np.array(coarse.shape) - 1

    def uphill(ijk: Sequence[int]) -> list[tuple[int, ...]]:
        """The way from a voxel to where the mask is locally thickest."""
        at = np.minimum(np.rint((np.array(ijk) - offset) / step), top).astype(int)
        path = [tuple(at)]
        while True:
            low = np.maximum(at - 1, 0)
            around = thickness[tuple(slice(a, b + 2) for a, b in zip(low, at, strict=True))]
            best = low + np.unravel_index(around.argmax(), around.shape)
            if thickness[tuple(best)] <= thickness[tuple(at)]:
                return path
            at = best
            path.append(tuple(at))

    starts = [ijk for ijk in positives if mask[tuple(ijk)]]
    ways = [uphill(ijk) for ijk in starts]
    leak_way = uphill(negative)
    if not ways or any(leak_way[-1] == way[-1] for way in ways):
        return None  # in the thick of the object itself
    markers = np.zeros(coarse.shape, np.int32)
    for voxel in leak_way:
        markers[voxel] = 2
    for way in ways:
        for voxel in way:
            markers[voxel] = 1
    parts = watershed(-thickness, markers, mask=coarse, connectivity=CONNECTED_26)
    leak, rest = parts == 2, parts == 1
    interface = ndimage.binary_dilation(rest, CONNECTED_26) & leak
    if not interface.any():
        return None
    neck, thinner = thickness[interface].max(), min(thickness[leak].max(), thickness[rest].max())
    if neck > NECK * thinner:
        return None
    # What falls between the coarse voxels goes with the nearest of them.
    nearest = ndimage.distance_transform_edt(
        parts == 0, sampling=step * volume.spacing, return_distances=False, return_indices=True
    )
    leak = parts[tuple(nearest)] == 2
    fine = leak.repeat(step[0], 0).repeat(step[1], 1).repeat(step[2], 2)
    i, j, k = mask[box].shape
    return Edit(box, fine[:i, :j, :k] & mask[box], foreground=False)


def blur_around(volume: Volume, mask: np.ndarray, within: Box | None = None) -> Edit | None:
    """What the scanner's blur added to the mask of small objects; None if nothing, or if it cannot be told.

    A blurred edge lies where uptake is half-way between the object and what surrounds it. The object is the 95th
    percentile within a piece of the mask (26-connected), its surroundings the median from 4 to 12 mm outside. `EDGE` is
    below a half, because a small object's peak is blurred away, too. What lies deeper than `BLUR_MM` is no edge; and
    where the mask stands out more clearly as it is, only a part of it is hot, such as the pelvis of a kidney.

    Args:
        volume: The scan, in a unit of uptake; of a CT nothing is told.
        mask: Bool, shape of the volume.
        within: A box outside which the mask is empty.
    """
    box = bounding_box(mask, within)
    if box is None or volume.unit == "HU":
        return None
    margin = np.ceil(SHELL_MM[1] / np.array(volume.spacing)).astype(int)
    box = widen_box(box, margin, mask.shape)
    pieces, _ = ndimage.label(mask[box], CONNECTED_26)
    blur = np.zeros(pieces.shape, bool)
    for number, found in enumerate(ndimage.find_objects(pieces), 1):
        part = widen_box(found, margin, pieces.shape)
        piece, others = pieces[part] == number, (pieces[part] > 0) & (pieces[part] != number)
        blur[part] |= _blur_of(piece, others, volume.data[box][part], volume.spacing)
    return Edit(box, blur, foreground=False) if blur.any() else None


def _blur_of(piece: np.ndarray, others: np.ndarray, data: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The voxels of a piece of a mask that blur added, in a box with a margin; `others` are near pieces."""
    away_mm = ndimage.distance_transform_edt(~piece, sampling=spacing)
    shell = (away_mm > SHELL_MM[0]) & (away_mm <= SHELL_MM[1])
    if others.any():
        shell &= ndimage.distance_transform_edt(~others, sampling=spacing) > SHELL_MM[0]
    if not shell.any():
        return np.zeros(piece.shape, bool)
    around, peak = float(np.median(data[shell])), float(np.percentile(data[piece], 95))
    if peak <= around:
        return np.zeros(piece.shape, bool)  # a cold object
    depth_mm = ndimage.distance_transform_edt(piece, sampling=spacing)
    blur = piece & (depth_mm <= BLUR_MM) & (data < around + EDGE * (peak - around))
    uptake = np.log1p(np.maximum(data, 0))
    return blur if edge(piece & ~blur, uptake) > edge(piece, uptake) else np.zeros_like(blur)


def edge(mask: np.ndarray, uptake: np.ndarray) -> float:
    """How clearly a mask stands out: mean difference of voxels just outside to those of the mask beside them.

    Args:
        mask: Bool, (I, J, K).
        uptake: Such as log(1 + SUV), the same shape.
    """
    shell = ndimage.binary_dilation(mask, CONNECTED_26) & ~mask
    weight = ndimage.uniform_filter(mask.astype(np.float32), 3)
    beside = ndimage.uniform_filter(np.where(mask, uptake, 0).astype(np.float32), 3) / np.maximum(weight, 1e-6)
    return float(np.abs(beside - uptake)[shell].mean()) if shell.any() else 0.0


def corrected(before: np.ndarray, after: np.ndarray, prompt: Prompt, volume: Volume) -> np.ndarray:
    """A mask that was given, after a prompt: what the network would redraw elsewhere was somebody's decision.

    A positive prompt only adds and a negative one only takes away, in one piece with it and no farther from it than
    twice its distance from the border of the mask: who clicks the middle of an error says how large it is.

    Args:
        before: The mask so far, bool, shape of the volume.
        after: What the network makes of it.
        prompt: The newest prompt.
        volume: The scan.

    Returns:
        Bool, a new array.
    """
    mask = before.copy()
    voxels = [voxel for voxel, _ in prompt.points]
    box = box_around(volume, voxels, CORRECTION_MM[1])
    reached = np.zeros(mask[box].shape, bool)
    for ijk, depth in zip(voxels, _depth_mm(before[box] == prompt.foreground, box, voxels, volume), strict=True):
        reach_mm = np.clip(CORRECTION * depth, *CORRECTION_MM)
        near = box_around(volume, [ijk], reach_mm)
        away_mm = distance_mm(mask[near].shape, within(ijk, near), volume.affine[:3, :3])
        reached[box_within(near, box)] |= away_mm <= reach_mm
    changed = reached & (after[box] != before[box]) & (after[box] == prompt.foreground)
    mask[box][_pieces_at(changed, [within(ijk, box) for ijk in voxels])] = prompt.foreground
    return mask


def _depth_mm(right: np.ndarray, box: Box, voxels: Sequence[Voxel], volume: Volume) -> np.ndarray:
    """How deep in an error prompted voxels lie: distance to the nearest voxel of a box that is on the right side."""
    if not right.any():
        return np.full(len(voxels), np.inf)
    depth = ndimage.distance_transform_edt(~right, sampling=volume.spacing)
    return depth[tuple(within(np.array(voxels), box).T)]


def _pieces_at(mask: np.ndarray, voxels: Sequence[np.ndarray]) -> np.ndarray:
    """The pieces of a mask (26-connected) that hold some voxels or lie beside them."""
    labels, _ = ndimage.label(mask, CONNECTED_26)
    found = {0}
    for at in voxels:
        found |= set(np.unique(labels[tuple(slice(max(index - 1, 0), index + 2) for index in at)]).tolist())
    return np.isin(labels, list(found - {0}))


def loose_pieces(
    mask: np.ndarray, anchors: np.ndarray, volume: Volume, reach_mm: float, within: Box | None = None
) -> Edit | None:
    """Pieces of a mask (26-connected) that hold none of some voxels and come to none as near as `reach_mm`.

    Args:
        mask: Bool, shape of the volume.
        anchors: Voxels, (n, 3).
        volume: The scan.
        reach_mm: The network's logits are no finer than this, so a click as near to its mask is a click on it.
        within: A box outside which the mask is empty.

    Returns:
        What to take away; None if nothing.
    """
    box = bounding_box(mask, within)
    if box is None:
        return None
    labels, count = ndimage.label(mask[box], CONNECTED_26)
    held = mask[tuple(anchors.T)]
    if count == 1 and held.any():
        return None
    low = np.array([part.start for part in box])
    reach = np.ceil(reach_mm / np.array(volume.spacing)).astype(int)
    found = set(np.unique(labels[tuple((anchors[held] - low).T)]).tolist())
    for at in anchors[~held] - low if len(anchors) < 1000 else ():
        near = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(at - reach, at + reach + 1, strict=True))
        found |= set(np.unique(labels[near]).tolist())
    is_loose = ~np.isin(np.arange(count + 1), [0, *found])
    return Edit(box, is_loose[labels], foreground=False) if is_loose.any() else None
