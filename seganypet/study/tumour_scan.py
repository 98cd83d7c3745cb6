"""What the analysis of tumours needs of one case: scan, lesions, and the organs that are hot in health."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seganypet._files import as_path
from seganypet.cohort.case import Case, InMemoryCase
from seganypet.cohort.totalsegmentator import read_totalsegmentator
from seganypet.errors import CohortError
from seganypet.pet.physiology import physiological_mask
from seganypet.pet.volume import Volume

HOT_STRUCTURES = ("brain", "urinary_bladder", "kidney_left", "kidney_right", "heart")  # TotalSegmentator's names


@dataclass(frozen=True, eq=False)
class TumourScan:
    """One case, read.

    Attributes:
        name: Name of the case.
        pet: In SUVbw.
        truth: All lesions, bool, shape of the scan.
        physiology: Organs that are hot in health, bool, shape of the scan; None if nobody drew any, or none is in view.
    """

    name: str
    pet: Volume
    truth: np.ndarray
    physiology: np.ndarray | None

    @classmethod
    def of(cls, case: Case | InMemoryCase, totalsegmentator: str | os.PathLike | None = None) -> "TumourScan":
        """Read a case.

        Args:
            case: Case of a cohort, or in memory.
            totalsegmentator: Folder of TotalSegmentator's output, <case>.nii.gz or <case>/<organ>.nii.gz, which knows
                brain and bladder. None: the hot organs are those of the case's own labels, kidneys and heart; of
                phantoms, all.

        Raises:
            SegAnyPETError: No labels of lesions, no output for this case, or files that cannot be read.
        """
        pet = case.load_pet()
        organs = _hot_organs(case, pet, totalsegmentator)
        return cls(case.name, pet, case.load_lesions(pet) > 0, organs if organs is not None and organs.any() else None)


def organs_of_case(case: str, totalsegmentator: str | os.PathLike) -> Path | None:
    """TotalSegmentator's output for a case, a file or a folder; None if there is none."""
    paths = [as_path(totalsegmentator) / f"{case}{suffix}" for suffix in ("", ".nii.gz", ".nii")]
    return next((path for path in paths if path.exists()), None)


def _hot_organs(
    case: Case | InMemoryCase, pet: Volume, totalsegmentator: str | os.PathLike | None
) -> np.ndarray | None:
    if totalsegmentator is not None:
        path = organs_of_case(case.name, totalsegmentator)
        if path is None:
            raise CohortError(
                f"{totalsegmentator} holds neither a folder {case.name} nor {case.name}.nii.gz. Run TotalSegmentator "
                "on the CT of this case, or leave its output out: hot organs are then those of the case's own labels."
            )
        return physiological_mask(*read_totalsegmentator(path, pet, HOT_STRUCTURES))
    if isinstance(case, InMemoryCase) and case.anatomy is not None:
        return physiological_mask(case.anatomy, case.anatomy_names)
    return physiological_mask(*case.load_organs(pet)) if case.organs is not None else None
