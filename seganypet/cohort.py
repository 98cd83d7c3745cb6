"""Cohorts: which scans there are, whose they are, and what is drawn on them.

A cohort is a CSV table, one row per scan. Columns:

    case              name of the scan, unique                                    required
    patient           whose scan it is; splits and intervals are over patients    required
    pet               NIfTI file                                                  required
    pet_unit          "SUVbw" or "Bq/mL"                                          required
    ct                NIfTI file in HU
    organs            NIfTI label map on the PET's grid
    organ_convention  what its labels mean, a key of `ORGAN_CONVENTIONS`; blank: detected, and said in a warning
    lesions           NIfTI mask or label map on the PET's grid; every label above 0 is lesion
    quality           of the labels: "HQ" or "LQ"
    split             any name, such as "train"; one patient is in one split only
    tracer            such as "FDG"

Paths are relative to the table's folder, or absolute. Optional cells may be blank and optional columns left out.
"""

import csv
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from seganypet.errors import CohortError
from seganypet.files import replace_atomically
from seganypet.phantom import ORGANS
from seganypet.simulate import CONNECTED_26
from seganypet.volume import Volume, load_labels, load_volume

_LOBES = (
    "lung_lower_lobe_left",
    "lung_lower_lobe_right",
    "lung_upper_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
)
# AutoPET-Organ's files: 1 to 6 are agreed upon. Reported beyond: five lobes from 7 with the middle lobe as 11 or, in
# about a third of the cases, as 12; and the order of its README, with 7 = prostate, which is ours.
ORGAN_CONVENTIONS: dict[str, dict[int, str]] = {
    "seganypet": dict(enumerate(ORGANS, start=1)),
    "autopet-organ": dict(enumerate((*ORGANS[:6], *_LOBES), start=1)),
    "autopet-organ-12": dict(zip((*range(1, 11), 12), (*ORGANS[:6], *_LOBES), strict=True)),
}
# Larger than any usual prostate (95 % are below 50 mL), smaller than an aerated lower lobe (345 mL and more).
_PROSTATE_OR_LOBE_ML = 150.0

PET_UNITS = ("SUVbw", "Bq/mL")
QUALITIES = ("HQ", "LQ")
_PATHS = ("pet", "ct", "organs", "lesions")
_REQUIRED = ("case", "patient", "pet", "pet_unit")


@dataclass(frozen=True)
class Case:
    """One scan and what is drawn on it; the module's docstring says what each field means.

    Raises:
        CohortError: Unknown unit, quality or organ convention; blank case or patient.
    """

    case: str
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
        if not self.case or not self.patient:
            raise CohortError(f"case {self.case!r} of patient {self.patient!r}: both need a name.")
        for name, known in (("pet_unit", PET_UNITS), ("quality", QUALITIES), ("organ_convention", ORGAN_CONVENTIONS)):
            value = getattr(self, name)
            if value not in known and (value is not None or name == "pet_unit"):
                raise CohortError(f"case {self.case}: {name}={value!r}; needed is one of {', '.join(known)}.")

    def load_pet(self) -> Volume:
        """Read the PET, in `pet_unit`."""
        return load_volume(self.pet, unit=self.pet_unit)

    def load_ct(self) -> Volume:
        """Read the CT, in HU; CohortError if the case has none."""
        if self.ct is None:
            raise CohortError(f"case {self.case}: the cohort names no CT; fill its column 'ct'.")
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
            organs = load_labels(self.organs, like=pet)
            names = self._organ_names(organs, pet.voxel_volume_ml)
            yield from organ_targets(organs, names, only)
        if self.lesions is not None:
            yield from lesion_targets(load_labels(self.lesions, like=pet), only)

    def _organ_names(self, organs: np.ndarray, voxel_volume_ml: float) -> Mapping[int, str]:
        sizes = np.bincount(organs.ravel())
        if self.organ_convention is None:
            try:
                convention = detect_organ_convention(np.flatnonzero(sizes), sizes[7:8].sum() * voxel_volume_ml)
            except CohortError as error:
                raise CohortError(f"case {self.case}: {self.organs}: {error}") from None
            warnings.warn(
                f"case {self.case}: {self.organs} was taken to follow organ_convention={convention!r}; write that "
                "into the cohort table if it is so.",
                stacklevel=4,
            )
            return ORGAN_CONVENTIONS[convention]
        names = ORGAN_CONVENTIONS[self.organ_convention]
        strange = sorted(set(np.flatnonzero(sizes).tolist()) - {0, *names})
        if strange:
            raise CohortError(
                f"case {self.case}: {self.organs} holds labels {strange}, which organ_convention="
                f"{self.organ_convention!r} does not know (it has {min(names)} to {max(names)})."
            )
        return names


