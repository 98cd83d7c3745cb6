"""The next click, suggested: the hottest spot that is neither segmented yet nor a hot organ.

    candidate = suggest_click(pet, session.masks, physiology)
    session.click(candidate.ijk)

A suggestion for a person who looks, not a detector: whatever is hot is suggested, such as inflammation, brown fat, a
full bowel or a ureter; and what is colder than the threshold, or drowned by a hotter neighbour, never is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seganypet.errors import VolumeError
from seganypet.pet.physiology import check_nonnegative, hot_spots, without_physiology
from seganypet.pet.quantification import Masks, Threshold, check_mask, check_suvbw
from seganypet.pet.volume import Point, Volume
from seganypet.prompting.prompts import Click
from seganypet.prompting.simulate import shifted
from seganypet.regions import connected_pieces, deepest_voxel


@dataclass(frozen=True)
class Candidate:
    """A hot spot to look at.

    Attributes:
        ijk: Voxel to click: the deepest one of the spot, as in `first_click`.
        mm: The same position in RAS+ millimetres.
        suv_max: Largest SUVbw in the spot, g/mL.
        volume_ml: Volume of the spot's voxels from the threshold on, mL.
    """

    ijk: tuple[int, int, int]
    mm: Point
    suv_max: float
    volume_ml: float


def hot_mask(volume: Volume, threshold: float | Threshold) -> np.ndarray:
    """All voxels of at least an SUV, in the whole scan and without any click; organs are among them.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        threshold: SUVbw, g/mL, above 0; or a `Threshold`, such as PERCIST's `reference.rule`.

    Returns:
        Bool, shape (I, J, K).

    Raises:
        UnitError: `volume` is not in SUVbw.
        VolumeError: A threshold that is not a number above 0.
    """
    check_suvbw(volume)
    if not isinstance(threshold, Threshold):
        threshold = Threshold(threshold, "given")
    if threshold.suvbw <= 0:
        raise VolumeError(f"threshold of SUVbw {threshold.suvbw:g}; expected one above 0, or every voxel reaches it.")
    return volume.data >= threshold.suvbw


def find_candidates(
    volume: Volume,
    segmented: Masks | None = None,
    physiology: np.ndarray | None = None,
    threshold: float | Threshold = 4.0,
    min_volume_ml: float = 0.5,
    most: int = 20,
    rejected: Iterable[Sequence[int]] = (),
) -> list[Candidate]:
    """Hot spots that are neither segmented nor physiological, hottest first.

    What is hot is divided by its peaks, see `hot_spots`: two lesions without a dip between them are one spot. Hot
    organs are taken out as in `without_physiology`, and so is what is segmented, by the same rule: a spot whose peak
    lies in a mask or within 5 mm of it is that lesion's own edge, as far as 10 mm from the mask.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        segmented: Masks that exist already: bool or a label map, shape (I, J, K), or several bool masks by name, as
            `session.masks`. May be empty.
        physiology: Hot organs as `physiological_mask` gives them, bool, shape (I, J, K). None: organs are suggested
            like anything else.
        threshold: SUVbw from which a voxel is hot, see `hot_mask`.
        min_volume_ml: Volume below which spots are left out, in mL.
        most: Largest number of candidates.
        rejected: Voxels, such as the `ijk` of candidates, that a person rejected. Spots that hold one are left out.

    Raises:
        UnitError: `volume` is not in SUVbw.
        GeometryError: A mask of another shape.
        VolumeError: A mask of the wrong type, an empty `physiology` (None is what says that there is none), a bad
            threshold, `min_volume_ml` or `most`.
        ClickError: Something in `rejected` is no voxel of the volume.
    """
    from scipy import ndimage

    check_nonnegative("min_volume_ml", min_volume_ml)
    check_nonnegative("most", most)
    refused = [volume.check_voxel(ijk) for ijk in rejected]
    left = hot_mask(volume, threshold)
    if physiology is not None:
        left = without_physiology(volume, left, physiology)
    done = _union(volume, segmented)
    if done.any():
        left = without_physiology(volume, left, done)
    spots = hot_spots(volume, left)
    refused_spots = {int(spots[ijk]) for ijk in refused}
    found = []
    for number, box in enumerate(ndimage.find_objects(spots), start=1):
        inside = spots[box] == number
        volume_ml = float(np.count_nonzero(inside) * volume.voxel_volume_ml)
        if volume_ml < min_volume_ml or number in refused_spots:
            continue
        ijk = shifted(deepest_voxel(inside, volume.spacing), box)
        suv_max = float(volume.data[box][inside].max())
        found.append(Candidate(ijk, tuple(volume.to_mm(ijk).tolist()), suv_max, volume_ml))
    return sorted(found, key=lambda one: -one.suv_max)[: int(most)]


def suggest_click(
    volume: Volume,
    segmented: Masks | None = None,
    physiology: np.ndarray | None = None,
    threshold: float | Threshold = 4.0,
    min_volume_ml: float = 0.5,
    rejected: Iterable[Sequence[int]] = (),
) -> Candidate | None:
    """The first of `find_candidates`: the hottest unsegmented spot that is no hot organ; None if nothing is left.

    It can be wrong: a person looks, and clicks at `ijk` or rejects it, which is remembered in `rejected`. None does not
    mean that no lesion is left.
    """
    found = find_candidates(volume, segmented, physiology, threshold, min_volume_ml, most=1, rejected=rejected)
    return found[0] if found else None


def _union(volume: Volume, segmented: Masks | None) -> np.ndarray:
    """Everything that has a mask, bool, shape (I, J, K)."""
    done = np.zeros(volume.shape, bool)
    if segmented is None:
        return done
    if isinstance(segmented, Mapping):
        masks = {f"segmented {name!r}": mask for name, mask in segmented.items()}
    else:
        mask = np.asarray(segmented)
        masks = {"segmented": mask > 0 if mask.dtype.kind in "ui" else mask}
    for what, mask in masks.items():
        done |= check_mask(volume, mask, what)
    return done


def background_clicks(
    volume: Volume, physiology: np.ndarray, most: int = 10, threshold: float = 4.0, min_volume_ml: float = 1.0
) -> list[Click]:
    """Background clicks on hot organs: one in each hot piece of them, the hottest piece first.

    For a session on lesions that lacks organ masks but can be clicked; its first click must be a positive one.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        physiology: As `physiological_mask` gives it, bool, shape (I, J, K).
        most: Largest number of clicks.
        threshold: SUVbw from which a voxel is hot, g/mL.
        min_volume_ml: Pieces (26-connected) smaller than this are left out, mL.

    Returns:
        Negative clicks, each at the deepest voxel of its piece (as in `first_click`); none if no organ is hot.

    Raises:
        UnitError, GeometryError, VolumeError: As `without_physiology`; or a bad number.
    """
    for name, value in (("most", most), ("threshold", threshold), ("min_volume_ml", min_volume_ml)):
        check_nonnegative(name, value)
    hot = check_mask(volume, physiology, "physiology") & (volume.data >= threshold)
    found = []
    for box, inside in connected_pieces(hot):
        if np.count_nonzero(inside) * volume.voxel_volume_ml >= min_volume_ml:
            ijk = shifted(deepest_voxel(inside, volume.spacing), box)
            found.append((float(volume.data[box][inside].max()), Click(ijk, foreground=False)))
    found.sort(key=lambda one: -one[0])
    return [click for _, click in found[: int(most)]]
