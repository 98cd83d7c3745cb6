"""DICOM studies -> AutoPET's tree or nnU-Net's folders: SUV, CT on the PET's grid, masks; resumable.

    AutoPET   <patient>/<study>/SUV.nii.gz, CTres.nii.gz, SEG.nii.gz, and SUV.json (tracer, origin of the SUV)
    nnU-Net   imagesTr/<case>_0000.nii.gz (CT), _0001 (SUV); labelsTr/<case>.nii.gz; dataset.json;
              imagesTs where nobody drew a mask

Beside them lie conversion.csv, what became of each study, and cohort.csv, which `Cohort.from_csv` opens. The engine of
studies runs it: a case whose files, choice of series and results are as they were is not converted again. The files of
a case are written elsewhere and then moved, so none is there in part.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from seganypet._files import as_path, make_folder, replace_atomically, write_error
from seganypet.cohort.case import Case
from seganypet.cohort.dicom_choice import Choice, check_known, choose_series
from seganypet.cohort.dicom_studies import DicomSeries, DicomStudy, find_studies
from seganypet.cohort.labels import is_anatomy
from seganypet.cohort.table import write_table
from seganypet.cohort.tracers import tracer_in, tracer_of_patient
from seganypet.errors import DicomError, SegAnyPETError, UnitError
from seganypet.pet.dicom import load_dicom
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume, save_mask, save_volume
from seganypet.study.definition import Rows, Study
from seganypet.study.engine import run_study

if TYPE_CHECKING:
    import pandas

Layout = Literal["autopet", "nnunet"]
LAYOUTS: tuple[Layout, ...] = ("autopet", "nnunet")
TABLE, COHORT = "conversion.csv", "cohort.csv"
COLUMNS: dict[str, type] = {
    "case": str, "patient": str, "study": str, "tracer": str, "pet": str, "ct": str, "lesions": str, "pet_series": str,
    "ct_series": str, "mask_series": str, "lesion_names": str, "left_out": str, "notes": str, "error": str,
}  # fmt: skip
MASK_ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".dcm", "")


class Conversion(NamedTuple):
    """What became of a tree of studies.

    Attributes:
        table: One row for each case, as in conversion.csv: files relative to the output, chosen series, what was left
            out, notes and error.
        skipped: Studies without PET, and archives; a sentence each.
        damaged: Damaged files that lie beside those of no study; a sentence each.
    """

    table: "pandas.DataFrame"
    skipped: list[str]
    damaged: list[str]


@dataclass(frozen=True, eq=False)
class StudyCase:
    """A study as a case of the engine.

    Attributes:
        name: Name in the output.
        patient: Name of the patient in the output.
        study: The study.
        tracer: Tracer that header or names tell.
        choice: The series that make the case; None if `refusal` says why there is no such choice.
        mask_file: File or folder of masks beside the DICOM files.
        refusal: Why the study cannot be converted.
    """

    name: str
    patient: str
    study: DicomStudy
    tracer: str | None
    choice: Choice | None = None
    mask_file: Path | None = None
    refusal: str | None = None

    def contents(self) -> dict[str, Any]:
        """What the result depends on: the files of the chosen series, and the choice."""
        if self.choice is None:
            return {"refusal": self.refusal}
        chosen = {"pet": self.choice.pet, "ct": self.choice.ct, "masks": self.choice.masks}
        series = {name: None if one is None else {"series": one.uid, "files": list(one.files)}
                  for name, one in chosen.items()}  # fmt: skip
        return series | {"mask_file": self.mask_file, "refusal": self.refusal}


def convert(
    source: str | os.PathLike,
    output: str | os.PathLike,
    layout: Layout = "autopet",
    *,
    series: Sequence[str] = (),
    masks: str | os.PathLike | bool = True,
    ct: bool = True,
    processes: int = 1,
    limit: int | None = None,
    progress: bool = True,
) -> Conversion:
    """Convert the PET/CT studies of a folder of DICOM files; run again, it converts what is new, changed or failed.

    Folders and cases are named by PatientID, study date and six digits of the study's UID. Names of patients are not
    written, but an ID may identify somebody: pseudonymise first.

    Args:
        source: Folder of a study, or of several studies and patients, in any arrangement.
        output: Folder of the result, made if it is missing.
        layout: "autopet" or "nnunet". nnU-Net wants the same channels in every case, so a study without CT fails there
            unless `ct` is False.
        series: SeriesInstanceUIDs where a study holds several that fit; see `cohort.dicom_choice` for the rules.
        masks: True takes the DICOM SEG or RTSTRUCT of a study; a folder is searched for <case>, <patient>, or <study>
            with an ending that `load_masks` reads; False takes none.
        ct: Whether a CT is converted.
        processes: Number of studies that are converted at the same time.
        limit: Number of studies, from the first; None: all.
        progress: Whether a progress bar is shown.

    Returns:
        What became of each study.

    Raises:
        DicomError: There is no DICOM file, or a series that was named is nowhere.
        SegAnyPETError: An unknown layout; what `engine.run_study` raises.

    Warns:
        UserWarning: Studies that failed.
    """
    if layout not in LAYOUTS:
        raise SegAnyPETError(f"layout={layout!r}; expected one of {', '.join(LAYOUTS)}.")
    source, output = as_path(source), as_path(output)
    studies, damaged, archives = find_studies(source)
    check_known(series, studies)
    with_pet = [study for study in studies if study.has_pet]
    skipped = [f"{_where(study)}: no PET among its {len(study.series)} series; left out." for study in studies
               if not study.has_pet] + archives  # fmt: skip
    folder = as_path(masks) if not isinstance(masks, bool) else None
    if folder is not None and not folder.is_dir():
        raise SegAnyPETError(f"masks={str(folder)!r} is no folder; expected one with <case>.nii.gz and the like.")
    cases = [_case(study, layout, series, ct, masks, folder, source) for study in with_pet]
    if not cases:
        raise DicomError(f"{source}: no PET. {' '.join([*skipped, *damaged][:5])}")
    make_folder(output)
    if layout == "nnunet":
        _write_dataset_json(output, ct)
    job = Study("convert", COLUMNS, {"layout": layout, "with_ct": ct}, partial(_measure, output),
                writes=partial(_written, output, layout))  # fmt: skip
    table = run_study(job, cases, output=output / TABLE, processes=processes, limit=limit, retry_failed=True,
                      progress=progress)  # fmt: skip
    if layout == "nnunet":
        _write_dataset_json(output, ct)
    _write_cohort(output, table)
    return Conversion(table, skipped, damaged)


# ---- cases


def _case(
    study: DicomStudy, layout: Layout, wanted: Sequence[str], ct: bool, masks: str | os.PathLike | bool,
    mask_folder: Path | None, source: Path,
) -> StudyCase:  # fmt: skip
    patient, choice, refusal, tracer, mask_file = study.patient, None, None, None, None
    try:
        choice = choose_series(study, wanted, ct, masks is True)
        above = choice.pet.folder.absolute().parts[::-1][: _depth(choice.pet, source)]
        by_name = tracer_in(choice.pet.description, study.description, *above, study.patient_id)
        tracer = choice.pet.tracer or by_name or tracer_of_patient(study.patient_id)
        if by_name not in (None, tracer):
            note = f"the header says that the tracer is {tracer}, names of series or folders say {by_name}."
            choice = replace(choice, notes=(*choice.notes, note))
        refusal = _fault(study, choice)
    except DicomError as error:
        refusal = str(error)
    name = f"{patient}_{study.name}"
    if layout == "nnunet":  # in such names underscores separate tracer, patient and date
        patient = patient.replace("_", "-") if "_" in patient else patient
        name = f"{tracer.casefold()}_{patient}_{study.name}" if tracer else f"{patient}_{study.name}"
    if mask_folder is not None and choice is not None and refusal is None:
        names = [name, f"{study.patient}_{study.name}", study.name, study.patient, study.patient_id]
        try:
            mask_file = _mask_file(mask_folder, names)
        except SegAnyPETError as error:
            refusal = str(error)
        if mask_file is None:
            note = f"{mask_folder} holds no masks named {name}, {study.patient} or {study.name}, with any ending."
            choice = replace(choice, notes=(*choice.notes, note))
    return StudyCase(name, study.patient, study, tracer, choice, mask_file, refusal)


def _depth(series: DicomSeries, source: Path) -> int:
    """How many folders lie between a series and the folder above the source."""
    inside = os.path.relpath(series.folder.absolute(), source.absolute())
    return 1 + (0 if inside == "." else len(Path(inside).parts))


def _fault(study: DicomStudy, choice: Choice) -> str | None:
    """Why a study whose series are chosen cannot be converted all the same."""
    if study.damaged:
        more = f" {len(study.damaged) - 1} more files." if len(study.damaged) > 1 else ""
        return f"a damaged file lies beside those of the study, perhaps a slice of it. {study.damaged[0]}{more}"
    for one in (choice.pet, choice.ct):
        if one is not None and one.duplicates:
            return (
                f"{len(one.duplicates)} files of series {one.uid} hold the same objects, such as {one.duplicates[0]} "
                f"and {one.duplicates[1]}: a study copied twice? Remove one copy."
            )
    return None


def _mask_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The masks of a case: the first name with exactly one file or folder."""
    for name in dict.fromkeys(name for name in names if name and name == Path(name).name):
        found = [path for ending in MASK_ENDINGS if (path := folder / f"{name}{ending}").exists()]
        if len(found) > 1:
            raise SegAnyPETError(f"{', '.join(map(str, found))} all match; keep one of them.")
        if found:
            return found[0]
    return None


