"""One scan of a cohort, and what is drawn on it."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seganypet.cohort.labels import ORGAN_CONVENTIONS, detect_organ_convention, lesion_targets, organ_targets
from seganypet.errors import CohortError
from seganypet.organs import ORGANS
from seganypet.pet.registration import apply_transform, register_rigid
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume, load_labels, load_volume
from seganypet.phantom import PhantomCase
from seganypet.phantom.lesions import COMMON_KINDS

PET_UNITS = ("SUVbw", "Bq/mL")
QUALITIES = ("HQ", "LQ")


@dataclass(frozen=True)
class Case:
    """One scan and what is drawn on it; `cohort.table` says what each field means.

    Raises:
        CohortError: Unknown unit, quality or organ convention; blank case or patient.
    """

    name: str
    patient: str
    pet: Path
    pet_unit: str
    ct: Path | None = None
    organs: Path | None = None
    organ_convention: str | None = None
    lesions: Path | None = None
    quality: str | None = None
    split: str | None = None
    tracer: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.patient:
            raise CohortError(f"case {self.name!r} of patient {self.patient!r}: both need a name.")
        if any("\ud800" <= letter <= "\udfff" for letter in self.name + self.patient):
            raise CohortError(
                f"case {self.name!r}: the name of its folder or file is not UTF-8, which no table can hold; rename it."
            )
        for name, known in (("pet_unit", PET_UNITS), ("quality", QUALITIES), ("organ_convention", ORGAN_CONVENTIONS)):
            value = getattr(self, name)
            if value not in known and (value is not None or name == "pet_unit"):
                raise CohortError(f"case {self.name}: {name}={value!r}; expected one of {', '.join(known)}.")

    def contents(self) -> dict[str, Any]:
        """What measurements of the case depend on, files by their paths; a study measures again what changed in it."""
        files = {"pet": self.pet, "organs": self.organs, "lesions": self.lesions}
        paths = {name: None if path is None else Path(path) for name, path in files.items()}
        return paths | {"pet_unit": self.pet_unit, "organ_convention": self.organ_convention}

    def load_pet(self) -> Volume:
        """Read the PET, in `pet_unit`."""
        return load_volume(self.pet, unit=self.pet_unit)

    def load_ct(self) -> Volume:
        """Read the CT, in HU; CohortError if the case has none."""
        if self.ct is None:
            raise CohortError(f"case {self.name}: the cohort names no CT; fill its column 'ct'.")
        return load_volume(self.ct, unit="HU")

    def targets(self, pet: Volume | None = None, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """What can be segmented, one mask at a time.

        Args:
            pet: The case's PET if it is loaded already (its grid is needed).
            only: Names wanted; default all. "lesion" stands for every single lesion.

        Yields:
            Name and mask (bool, shape of the PET): organs in the order of their labels, also those that are absent
            from this scan, as empty masks; then "lesions" (all together) and "lesion_01", "lesion_02", ...:
            26-connected components, the largest first.

        Raises:
            CohortError: Labels of unknown meaning.
            GeometryError: Labels that do not lie on the PET's grid.
        """
        pet = self.load_pet() if pet is None else pet
        if self.organs is not None:
            yield from organ_targets(*self.load_organs(pet), only)
        if self.lesions is not None:
            yield from lesion_targets(self.load_lesions(pet), only)

    def load_organs(self, pet: Volume) -> tuple[np.ndarray, Mapping[int, str]]:
        """Label map of the organs on the grid of `pet`, int16, and the name of each label; errors as `targets`.

        Raises:
            CohortError: The case has none.
        """
        if self.organs is None:
            raise CohortError(f"case {self.name}: the cohort names no organ labels; fill its column 'organs'.")
        organs = load_labels(self.organs, like=pet)
        return organs, self._organ_names(organs, pet.voxel_volume_ml)

    def load_lesions(self, pet: Volume) -> np.ndarray:
        """Label map of the lesions on the grid of `pet`, int16; CohortError if the case has none."""
        if self.lesions is None:
            raise CohortError(f"case {self.name}: the cohort names no lesions; fill its column 'lesions'.")
        return load_labels(self.lesions, like=pet)

    def _organ_names(self, organs: np.ndarray, voxel_volume_ml: float) -> Mapping[int, str]:
        sizes = np.bincount(organs.ravel())
        if self.organ_convention is None:
            try:
                convention = detect_organ_convention(np.flatnonzero(sizes), sizes[7:8].sum() * voxel_volume_ml)
            except CohortError as error:
                raise CohortError(f"case {self.name}: {self.organs}: {error}") from None
            warnings.warn(
                f"case {self.name}: {self.organs} was taken to follow organ_convention={convention!r}; write that "
                "into the cohort table if it is so.",
                stacklevel=5,
            )
            return ORGAN_CONVENTIONS[convention]
        names = ORGAN_CONVENTIONS[self.organ_convention]
        strange = sorted(set(np.flatnonzero(sizes).tolist()) - {0, *names})
        if strange:
            raise CohortError(
                f"case {self.name}: {self.organs} holds labels {strange}, which organ_convention="
                f"{self.organ_convention!r} does not know (it has {min(names)} to {max(names)})."
            )
        return names


@dataclass(frozen=True)
class CTCase:
    """As a `Case` for `evaluate`; its scan is the CT on the PET's grid, and its targets are those of the PET.

    Attributes:
        case: The case, with a CT.
        register: Lay the CT over the PET rigidly first; else the files' own places count, as in a PET/CT scanner.
    """

    case: Case
    register: bool = False

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.case.name

    @property
    def patient(self) -> str:
        """Whose scan it is."""
        return self.case.patient

    def contents(self) -> dict[str, Any]:
        """As `Case.contents`, with the CT."""
        return self.case.contents() | {"ct": self.case.ct, "register": self.register}

    def load_pet(self) -> Volume:
        """The CT, in HU, on the grid of the PET; CohortError if the case has none."""
        ct, pet = self.case.load_ct(), self.case.load_pet()
        if self.register:
            ct = apply_transform(ct, register_rigid(ct, pet))
        return resample_to(ct, pet)

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """As `Case.targets`; `pet` gives the grid."""
        return self.case.targets(pet, only)


@dataclass(frozen=True, eq=False)
class InMemoryCase:
    """A case whose arrays are in memory, such as a phantom; otherwise like a `Case`.

    Attributes:
        name: Name of the case.
        patient: Whose scan it is.
        pet: The scan.
        organs: Label map of the organs, shape of `pet`; None if nobody drew any.
        lesions: Mask or label map of the lesions, shape of `pet`; every label above 0 is lesion. None as above.
        organ_names: Name of each label of `organs`; by default label n is the n-th of `seganypet.organs.ORGANS`.
        anatomy: Label map of all tissues, shape of `pet`; known of phantoms only.
        anatomy_names: Name of each label of `anatomy`.
    """

    name: str
    patient: str
    pet: Volume
    organs: np.ndarray | None = None
    lesions: np.ndarray | None = None
    organ_names: Mapping[int, str] | None = None
    anatomy: np.ndarray | None = None
    anatomy_names: Mapping[int, str] | None = None

    @classmethod
    def from_phantom(cls, phantom: PhantomCase) -> "InMemoryCase":
        """A phantom as a case, and as a patient of its own.

        Its name holds domain and seed, as in "phantom_internal_7", and the kind of lesions if they are of a kind that
        phantoms only have on request, as in "phantom_internal_7_disseminated".
        """
        name, kind = f"phantom_{phantom.domain}_{phantom.seed}", phantom.pet.metadata["lesion_kind"]
        if kind not in (*COMMON_KINDS, "none"):
            name += f"_{kind}"
        return cls(
            name, name, phantom.pet, phantom.organs, phantom.lesions, dict(phantom.organ_names), phantom.anatomy,
            dict(phantom.anatomy_names),
        )  # fmt: skip

    def contents(self) -> dict[str, Any]:
        """What measurements of the case depend on."""
        return {name: getattr(self, name) for name in ("pet", "organs", "organ_names", "lesions", "anatomy")}

    def load_pet(self) -> Volume:
        """The scan."""
        return self.pet

    def targets(self, pet: Volume, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Organs, then "lesions" and "lesion_01", ...; as `Case.targets`."""
        if self.organs is not None:
            yield from organ_targets(*self.load_organs(pet), only)
        if self.lesions is not None:
            yield from lesion_targets(self.lesions, only)

    def load_organs(self, pet: Volume) -> tuple[np.ndarray, Mapping[int, str]]:
        """Label map of the organs and the name of each label; CohortError if the case has none."""
        if self.organs is None:
            raise CohortError(f"case {self.name}: it has no organs in memory; give InMemoryCase(organs=...).")
        return self.organs, self.organ_names or dict(enumerate(ORGANS, start=1))

    def load_lesions(self, pet: Volume) -> np.ndarray:
        """Mask or label map of the lesions; CohortError if the case has none."""
        if self.lesions is None:
            raise CohortError(f"case {self.name}: it has no lesions in memory; give InMemoryCase(lesions=...).")
        return self.lesions
