"""Radionuclides of PET: their half-lives, how headers name them, and how long after an injection they can be imaged."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

# Half-lives in s, of the nuclides in DICOM's context group 4020 and Co-55. Source: NNDC, NuDat 3.
HALF_LIVES_S = {
    "C-11": 1221.8, "N-13": 597.9, "O-14": 70.6, "O-15": 122.2, "F-18": 6586.2, "Na-22": 8.211e7, "K-38": 458.2,
    "Sc-43": 14008.0, "Sc-44": 14551.0, "Ti-45": 11088.0, "Mn-51": 2772.0, "Mn-52": 483060.0, "Mn-52m": 1266.0,
    "Fe-52": 29790.0, "Co-55": 63108.0, "Cu-60": 1422.0, "Cu-61": 12020.0, "Cu-62": 580.4, "Cu-64": 45723.0,
    "Zn-62": 33094.0, "Ga-66": 34164.0, "Ga-68": 4062.6, "Ge-68": 2.341e7, "As-70": 3156.0, "As-72": 93600.0,
    "Se-73": 25740.0, "Br-75": 5802.0, "Br-76": 58320.0, "Br-77": 205340.0, "Rb-82": 75.45, "Y-86": 53064.0,
    "Y-90": 230580.0, "Zr-89": 282280.0, "Nb-90": 52560.0, "Tc-94m": 3120.0, "I-124": 360800.0, "Tb-152": 63000.0,
}  # fmt: skip
_ELEMENTS = {
    "C": "carbon", "N": "nitrogen", "O": "oxygen", "F": "fluorine", "Na": "sodium", "K": "potassium",
    "Sc": "scandium", "Ti": "titanium", "Mn": "manganese", "Fe": "iron", "Co": "cobalt", "Cu": "copper", "Zn": "zinc",
    "Ga": "gallium", "Ge": "germanium", "As": "arsenic", "Se": "selenium", "Br": "bromine", "Rb": "rubidium",
    "Y": "yttrium", "Zr": "zirconium", "Nb": "niobium", "Tc": "technetium", "I": "iodine", "Tb": "terbium",
}  # fmt: skip
# Scanners' tables of half-lives differ from each other by up to 2 % (Sc-44, Rb-82), nuclides by far more.
SAME_HALF_LIFE = 0.03
# On real headers the dose has decayed for up to 1.5 half-lives; after six, 2 % of it are left.
MAX_HALF_LIVES = 6.0
DOUBTFUL_HALF_LIVES = 3.0
# From here on a day more or less gives a plausible decay too, so a clock without a date says nothing.
LONG_LIVED_S = 41400.0


def nuclides_in_text(text: str) -> set[str]:
    """Nuclides that a free text names, in any of the usual spellings.

    >>> sorted(nuclides_in_text("^18^Fluorine")), sorted(nuclides_in_text("[68Ga]Ga-PSMA-11"))
    (['F-18'], ['Ga-68'])
    """
    words = " ".join(re.sub(r"[^a-z0-9]", " ", text.lower()).split())
    found = {"F-18"} if re.search(r"\b(fdg|fluorodeoxyglucose)\b", words) else set()
    for nuclide in HALF_LIVES_S:
        symbol, mass = nuclide.split("-")
        element = f"(?:{symbol.lower()}|{_ELEMENTS[symbol]})"
        if re.search(rf"(?<![a-z0-9])(?:{element} ?{mass}|{mass} ?{element})(?![a-z0-9])", words):
            found.add(nuclide)
    return found


def nuclides_in_codes(items: Iterable[Any]) -> set[str]:
    """Nuclides that the items of a RadionuclideCodeSequence name, by their codes or their meanings."""
    # 1 MB of dictionaries, so imported where needed.
    from pydicom.sr._snomed_dict import mapping
    from pydicom.sr.codedict import codes

    concepts = {code.value: code.meaning for code in codes.cid4020.concepts.values()}
    texts = []
    for item in items:
        value = str(item.get("CodeValue") or "")
        # Vendors write SNOMED's older codes under designators of their own, so the value alone decides.
        texts += [concepts.get(mapping["SRT"].get(value, value), ""), str(item.get("CodeMeaning") or "")]
    return {nuclide for text in texts for nuclide in nuclides_in_text(text)}


def half_life_matches(half_life_s: float, nuclide: str) -> bool:
    """Whether a half-life is that of a nuclide, to the digits that scanners round to."""
    return abs(half_life_s / HALF_LIVES_S[nuclide] - 1) <= SAME_HALF_LIFE


def nuclides_with(half_life_s: float) -> list[str]:
    """Nuclides of PET that have a half-life."""
    return [nuclide for nuclide in HALF_LIVES_S if half_life_matches(half_life_s, nuclide)]


def average_count_rate_s(duration_s: float, half_life_s: float) -> float:
    """Seconds from the start of a frame until the decaying count rate equals its mean over the frame.

    Source: exp(-lambda t) = (1 - exp(-x)) / x with x = lambda duration; DICOM PS3.3 C.8.9.4.1.1 (Frame Reference Time).
    """
    decay_constant = np.log(2.0) / half_life_s
    x = decay_constant * duration_s
    return float(np.log(x / -np.expm1(-x)) / decay_constant)