def detect_organ_convention(labels: Iterable[int], label_7_ml: float) -> str:
    """Which of `ORGAN_CONVENTIONS` a label map follows, judged by the labels in it and the size of label 7.

    A convention is possible if it knows all labels, and if label 7, where present, has the size of what the convention
    calls 7: below 150 mL a prostate, else a lung's lower lobe. Possible conventions that mean the same by every label
    at hand are one.

    Args:
        labels: Labels in the file; 0 is ignored.
        label_7_ml: Volume of label 7, in mL; 0.0 if absent.

    Raises:
        CohortError: None or several remain possible.
    """
    present = sorted({int(label) for label in labels} - {0})
    seven = "prostate" if label_7_ml < _PROSTATE_OR_LOBE_ML else "lung_lower_lobe_left"
    possible = [
        convention
        for convention, names in ORGAN_CONVENTIONS.items()
        if set(present) <= set(names) and (7 not in present or names[7] == seven)
    ]
    meanings = {tuple(ORGAN_CONVENTIONS[convention][label] for label in present) for convention in possible}
    if len(meanings) != 1:
        verdict = f"could follow {' or '.join(possible)}" if possible else "follow no known convention"
        raise CohortError(
            f"labels {present} (label 7: {label_7_ml:.0f} mL) {verdict}. Look at the labels and say it in the column "
            f"organ_convention: {', '.join(ORGAN_CONVENTIONS)}."
        )
    return possible[0]


