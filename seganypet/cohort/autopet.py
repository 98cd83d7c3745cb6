"""AutoPET's trees, `<patient>/<study>/{SUV,CTres,SEG}.nii.gz`, as published and as `seganypet convert` writes them."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from seganypet.cohort.case import Case
from seganypet.cohort.files import Found, visible_files
from seganypet.cohort.tracers import tracer_in, tracer_in_sidecar, tracer_of_patient
from seganypet.errors import CohortError

PET, CT, LESIONS = "SUV.nii.gz", "CTres.nii.gz", "SEG.nii.gz"


def read_autopet(folder: Path) -> Found:
    """The cases of a tree, complete or not.

    A study is a folder two or three levels down that holds one of the three files; at three levels, the first is a
    collection, such as FDG-PET-CT-Lesions beside PSMA-PET-CT-Lesions. A case is named `<patient>_<study>`, and where
    several collections have that, `<collection>_<patient>_<study>`. The tracer is the one that a JSON file beside
    SUV.nii.gz names, else the innermost of the folders' names that names one.

    Raises:
        CohortError: There is no such study.
    """
    studies = _studies(folder, "*/*/*.nii.gz")
    patients = {study.parent for study in studies}
    # A folder inside a study is no study, nor is the study then a patient.
    studies += [study for study in _studies(folder, "*/*/*/*.nii.gz") if study.parent.parent not in patients]
    if not studies:
        raise CohortError(
            f"{folder}: expected <patient>/<study>/{PET} in it; for imagesTr and imagesTs use from_nnunet, and for "
            "DICOM `seganypet convert`."
        )
    # A file that no study has was never made; one that some lack is missing there.
    made = {name for name in (CT, LESIONS) if any(os.path.isfile(study / name) for study in studies)}
    notes = [] if LESIONS in made else [f"{folder}: no {LESIONS} in any of {len(studies)} studies, so no lesions."]
    names = dict(_names(studies))
    cases = []
    for study in studies:
        patient = study.parent.name
        above = study.relative_to(folder).parts[::-1]  # the study's name first
        tracer = (
            tracer_in_sidecar(study / PET) or tracer_in(*above, folder.absolute().name) or tracer_of_patient(patient)
        )
        ct, lesions = (study / name if name in made else None for name in (CT, LESIONS))
        cases.append(Case(names[study], patient, study / PET, "SUVbw", ct=ct, lesions=lesions, tracer=tracer))
    return Found(cases, notes)


def _studies(folder: Path, pattern: str) -> list[Path]:
    return sorted({file.parent for file in visible_files(folder, pattern) if file.name in (PET, CT, LESIONS)})


def _names(studies: list[Path]) -> Iterator[tuple[Path, str]]:
    """A name for each study, with the collection in front of those that would have the same."""
    short = {study: f"{study.parent.name}_{study.name}" for study in studies}
    times = Counter(short.values())
    for study, name in short.items():
        yield study, name if times[name] == 1 else f"{study.parent.parent.name}_{name}"
