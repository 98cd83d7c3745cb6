"""A case of which the CT is segmented instead of the PET: Table 3 of the supplement."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from seganypet.case import Case
from seganypet.dicom import resample_to
from seganypet.registration import moved, register_rigid
from seganypet.volume import Volume


@dataclass(frozen=True)
class CTCase:
    """As a `Case` for `evaluate`; its scan is the CT on the PET's grid, and its targets are those of the PET.

    Attributes:
        of: The case, with a CT.
        register: Lay the CT over the PET rigidly first; else the files' own places count, as in a PET/CT scanner.
    """

    of: Case
    register: bool = False

    @property
    def case(self) -> str:
        """Name of the case."""
        return self.of.case

    @property
    def patient(self) -> str:
        """Whose scan it is."""
        return self.of.patient

    def load_pet(self) -> Volume:
        """The CT, in HU, on the grid of the PET; CohortError if the case has none."""
        ct, pet = self.of.load_ct(), self.of.load_pet()
        if self.register:
            ct = moved(ct, register_rigid(ct, pet))
        return resample_to(ct, pet)

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """As `Case.targets`; `pet` gives the grid."""
        return self.of.targets(pet, only)