def organ_targets(
    organs: np.ndarray, names: Mapping[int, str], only: Sequence[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask (bool) of each organ of a label map, in the order of the labels; absent organs are empty."""
    for label, name in sorted(names.items()):
        if only is None or name in only:
            yield name, organs == label


def lesion_targets(lesions: np.ndarray, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """"lesions" (all together), then "lesion_01", ...: 26-connected components, the largest first; masks are bool."""
    mask = lesions > 0
    if only is None or "lesions" in only:
        yield "lesions", mask
    if only is None or any(name.startswith("lesion_") or name == "lesion" for name in only):
        components, _ = ndimage.label(mask, CONNECTED_26)
        sizes = np.bincount(components.ravel())[1:]
        for number, label in enumerate(np.argsort(-sizes, kind="stable") + 1, start=1):
            name = f"lesion_{number:02d}"
            if only is None or "lesion" in only or name in only:
                yield name, components == label


class Cohort:
    """Cases by name, in order.

    Args:
        cases: The cases.
        source: Where they come from, for messages.

    Raises:
        CohortError: No case at all, a case twice, or a patient in two splits.
    """

    def __init__(self, cases: Iterable[Case], source: str = "cohort") -> None:
        self.source = source
        self._cases: dict[str, Case] = {}
        splits: dict[str, Case] = {}
        for case in cases:
            if case.case in self._cases:
                raise CohortError(f"{source}: case {case.case} stands there twice; names of cases must be unique.")
            self._cases[case.case] = case
            first = splits.setdefault(case.patient, case)
            if case.split != first.split:
                raise CohortError(
                    f"{source}: patient {case.patient} is in split {first.split!r} (case {first.case}) and in "
                    f"{case.split!r} (case {case.case}); what was trained on would be tested on. Use "
                    "split_by_patient."
                )
        if not self._cases:
            raise CohortError(f"{source}: no cases.")

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def __getitem__(self, case: str) -> Case:
        try:
            return self._cases[case]
        except KeyError:
            known = ", ".join([*list(self._cases)[:5], *(["..."] if len(self) > 5 else [])])
            raise CohortError(f"{self.source}: no case {case!r} among {len(self)}: {known}.") from None

    @classmethod
    def from_csv(cls, path: str | os.PathLike) -> "Cohort":
        """Read a cohort table; the module's docstring lists its columns.

        Raises:
            CohortError: Table missing or without rows, columns missing or unknown, a row of wrong length, a blank
                required cell, a bad value, a file that does not exist, a case twice, a patient in two splits.
        """
        path = Path(path)
        if not path.is_file():
            raise CohortError(f"{path}: no such cohort table; needed is a CSV file.")
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            try:
                rows = list(csv.reader(file, strict=True))
            except (csv.Error, UnicodeDecodeError) as error:
                raise CohortError(f"{path}: not a readable CSV table in UTF-8 ({error}).") from error
        header = [name.strip() for name in rows[0]] if rows else []
        known = [field.name for field in fields(Case)]
        missing = [name for name in _REQUIRED if name not in header]
        if missing:
            raise CohortError(f"{path}: columns {missing} are missing; the table has {header}.")
        unknown = [name for name in header if name not in known]
        if unknown:
            raise CohortError(f"{path}: unknown columns {unknown}; known are {known}.")
        if len(set(header)) < len(header):
            raise CohortError(f"{path}: a column stands there twice: {header}.")
        cases = []
        for line, row in enumerate(rows[1:], start=2):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise CohortError(f"{path}, line {line}: {len(row)} cells; the header has {len(header)}.")
            cells = {name: cell.strip() or None for name, cell in zip(header, row, strict=True)}
            cases.append(_case_of_row(cells, path, line))
        return cls(cases, source=str(path))

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the table, with paths relative to its folder; it is complete or absent."""
        path = Path(path)
        with replace_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Case)], lineterminator="\n")
            writer.writeheader()
            for case in self:
                row = {field.name: getattr(case, field.name) for field in fields(Case)}
                for name in _PATHS:
                    if row[name] is not None:
                        row[name] = Path(os.path.relpath(row[name], path.resolve().parent)).as_posix()
                writer.writerow(row)

    @classmethod
    def from_autopet(cls, folder: str | os.PathLike) -> "Cohort":
        """Cases of an FDG-PET-CT-Lesions tree, `<patient>/<study>/{SUV,CTres,SEG}.nii.gz`.

        A case is named `<patient>_<study>`. PET is SUVbw; the CT is the one resampled to the PET's grid.

        Raises:
            CohortError: No such study, or a study without SUV or SEG.
        """
        folder = Path(folder)
        cases = []
        for study in sorted({file.parent for file in folder.glob("*/*/*.nii.gz")}):
            needed = _existing(study / "SUV.nii.gz", study / "SEG.nii.gz", case=study.name)
            ct = study / "CTres.nii.gz"
            cases.append(
                Case(
                    f"{study.parent.name}_{study.name}",
                    study.parent.name,
                    needed[0],
                    "SUVbw",
                    ct=ct if ct.is_file() else None,
                    lesions=needed[1],
                    tracer="FDG",
                )
            )
        if not cases:
            raise CohortError(f"{folder}: no <patient>/<study>/SUV.nii.gz in it; for imagesTr use from_nnunet.")
        return cls(cases, source=str(folder))

    @classmethod
    def from_nnunet(cls, folder: str | os.PathLike) -> "Cohort":
        """Cases of an autoPET challenge folder, `imagesTr/<case>_0000.nii.gz` (CT), `_0001` (SUV), `labelsTr/<case>`.

        Names such as `fdg_<patient>_<date>` and `psma_<patient>_<date>` give tracer and patient; any other case is
        taken for a patient of its own.

        Raises:
            CohortError: No such image, or a case without CT or label.
        """
        folder = Path(folder)
        cases = []
        for pet in sorted((folder / "imagesTr").glob("*_0001.nii.gz")):
            name = pet.name.removesuffix("_0001.nii.gz")
            needed = (pet.with_name(f"{name}_0000.nii.gz"), folder / "labelsTr" / f"{name}.nii.gz")
            ct, lesions = _existing(*needed, case=name)
            parts = name.split("_")
            named = len(parts) >= 3 and parts[0] in ("fdg", "psma")
            patient, tracer = (parts[1], parts[0].upper()) if named else (name, None)
            cases.append(Case(name, patient, pet, "SUVbw", ct=ct, lesions=lesions, tracer=tracer))
        if not cases:
            raise CohortError(f"{folder}: no imagesTr/<case>_0001.nii.gz in it; for studies use from_autopet.")
        return cls(cases, source=str(folder))

    def filter(self, split: str | None = None, quality: str | None = None) -> "Cohort":
        """The cases of one split and/or label quality; CohortError, naming what there is, if there are none."""
        chosen = [
            case
            for case in self
            if (split is None or case.split == split) and (quality is None or case.quality == quality)
        ]
        if not chosen:
            there = sorted({(str(case.split), str(case.quality)) for case in self})
            raise CohortError(f"{self.source}: no case with split={split!r}, quality={quality!r}; there are {there}.")
        return Cohort(chosen, self.source)

    def split_by_patient(self, seed: int, fractions: Mapping[str, float]) -> "Cohort":
        """The same cases with new splits; all cases of a patient go together.

        Args:
            seed: The same seed splits the same patients in the same way, whatever the order of cases.
            fractions: Share of the patients in each split, adding up to 1, such as {"train": 0.8, "test": 0.2}.

        Raises:
            CohortError: Fractions that do not add up, or a split left without a patient.
        """
        shares = np.array(list(fractions.values()), float)
        if (shares <= 0).any() or not np.isclose(shares.sum(), 1):
            raise CohortError(f"fractions {dict(fractions)} must be positive and add up to 1.")
        patients = sorted({case.patient for case in self})
        np.random.default_rng(seed).shuffle(patients)
        ends = np.rint(np.cumsum(shares) * len(patients)).astype(int)
        groups = np.split(patients, ends[:-1])
        if not all(len(group) for group in groups):
            raise CohortError(f"{len(patients)} patients are too few for fractions {dict(fractions)}.")
        split_of = {str(patient): name for name, group in zip(fractions, groups, strict=True) for patient in group}
        return Cohort((replace(case, split=split_of[case.patient]) for case in self), self.source)


def _case_of_row(cells: dict[str, str | None], table: Path, line: int) -> Case:
    where = f"{table}, line {line} (case {cells['case']})"
    blank = [name for name in _REQUIRED if cells[name] is None]
    if blank:
        raise CohortError(f"{where}: {blank} must not be blank.")
    for name in _PATHS:
        if cells.get(name) is not None:
            cells[name] = table.parent / cells[name]
            if not cells[name].is_file():
                raise CohortError(f"{where}: {name} file {cells[name]} does not exist.")
    try:
        return Case(**cells)
    except CohortError as error:
        raise CohortError(f"{table}, line {line}: {error}") from None


def _existing(*files: Path, case: str) -> tuple[Path, ...]:
    for file in files:
        if not file.is_file():
            raise CohortError(f"case {case}: {file} does not exist; is the download complete?")
    return files
