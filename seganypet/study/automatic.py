"""Methods that nobody clicks: TotalSegmentator's files, and what `propose` finds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from seganypet._files import as_path, check_folder
from seganypet.cohort.totalsegmentator import read_totalsegmentator
from seganypet.errors import CohortError
from seganypet.organs import ORGANS
from seganypet.pet.volume import Volume
from seganypet.study.tumour_scan import organs_of_case

PET, CT = "PET", "registered CT"  # in the column `modality`, as the supplement's Table 3 has them


class AutomaticMethod(Protocol):
    """What a study asks of a method without clicks, beside name, weights and identity."""

    @property
    def modality(self) -> str:
        """What it looked at, `PET` or `CT`."""

    def segment(self, case: Any, pet: Volume) -> Mapping[str, np.ndarray]:
        """Masks of a case by the names of their targets, bool, shape of `pet`; of a target that it does not know none,
        of one that it did not find an empty one."""

    def reads(self, case: Any) -> dict[str, Path | None]:
        """Files that the masks of a case come from."""


@dataclass(frozen=True)
class TotalSegmentatorFiles:
    """TotalSegmentator's output for each case, <folder>/<case>.nii.gz or <folder>/<case>/<organ>.nii.gz.

    Raises:
        SegAnyPETError: There is no such folder.
    """

    folder: Path
    name: str = "TotalSegmentator"
    weights: None = None
    modality: str = CT

    def __post_init__(self) -> None:
        check_folder(self.folder)

    @property
    def identity(self) -> str:
        """What tells its rows from those of another method of the same name."""
        return "files of TotalSegmentator"

    def segment(self, case: Any, pet: Volume) -> Mapping[str, np.ndarray]:
        path = organs_of_case(case.name, self.folder)
        if path is None:
            raise CohortError(f"{self.folder} holds neither a folder {case.name} nor {case.name}.nii.gz.")
        labels, names = read_totalsegmentator(path, pet, ORGANS)
        return {name: labels == label for label, name in names.items()}

    def reads(self, case: Any) -> dict[str, Path | None]:
        return {"totalsegmentator": organs_of_case(case.name, self.folder)}


@dataclass(frozen=True)
class Proposal:
    """What `propose` finds in the scan alone; organs out of its view count as not found."""

    name: str = "propose"
    weights: None = None
    modality: str = PET

    @property
    def identity(self) -> str:
        """What tells its rows from those of another method of the same name."""
        return "proposal without clicks"

    def segment(self, case: Any, pet: Volume) -> Mapping[str, np.ndarray]:
        from seganypet.prompting.propose import propose

        found = propose(pet).masks
        return {organ: found.get(organ, np.zeros(pet.shape, bool)) for organ in ORGANS}

    def reads(self, case: Any) -> dict[str, Path | None]:
        return {}


def automatic_methods(totalsegmentator: str | os.PathLike | None) -> list[AutomaticMethod]:
    """The methods that are given by files."""
    return [] if totalsegmentator is None else [TotalSegmentatorFiles(as_path(totalsegmentator))]
