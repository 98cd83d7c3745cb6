"""Cohorts: scans, their patients, and their labels.

    cohort = Cohort.from_csv("cohort.csv")  # or from_autopet(folder), from_nnunet(folder), from_phantoms(8, seed=0)
    report = cohort.report()
    report.problems  # all at once: missing or damaged files, mismatched grids, wrong units, unknown labels
    report.cases     # voxel sizes, fields of view, ranges of SUV, numbers of organs and lesions
    cohort = cohort.split_by_patient(seed=0, fractions={"train": 0.8, "test": 0.2})

`seganypet.cohort.table` lists the columns of the CSV. Each worker holds at most one scan in memory.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from seganypet import __version__
from seganypet._files import as_path, cache_folder, reading, replace_atomically
from seganypet.cohort.autopet import read_autopet
from seganypet.cohort.case import Case
from seganypet.cohort.files import Found, files_by_case, missing_files, tell_missing, visible_files
from seganypet.cohort.inspection import Inspection, Problem, inspect_case, problem_table, same_scans
from seganypet.cohort.nnunet import read_nnunet
from seganypet.cohort.table import conflicts, read_table, write_table
from seganypet.errors import CohortError
from seganypet.phantom import make_phantom
from seganypet.phantom.files import CT, LESIONS, ORGAN_LABELS, PET, write_phantom

if TYPE_CHECKING:
    import pandas


class CohortReport(NamedTuple):
    """The contents of a cohort's files.

    Attributes:
        cases: One row per case: case, patient, split, quality, tracer, pet_unit, ct (whether there is one), and the
            columns of `inspection.inspect_case`; NaN where unknown.
        problems: One row per problem, with the columns of `inspection.Problem`.
    """

    cases: "pandas.DataFrame"
    problems: "pandas.DataFrame"


class Cohort:
    """Cases by name, in order.

    Args:
        cases: Cases with unique names.
        source: Origin of the cases, for messages.

    Raises:
        CohortError: There is no case, a name occurs twice, or a patient is in two splits.
    """

    def __init__(self, cases: Iterable[Case], source: str = "cohort") -> None:
        self.source = source
        cases = list(cases)
        _raise_first_error(conflicts(cases, source))
        if not cases:
            raise CohortError(f"{source}: no cases.")
        self._cases = {case.name: case for case in cases}

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
        """Read a cohort table; `seganypet.cohort.table` lists its columns.

        Raises:
            CohortError: The table is missing or has no rows, or has missing or unknown columns, a row of wrong length,
                a blank required cell, a bad value, a duplicate case, or a patient in two splits; or every case lacks a
                file. The message names the first fault; `validate_csv` lists all.

        Warns:
            UserWarning: Cases that lack a file; they stay in the cohort.
        """
        cases, problems = read_table(path)
        _raise_first_error([one for one in problems if one.problem != "missing"], "Cohort.validate_csv lists all.")
        if all({*missing_files(case)} - {case.ct} for case in cases):
            _raise_first_error(problems, "Cohort.validate_csv lists all.")
        tell_missing(cases, str(path))
        return cls(cases, source=str(path))

    @classmethod
    def from_path(cls, path: str | os.PathLike) -> "Cohort":
        """Read a table (`from_csv`), an nnU-Net folder or its imagesTr or imagesTs, or else an AutoPET tree."""
        path = as_path(path)
        with reading(path, CohortError):
            exists, is_table = path.exists(), path.is_file()
            is_nnunet = (path / "imagesTr").is_dir() or (path / "imagesTs").is_dir()
        if not exists:
            raise CohortError(f"{path} does not exist; expected a cohort.csv, an AutoPET tree or an nnU-Net folder.")
        if is_table:
            return cls.from_csv(path)
        if path.name in ("imagesTr", "imagesTs"):
            return cls.from_nnunet(path.parent, part="Tr" if path.name == "imagesTr" else "Ts")
        return cls.from_nnunet(path) if is_nnunet else cls.from_autopet(path)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Write the table, with paths relative to its folder, which is made; it is complete or absent."""
        write_table(path, self)

    @classmethod
    def from_autopet(cls, folder: str | os.PathLike) -> "Cohort":
        """Read a tree as of FDG-PET-CT-Lesions, `<patient>/<study>/{SUV,CTres,SEG}.nii.gz`; see `cohort.autopet`.

        A case is named `<patient>_<study>`. PET is SUVbw; the CT is the one resampled to the PET's grid. The tracer is
        the one that names or a JSON file beside the PET name, else None.

        Raises:
            CohortError: There is no such study, or every study lacks its PET; the message names them.

        Warns:
            UserWarning: Studies that lack a file; they stay in the cohort.
        """
        with reading(folder, CohortError):
            return cls._found(read_autopet(as_path(folder)), str(folder))

    @classmethod
    def from_nnunet(
        cls,
        folder: str | os.PathLike,
        part: Literal["Tr", "Ts"] | None = None,
        channels: Mapping[str, int] | None = None,
    ) -> "Cohort":
        """Read an nnU-Net data set, `imagesTr/<case>_<channel>.nii.gz` and `labelsTr/<case>.nii.gz`.

        dataset.json says which channel is the PET and which the CT, what the labels are, and how files end; see
        `cohort.nnunet`. Names such as `fdg_<patient>_<date>` give tracer and patient; any other case counts as a
        separate patient.

        Args:
            folder: Folder of the data set.
            part: "Tr" for imagesTr, "Ts" for imagesTs; default: imagesTr if there is one.
            channels: Channels by hand, such as {"PET": 0, "CT": 1} or {"PET": 0}, where dataset.json is missing or
                does not name them.

        Raises:
            CohortError: There is no image, dataset.json cannot be read, nothing says which channel is the PET, or every
                case lacks a file.

        Warns:
            UserWarning: Cases that lack a file; they stay in the cohort. What was concluded without dataset.json.
        """
        folder = as_path(folder)
        if part not in (None, "Tr", "Ts"):
            raise CohortError(f"part={part!r}; expected 'Tr' or 'Ts'.")
        with reading(folder, CohortError):
            if part is None:
                part = "Ts" if (folder / "imagesTs").is_dir() and not (folder / "imagesTr").is_dir() else "Tr"
            return cls._found(read_nnunet(folder, part, channels), str(folder))

    @classmethod
    def _found(cls, found: Found, source: str) -> "Cohort":
        for note in found.notes:
            warnings.warn(note, stacklevel=3)
        tell_missing(found.cases, source)
        return cls(found.cases, source)

    @classmethod
    def from_phantoms(
        cls,
        n: int,
        seed: int = 0,
        *,
        domain: str = "internal",
        lesions: bool | str = True,
        folder: str | os.PathLike | None = None,
        progress: bool = True,
    ) -> "Cohort":
        """Synthetic patients with seeds `seed`, `seed` + 1, ..., as files; a second call reuses them.

        Args:
            n: Number of phantoms.
            seed: Seed of the first phantom. The embedded networks were trained on seeds from 10,000.
            domain: Domain of the scans, see `make_phantom`.
            lesions: Kind of lesions, see `make_phantom`.
            folder: Parent of the cases' folders; default: the user's cache.
            progress: Whether to show a progress bar; an internal phantom takes 1 to 2 s, an external one 5 s.

        Raises:
            CohortError: `n` is not a positive integer.
            SegAnyPETError: The domain or the kind of lesions is unknown.
        """
        from tqdm.auto import tqdm

        for argument, value, minimum in (("n", n, 1), ("seed", seed, 0)):
            if not isinstance(value, int | np.integer) or value < minimum:
                raise CohortError(f"from_phantoms: {argument}={value!r}; expected an integer of at least {minimum}.")
        folder = cache_folder() / "phantoms" if folder is None else as_path(folder)
        cases = []
        kinds: dict[bool | str, str] = {True: "", False: "_healthy"}
        for number in tqdm(range(seed, seed + n), desc="phantoms", disable=not progress):
            kind = kinds.get(lesions, f"_{lesions}")
            name = f"phantom_{domain}_{number}{kind}"
            at = folder / name
            made_by = f"seganypet {__version__}: make_phantom({number}, {domain!r}, {lesions!r})\n".encode()
            marker = at / "made_by.txt"  # written last, so its presence means that the phantom is complete
            whole = all((at / file).is_file() for file in (marker.name, PET, CT, ORGAN_LABELS, LESIONS))
            try:
                if not whole or marker.read_bytes() != made_by:
                    marker.unlink(missing_ok=True)
                    write_phantom(make_phantom(number, domain, lesions), at)
                    with replace_atomically(marker) as temporary:
                        temporary.write_bytes(made_by)
            except OSError as error:
                why = error.strerror or error
                raise CohortError(f"cannot write phantoms to {at} ({why}); give another folder=.") from error
            cases.append(
                Case(
                    name, name, at / PET, "SUVbw", ct=at / CT, organs=at / ORGAN_LABELS, organ_convention="seganypet",
                    lesions=at / LESIONS, quality="HQ", tracer="FDG",
                )
            )  # fmt: skip
        return cls(cases, source=str(folder))

    def with_organs(self, folder: str | os.PathLike, convention: str | None = None) -> "Cohort":
        """The cases for which `folder` holds an organ label map, such as AutoPET-Organ's.

        Args:
            folder: Folder with files `<name>.nii.gz`, also in subfolders, where the name is that of a case, or of a
                patient with a single case. Capitals, separators, and AutoPET's prefixes "PETCT_", "fdg_" and "psma_"
                are ignored.
            convention: Convention of all files, a key of `ORGAN_CONVENTIONS`; default: detected when a file is read.

        Returns:
            A cohort of the cases with organs.

        Raises:
            CohortError: No file matches a case, or a file matches several.

        Warns:
            UserWarning: Files named after a patient with several cases, of which nobody knows which is meant.
        """
        folder = as_path(folder)
        if not folder.is_dir():
            raise CohortError(f"{folder} is not a folder; expected one with <case>.nii.gz.")
        files = visible_files(folder, "**/*.nii.gz")
        paths = files_by_case(self, files, folder)
        found = [
            replace(case, organs=path, organ_convention=convention, organ_labels=None)
            for case in self if (path := paths.get(case.name)) is not None
        ]  # fmt: skip
        if not found:
            there = ", ".join(path.name.removesuffix(".nii.gz") for path in files[:3]) or "no .nii.gz"
            raise CohortError(
                f"{folder}: none of its files ({there}) is named as a case of {self.source}; expected names such as "
                f"{next(iter(self)).name}.nii.gz."
            )
        return Cohort(found, self.source)

    def resampling_labels(self) -> "Cohort":
        """The same cases; labels on another grid than the PET's, such as the CT's, are resampled when they are read.

        Each voxel of the PET gets the label at its centre, see `load_labels`.
        """
        return Cohort((replace(case, label_grid="resample") for case in self), self.source)

    def report(self, *, voxels: bool = True, workers: int = 2, progress: bool = True) -> CohortReport:
        """Read every case, and report its contents and its problems.

        Args:
            voxels: Whether to read voxels too. Headers alone show missing files and wrong grids and take milliseconds
                per case; units, NaN and labels need voxels (seconds per case at 400 x 400 x 326).
            workers: Number of cases that are read at the same time, each holding the voxels of one file.
            progress: Whether to show a progress bar.

        Returns:
            Tables of the cases and of their problems.
        """
        import pandas

        found = _inspect(self, voxels, workers, progress)
        rows = [
            {"case": one.case.name}
            | {name: getattr(one.case, name) for name in ("patient", "split", "quality", "tracer", "pet_unit")}
            | {"ct": one.case.ct is not None, **one.row}
            for one in found
        ]
        problems = [problem for one in found for problem in one.problems]
        problems += [*same_scans(found), *conflicts(self, self.source)]
        return CohortReport(pandas.DataFrame(rows), problem_table(problems))

    def validate(self, *, voxels: bool = True, workers: int = 2, progress: bool = True) -> "pandas.DataFrame":
        """The problems of the cohort, one row each, with the columns of `inspection.Problem`.

        The contents of a file raise nothing; a table without rows means that nothing was found. Arguments as for
        `report`.
        """
        return self.report(voxels=voxels, workers=workers, progress=progress).problems

    @staticmethod
    def validate_csv(
        path: str | os.PathLike, *, voxels: bool = True, workers: int = 2, progress: bool = True
    ) -> "pandas.DataFrame":
        """As `validate`, for a table that `from_csv` may refuse: faults of its rows, then problems of the other cases.

        Raises:
            CohortError: The table does not exist.
        """
        cases, problems = read_table(path)
        found = _inspect(cases, voxels, workers, progress)
        # Missing files were reported with their line.
        problems += [problem for one in found for problem in one.problems if problem.problem != "missing"]
        return problem_table([*problems, *same_scans(found), *conflicts(cases, str(path))])

    def filter(self, split: str | None = None, quality: str | None = None) -> "Cohort":
        """The cases of one split and/or label quality; CohortError if there are none."""
        chosen = [case for case in self if split in (None, case.split) and quality in (None, case.quality)]
        if not chosen:
            there = sorted({(str(case.split), str(case.quality)) for case in self})
            raise CohortError(f"{self.source}: no case with split={split!r}, quality={quality!r}, only {there}.")
        return Cohort(chosen, self.source)

    def with_quality(self, quality: str | Mapping[str, str]) -> "Cohort":
        """The same cases with the quality of their labels, "HQ" or "LQ": of all, or by name of the case or patient.

        Raises:
            CohortError: Another quality, or a name that no case and no patient has.
        """
        names = {} if isinstance(quality, str) else quality
        if unknown := sorted(set(names) - {name for case in self for name in (case.name, case.patient)}):
            raise CohortError(f"{self.source} has neither a case nor a patient {', '.join(unknown)}.")
        marked = []
        for case in self:
            own = quality if isinstance(quality, str) else names.get(case.patient, case.quality)
            marked.append(replace(case, quality=names.get(case.name, own)))
        return Cohort(marked, self.source)

    def split_by_patient(self, seed: int, fractions: Mapping[str, float]) -> "Cohort":
        """The same cases with new splits; all cases of a patient are in one split.

        Args:
            seed: Seed of the split, which does not depend on the order of the cases.
            fractions: Fraction of the patients in each split, adding up to 1, such as {"train": 0.8, "test": 0.2}.

        Raises:
            CohortError: The fractions are not positive or do not add up to 1, or a split has no patient.
        """
        values = np.array(list(fractions.values()), float)
        if (values <= 0).any() or not np.isclose(values.sum(), 1):
            raise CohortError(f"fractions {dict(fractions)}; expected positive numbers that add up to 1.")
        patients = sorted({case.patient for case in self})
        np.random.default_rng(seed).shuffle(patients)
        ends = np.rint(np.cumsum(values) * len(patients)).astype(int)
        groups = np.split(patients, ends[:-1])
        if not all(len(group) for group in groups):
            raise CohortError(f"{len(patients)} patients are too few for fractions {dict(fractions)}.")
        split_of = {str(patient): name for name, group in zip(fractions, groups, strict=True) for patient in group}
        return Cohort((replace(case, split=split_of[case.patient]) for case in self), self.source)


def _inspect(cases: Iterable[Case], voxels: bool, workers: int, progress: bool) -> list[Inspection]:
    from tqdm.auto import tqdm

    if not isinstance(workers, int) or workers < 1:
        raise CohortError(f"workers={workers!r}; expected an integer of at least 1.")
    cases = list(cases)
    with ThreadPoolExecutor(workers) as pool:  # unpacking and numpy let other threads run
        done = pool.map(inspect_case, cases, repeat(voxels))
        return list(tqdm(done, total=len(cases), desc="cases", disable=not progress))


def _raise_first_error(problems: Iterable[Problem], hint: str = "") -> None:
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        more = f" {len(errors) - 1} more fault(s). {hint}".rstrip() if len(errors) > 1 else ""
        raise CohortError(errors[0].message + more)