def _where(study: DicomStudy) -> str:
    return f"{os.path.commonpath([one.folder for one in study.series])} (study {study.uid})"


# ---- one case


def _measure(
    output: Path, case: StudyCase, methods: Sequence[Any], settings: Mapping[str, Any]
) -> Iterator[tuple[str, Rows]]:
    if case.choice is None or case.refusal is not None:
        raise DicomError(f"{_where(case.study)}: {case.refusal}")
    choice = case.choice
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = _convert(output, case, choice, settings)
    said = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning))
    notes = [*choice.notes, *said]
    files = _files(output, case, settings["layout"], names is not None)
    there = {part: path.relative_to(output).as_posix() for part, path in files.items()
             if part in COLUMNS and path.is_file()}  # fmt: skip
    yield "", [{
        "study": case.study.uid, "tracer": case.tracer, **there, "pet_series": str(choice.pet),
        "ct_series": str(choice.ct or ""), "mask_series": str(choice.masks or case.mask_file or ""),
        "lesion_names": ", ".join(names or ()), "left_out": "; ".join(choice.left_out), "notes": " ".join(notes),
    }]  # fmt: skip


def _convert(output: Path, case: StudyCase, choice: Choice, settings: Mapping[str, Any]) -> list[str] | None:
    """Write the files of a case; names of the objects that were drawn as lesions, None if nobody drew any."""
    pet = load_dicom(choice.pet.folder, choice.pet.uid)
    if pet.unit != "SUVbw":
        raise UnitError(f"{pet.source}: the PET is in {pet.unit}; expected one that gives SUVbw.")
    if choice.ct is None and settings["with_ct"] and settings["layout"] == "nnunet":
        raise DicomError(f"{_where(case.study)}: {' '.join(choice.notes)} nnU-Net needs one; or convert PET alone.")
    lesions, names = _lesions(case, choice, pet)
    final = _files(output, case, settings["layout"], lesions is not None)
    with _work_folder(output / f".unfinished-{case.name}") as folder:
        written = {part: folder / path.parent.name / path.name for part, path in final.items()}
        for path in written.values():
            path.parent.mkdir(exist_ok=True)
        save_volume(written["pet"], pet)
        if choice.ct is not None:
            ct = load_dicom(choice.ct.folder, choice.ct.uid)
            if ct.unit != "HU":
                raise UnitError(f"{ct.source}: the CT is in {ct.unit}; expected HU.")
            save_volume(written["ct"], resample_to(ct, pet))
        if lesions is not None:
            save_mask(written["lesions"], lesions, like=pet)
        if "facts" in written:
            facts = {"TracerName": case.tracer, "Conversion": dict(pet.metadata)}
            written["facts"].write_text(json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8")
        _move(written, final, stale=_written(output, settings["layout"], case))
    return names if lesions is not None else None


@contextmanager
def _work_folder(path: Path) -> Iterator[Path]:
    """A new folder for the time of the block; one that a killed run left is removed."""
    shutil.rmtree(path, ignore_errors=True)
    make_folder(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _lesions(case: StudyCase, choice: Choice, pet: Volume) -> tuple[np.ndarray | None, list[str]]:
    """Mask of all lesions, bool, None if nobody drew any; and the names of the objects in it."""
    if choice.masks is None and case.mask_file is None:
        return None, []
    from seganypet.pet.mask_files import load_masks

    paths = [case.mask_file] if case.mask_file is not None else list(choice.masks.files)
    lesions, names, anatomy = np.zeros(pet.shape, bool), [], []
    for path in paths:
        for name, mask in load_masks(path, pet).items():
            if is_anatomy(name) and not path.name.startswith(name):  # a mask without names is called as its file
                anatomy.append(name)
            else:
                names.append(name)
                lesions |= mask
    if anatomy:
        warnings.warn(f"{', '.join(anatomy)} in the masks: by their names anatomy, no lesions; left out.", stacklevel=2)
    return lesions, names


def _files(output: Path, case: StudyCase, layout: str, drawn: bool) -> dict[str, Path]:
    """Where the files of a case go."""
    if layout == "autopet":
        at = output / case.patient / case.study.name
        names = {"pet": "SUV.nii.gz", "ct": "CTres.nii.gz", "lesions": "SEG.nii.gz", "facts": "SUV.json"}
        return {part: at / name for part, name in names.items() if drawn or part != "lesions"}
    part = "Tr" if drawn else "Ts"
    with_ct = case.choice is not None and case.choice.ct is not None
    files = {"pet": output / f"images{part}" / f"{case.name}_{1 if with_ct else 0:04d}.nii.gz"}
    if with_ct:
        files["ct"] = output / f"images{part}" / f"{case.name}_0000.nii.gz"
    return files | ({"lesions": output / f"labels{part}" / f"{case.name}.nii.gz"} if drawn else {})


def _written(output: Path, layout: str, case: StudyCase, method: Any = None) -> dict[str, Path]:
    """Every file that a case may have in the output, by its path there."""
    paths = {path for drawn in (True, False) for path in _files(output, case, layout, drawn).values()}
    return {path.relative_to(output).as_posix(): path for path in sorted(paths)}


def _move(written: Mapping[str, Path], final: Mapping[str, Path], stale: Mapping[str, Path]) -> None:
    """Put files that are whole in their places, and remove what an earlier conversion left."""
    (one, *others), at = {path.parent for path in final.values()}, final["pet"].parent
    try:
        if not others and not one.exists():  # a study's own folder, in one step
            one.parent.mkdir(parents=True, exist_ok=True)
            os.replace(written["pet"].parent, at)
            return
        for path in {*stale.values()} - {*final.values()}:
            path.unlink(missing_ok=True)
        for part, path in final.items():
            if written[part].exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(written[part], path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(error.filename or at, error) from error


# ---- the whole


def _write_dataset_json(output: Path, ct: bool) -> None:
    labels = output / "labelsTr"
    said = {
        "channel_names": {"0": "CT", "1": "PET"} if ct else {"0": "PET"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(list(labels.glob("*.nii.gz"))) if labels.is_dir() else 0,
        "file_ending": ".nii.gz",
    }
    with replace_atomically(output / "dataset.json") as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _write_cohort(output: Path, table: "pandas.DataFrame") -> None:
    rows = table[table["error"].isna()].astype(object).where(table.notna(), None).to_dict("records")
    cases = [
        Case(
            row["case"], row["patient"], output / row["pet"], "SUVbw", ct=_in(output, row["ct"]),
            lesions=_in(output, row["lesions"]), tracer=row["tracer"],
        )
        for row in rows
    ]  # fmt: skip
    if cases:
        write_table(output / COHORT, cases)


def _in(output: Path, name: str | None) -> Path | None:
    return None if name is None else output / name
