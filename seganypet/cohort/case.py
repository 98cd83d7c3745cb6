"""One scan of a cohort, and what is drawn on it."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seganypet._files import as_path
from seganypet.cohort.labels import (
    IGNORE,
    ORGAN_CONVENTIONS,
    LabelNumbers,
    counted,
    detect_organ_convention,
    is_anatomy,
    label_numbers,
    lesion_targets,
    numbers_within,
    organ_numbers,
    organ_targets,
    wants_lesions,
    wants_organs,
)
from seganypet.cohort.totalsegmentator import were_all_searched
from seganypet.errors import CohortError
from seganypet.organs import ORGANS
from seganypet.pet.label_files import names_in_file
from seganypet.pet.registration import apply_transform, register_rigid
from seganypet.pet.resampling import resample_to
from seganypet.pet.sidecar import sidecar_path
from seganypet.pet.volume import Volume, load_labels, load_volume
from seganypet.phantom import PhantomCase
from seganypet.phantom.lesions import COMMON_KINDS
from seganypet.regions import label_sizes

PET_UNITS = ("SUVbw", "Bq/mL")
QUALITIES = ("HQ", "LQ")
LABEL_GRIDS = ("resample",)


@dataclass(frozen=True)
class Case:
    """One scan and what is drawn on it; `cohort.table` says what each field means. Paths become absolute.

    Raises:
        CohortError: Unknown unit, quality or organ convention; labels without names or numbers; blank case or patient.
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
    lesion_labels: str | None = None
    organ_labels: str | None = None
    label_grid: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.patient:
            raise CohortError(f"case {self.name!r} of patient {self.patient!r}: both need a name.")
        if any("\ud800" <= letter <= "\udfff" for letter in self.name + self.patient):
            raise CohortError(
                f"case {self.name!r}: the name of its folder or file is not UTF-8, which no table can hold; rename it."
            )
        if not (self.name + self.patient).isprintable():
            raise CohortError(
                f"case {self.name!r} of patient {self.patient!r}: control characters in a name; rename it."
            )
        choices = {"pet_unit": PET_UNITS, "quality": QUALITIES, "organ_convention": ORGAN_CONVENTIONS,
                   "label_grid": LABEL_GRIDS}  # fmt: skip
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known and (value is not None or name == "pet_unit"):
                raise CohortError(f"case {self.name}: {name}={value!r}; expected one of {', '.join(known)}.")
        for name in ("pet", "ct", "organs", "lesions"):
            if getattr(self, name) is not None:  # the same file, whatever the working directory
                object.__setattr__(self, name, Path(os.path.abspath(getattr(self, name))))
        self.numbers_of("lesions"), self.numbers_of("organs")
        if self.organ_labels is not None and self.organ_convention is not None:
            raise CohortError(f"case {self.name}: organ_convention and organ_labels are stated; expected one of them.")

    def contents(self) -> dict[str, Any]:
        """What measurements of the case depend on, files by their paths; a study measures again what changed in it."""
        files = {"pet": self.pet, "organs": self.organs, "lesions": self.lesions}
        paths = {name: None if path is None else as_path(path) for name, path in files.items()}
        names = ("lesion_labels", "organ_labels", "label_grid")  # older tables do not know them
        stated = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.pet_unit == "Bq/mL" and (beside := sidecar_path(self.pet)).is_file():
            stated["sidecar"] = beside  # its SUVs rest on it
        return paths | {"pet_unit": self.pet_unit, "organ_convention": self.organ_convention} | stated

    def numbers_of(self, part: str) -> LabelNumbers:
        """Names and numbers that are stated for "lesions" or "organs"; empty if none are.

        Raises:
            CohortError: The text cannot be understood.
        """
        text = self.lesion_labels if part == "lesions" else self.organ_labels
        try:
            return label_numbers(text or "")
        except CohortError as error:
            raise CohortError(f"case {self.name}: {error}") from None

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
            only: Names wanted; default all. "lesion" stands for every single lesion. Files that hold none of them are
                not read.

        Yields:
            Name and mask (bool, shape of the PET): organs in the order of their labels, also those that are absent
            from this scan, as empty masks; then "lesions" (all together) and "lesion_01", "lesion_02", ...:
            26-connected components, the largest first.

        Raises:
            CohortError: Labels of unknown meaning.
            GeometryError: Labels that do not lie on the PET's grid, unless `label_grid` is "resample".
        """
        pet = self.load_pet() if pet is None else pet
        if self.organs is not None and wants_organs(only):
            yield from organ_targets(*self.load_organs(pet), only)
        if self.lesions is not None and wants_lesions(only):
            yield from lesion_targets(self.load_lesions(pet), only)

    def load_organs(self, pet: Volume) -> tuple[np.ndarray, Mapping[int, str]]:
        """Label map of the organs on the grid of `pet`, int16, and the name of each label; errors as `targets`.

        Raises:
            CohortError: The case has none.
        """
        if self.organs is None:
            raise CohortError(f"case {self.name}: the cohort names no organ labels; fill its column 'organs'.")
        organs = load_labels(self.organs, like=pet, resample=self.label_grid == "resample")
        if numbers := self.numbers_of("organs"):
            self._check_numbers(organs, "organs")
            return organ_numbers(organs, numbers)
        return organs, self._organ_names(organs, pet.voxel_volume_ml)

    def load_lesions(self, pet: Volume) -> np.ndarray:
        """Label map of the lesions on the grid of `pet`, int16; with `lesion_labels`, other labels are 0.

        Raises:
            CohortError: The case has none, or the file holds labels that nothing stated explains.
            GeometryError: It does not lie on the grid.

        Warns:
            UserWarning: Voxels that nobody annotated ("ignore") count as no lesion.
        """
        if self.lesions is None:
            raise CohortError(f"case {self.name}: the cohort names no lesions; fill its column 'lesions'.")
        labels = load_labels(self.lesions, like=pet, resample=self.label_grid == "resample")
        numbers = self.numbers_of("lesions")
        if not numbers:
            return self._without_anatomy(labels)
        self._check_numbers(labels, "lesions")
        ignored = int(np.isin(labels, numbers.get(IGNORE, ())).sum())
        if ignored:
            warnings.warn(
                f"case {self.name}: {ignored} voxels ({ignored * pet.voxel_volume_ml:.3g} mL) of {self.lesions} are "
                "marked to be ignored, as nobody annotated them; they count as no lesion.",
                stacklevel=3,
            )
        return numbers_within(labels, (value for values in counted(numbers).values() for value in values))

    def anatomy_among_lesions(self) -> dict[int, str]:
        """Labels that the header of the lesions' file names as organs or tissues, if `lesion_labels` are not stated."""
        if self.lesion_labels is not None:
            return {}
        return {number: name for number, name in names_in_file(self.lesions).items() if is_anatomy(name)}

    def _without_anatomy(self, labels: np.ndarray) -> np.ndarray:
        there = set(np.flatnonzero(label_sizes(labels)).tolist())
        anatomy = {number: name for number, name in self.anatomy_among_lesions().items() if number in there}
        if not anatomy:
            return labels
        warnings.warn(
            f"case {self.name}: {self.lesions} names its labels {sorted(anatomy.values())}, by these names anatomy, so "
            "they count as no lesion. If they are lesions, state it in the column lesion_labels.",
            stacklevel=4,
        )
        return numbers_within(labels, there - {*anatomy})

    def strange_numbers(self, labels: np.ndarray, part: str) -> list[int]:
        """Labels of "lesions" or "organs" that what is stated does not name."""
        known = {value for values in self.numbers_of(part).values() for value in values}
        return sorted(set(np.flatnonzero(label_sizes(labels)).tolist()) - {0, *known})

    def _check_numbers(self, labels: np.ndarray, part: str) -> None:
        if strange := self.strange_numbers(labels, part):
            column = "lesion_labels" if part == "lesions" else "organ_labels"
            raise CohortError(
                f"case {self.name}: {getattr(self, part)} holds labels {strange}, which {column}="
                f"{getattr(self, column)!r} does not name."
            )

    def _organ_names(self, organs: np.ndarray, voxel_volume_ml: float) -> Mapping[int, str]:
        sizes = label_sizes(organs)
        named = names_in_file(self.organs)
        in_header = {number: name for number, name in named.items() if name in ORGANS}
        if self.organ_convention is None and in_header:
            present = {number for number in np.flatnonzero(sizes).tolist() if number}
            searched = in_header if were_all_searched(len(named), len(present)) else present
            return {number: name for number, name in in_header.items() if number in searched}
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
        other = [f"{label} = {name}" for label, name in in_header.items() if names.get(label, name) != name]
        if other:
            raise CohortError(
                f"case {self.name}: {self.organs} names its labels itself ({', '.join(other)}), and organ_convention="
                f"{self.organ_convention!r} differs. Leave that cell blank, or correct the file's header."
            )
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
