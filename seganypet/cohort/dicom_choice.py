"""Which series of a DICOM study make a case, by rules:

    PET   PET slices, corrected for attenuation (CorrectedImage names ATTN; without that tag, a description that does
          not say otherwise), no reprojection, localizer or reformatted images, at least five slices
    CT    CT slices in the PET's frame of reference that cover at least half of it, none of the above
    masks DICOM SEG or RTSTRUCT of the study

Where the rules leave several, nothing is guessed: the study is refused with their list, until the user names series.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
from pydicom import uid as uids

from seganypet.cohort.dicom_studies import DicomSeries, DicomStudy
from seganypet.errors import DicomError
from seganypet.pet.dicom_header import CT_CLASSES, PET_CLASSES
from seganypet.pet.dicom_seg import SEG_CLASSES

MASK_CLASSES = (*SEG_CLASSES, uids.RTStructureSetStorage)
MIN_SLICES = 5
MIN_COVER = 0.5
_NOT_CORRECTED = re.compile(
    r"(?<![a-z])(n[ _-]?a[ _-]?c(?![a-z])|(no|non|not|without|w/o)[ _-]*(ac(?![a-z])|att|corr)|uncorr|unkorrig)", re.I
)
_NO_STACK = {"LOCALIZER", "REPROJECTION", "MIP", "MPR", "REFORMATTED", "VOLREN", "SCREEN SAVE", "CSA MPR", "PROJECTION"}


@dataclass(frozen=True)
class Choice:
    """What of a study makes a case.

    Attributes:
        pet: The PET series.
        ct: The CT series; None if none belongs to the PET.
        masks: The series of masks; None if there is none.
        left_out: Other series, and why, a line each.
        notes: What a user should know about the choice.
    """

    pet: DicomSeries
    ct: DicomSeries | None
    masks: DicomSeries | None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_series(study: DicomStudy, wanted: Collection[str] = (), ct: bool = True, masks: bool = True) -> Choice:
    """The series of a study that make a case, by the rules above.

    Args:
        study: The study.
        wanted: SeriesInstanceUIDs by hand; each overrides the rules for its kind.
        ct: Whether a CT is looked for.
        masks: Whether masks are looked for.

    Raises:
        DicomError: No PET fits, or several PETs, CTs or series of masks do; the message lists them.
    """
    left_out: list[str] = []
    notes: list[str] = []

    def choose(
        kind: str, of_kind: Callable[[DicomSeries], bool], why_not: Callable[[DicomSeries], str | None]
    ) -> DicomSeries | None:
        there = [one for one in study.series if of_kind(one)]
        by_hand = [one for one in there if one.uid in wanted]
        if len(by_hand) == 1:
            if reason := why_not(by_hand[0]):
                notes.append(f"{kind} chosen by hand: {reason}")
            return by_hand[0]
        reasons = {one.uid: why_not(one) for one in there}
        fitting = by_hand or [one for one in there if reasons[one.uid] is None]
        left_out.extend(f"{one} ({reasons[one.uid]})" for one in there if one not in fitting)
        if len(fitting) > 1:
            listed = "\n".join(f"  {one}" for one in fitting)
            raise DicomError(f"{len(fitting)} {kind} series may be meant; choose by --series UID:\n{listed}")
        return fitting[0] if fitting else None

    pet = choose("PET", lambda one: one.modality == "PT" or one.sop_class in PET_CLASSES, _why_no_pet)
    if pet is None:
        listed = "\n".join(f"  {line}" for line in left_out) or "  none"
        raise DicomError(f"no PET fits; its PET series:\n{listed}")
    if pet.corrected and _NOT_CORRECTED.search(pet.description):
        notes.append(f"the PET is called {pet.description!r}, but CorrectedImage says that attenuation was corrected.")
    chosen_ct = chosen_masks = None
    if ct:
        def is_ct(one: DicomSeries) -> bool:
            return one.modality == "CT" or (one.sop_class in CT_CLASSES and one.modality != "PT")

        chosen_ct = choose("CT", is_ct, lambda one: _why_no_ct(one, pet))
        if chosen_ct is None:
            reasons = "; ".join(line for line in left_out if "  CT  " in line)
            notes.append(f"no CT belongs to the PET ({reasons or 'none in the study'}).")
        elif not pet.frame_of_reference:
            notes.append("neither PET nor CT states a frame of reference; they are taken to lie in one.")
    if masks:
        chosen_masks = choose("mask", lambda one: one.sop_class in MASK_CLASSES, lambda one: None)
    used = {one.uid for one in (pet, chosen_ct, chosen_masks) if one is not None}
    listed_already = {line.split("  ")[0] for line in left_out}
    left_out += [f"{one} (another kind)" for one in study.series if one.uid not in used | listed_already]
    return Choice(pet, chosen_ct, chosen_masks, tuple(left_out), tuple(notes))


def _why_no_pet(one: DicomSeries) -> str | None:
    if one.sop_class not in PET_CLASSES:
        return f"an object of another kind, {uids.UID(one.sop_class).name}"
    if one.corrected is False:
        return "not attenuation corrected: CorrectedImage does not name ATTN"
    if one.corrected is None and _NOT_CORRECTED.search(one.description):
        return "not attenuation corrected, by its description; CorrectedImage is missing"
    return _why_no_stack(one)


def _why_no_ct(one: DicomSeries, pet: DicomSeries) -> str | None:
    if one.sop_class not in CT_CLASSES:
        return f"an object of another kind, {uids.UID(one.sop_class).name}"
    if reason := _why_no_stack(one):
        return reason
    if one.frame_of_reference != pet.frame_of_reference:
        return "another frame of reference than the PET's"
    cover = _cover(one, pet)
    return f"covers {cover:.0%} of the PET's length" if cover is not None and cover < MIN_COVER else None


def _why_no_stack(one: DicomSeries) -> str | None:
    if odd := sorted(one.kinds & _NO_STACK):
        return odd[0].lower()
    return f"fewer than {MIN_SLICES} slices" if one.slices < MIN_SLICES else None


def _cover(ct: DicomSeries, pet: DicomSeries) -> float | None:
    """Fraction of the PET's length that the CT's slices cover; None if positions are unknown."""
    if not len(ct.positions) or len(pet.positions) < 2:
        return None
    (ct_low, ct_high), (low, high) = (_ends(one.positions @ pet.normal) for one in (ct, pet))
    return max(min(ct_high, high) - max(ct_low, low), 0.0) / (high - low) if high > low else None


def _ends(along: np.ndarray) -> tuple[float, float]:
    return float(np.min(along)), float(np.max(along))


def check_known(wanted: Iterable[str], studies: Iterable[DicomStudy]) -> None:
    """Raise DicomError if no study has a series that was chosen by hand."""
    there = {one.uid: one for study in studies for one in study.series}
    unknown = [uid for uid in wanted if uid not in there]
    if unknown:
        listed = "\n".join(f"  {one}" for one in list(there.values())[:20])
        raise DicomError(f"no series {', '.join(unknown)} in any study; there are:\n{listed}")
