"""Which tracer was injected, from the words of names and headers; never assumed."""

import re
from pathlib import Path

from seganypet._files import read_json
from seganypet.errors import SegAnyPETError

# Words of each tracer: abbreviations in names of folders, and radiopharmaceuticals as DICOM headers spell them.
_WORDS = {
    "FDG": "fdg|fluorodeoxyglucose|fludeoxyglucose",
    "PSMA": "psma|rhpsma|dcfpyl|piflufolastat|flotufolastat|gozetotide",
    "DOTATATE": "dotatate",
    "DOTATOC": "dotatoc|edotreotide",
    "DOTANOC": "dotanoc",
    "FAPI": "fapi",
    "FLT": "flt|fluorothymidine|alovudine",
    "FES": "fes|fluoroestradiol",
    "FMISO": "fmiso|fluoromisonidazole",
    "FET": "fet|fluoroethyltyrosine",
    "FDOPA": "fdopa|fluorodopa",
    "NaF": "naf|sodium fluoride",
    "choline": "choline|fluorocholine|fluoromethylcholine",
    "fluciclovine": "fluciclovine",
}
_PATTERNS = {tracer: re.compile(rf"(?<![a-z])(?:18f|f18)?(?:{words})(?![a-z])") for tracer, words in _WORDS.items()}
_TCIA_FDG_PATIENT = re.compile(r"PETCT_[0-9a-f]+")


def tracer_in(*texts: str) -> str | None:
    """The tracer that the first telling text names; None if none does. A text that names two tells nothing.

    >>> tracer_in("PSMA_01a52e26ce5b5e26", "FDG-PET-CT-Lesions"), tracer_in("fdg-and-psma"), tracer_in("PETCT_0a1b")
    ('PSMA', None, None)
    """
    for text in texts:
        named = [tracer for tracer, pattern in _PATTERNS.items() if pattern.search(text.casefold())]
        if len(named) == 1:
            return named[0]
    return None


def tracer_of_patient(patient: str) -> str | None:
    """FDG for a patient who is named as in FDG-PET-CT-Lesions, where only FDG was given; None for others.

    >>> tracer_of_patient("PETCT_0a1b2c3d4e"), tracer_of_patient("PETCT_Miller")
    ('FDG', None)
    """
    return "FDG" if _TCIA_FDG_PATIENT.fullmatch(patient) else None


def tracer_in_sidecar(image: Path) -> str | None:
    """The tracer that the JSON file beside an image names, in BIDS's or dcm2niix's field; None without one."""
    path = image.with_name(re.sub(r"\.nii(\.gz)?$|\.nrrd$|\.mha$", "", image.name) + ".json")
    try:
        fields = read_json(path)
    except SegAnyPETError:
        return None
    if not isinstance(fields, dict):
        return None
    return tracer_in(*(str(fields.get(name, "")) for name in ("TracerName", "Radiopharmaceutical")))
