"""The meaning of labels: conventions of organ label maps, names with numbers, and the targets in a label map.

AutoPET-Organ's files do not say which organ a label is, and two orders are in use; a third is this package's own.
Therefore a convention is either stated, or detected with a warning, and never assumed. Where something says what the
numbers are, such as nnU-Net's dataset.json, a cohort's table keeps it as a text: "tumour=1; nodes=2+3; ignore=4"; what
is called "ignore" or "other" there does not count.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage

from seganypet.errors import CohortError
from seganypet.organs import ORGANS
from seganypet.regions import CONNECTED_26

_LOBES = (
    "lung_lower_lobe_left",
    "lung_lower_lobe_right",
    "lung_upper_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
)
# In AutoPET-Organ's files, labels 1 to 6 are undisputed. For the others there are reports of five lobes from 7, with
# the middle lobe as 11 or, in about a third of the cases, as 12; and of its README's order, with 7 = prostate, as here.
ORGAN_CONVENTIONS: dict[str, dict[int, str]] = {
    "seganypet": dict(enumerate(ORGANS, start=1)),
    "autopet-organ": dict(enumerate((*ORGANS[:6], *_LOBES), start=1)),
    "autopet-organ-12": dict(zip((*range(1, 11), 12), (*ORGANS[:6], *_LOBES), strict=True)),
}
# Above any usual prostate (95 % are below 50 mL), below an aerated lower lobe (345 mL and more).
_PROSTATE_OR_LOBE_ML = 150.0


_LESION = re.compile(
    "lesion|tumou?r|cancer|carcinoma|sarcoma|lymphoma|malign|metasta|neoplas|disease|nodul|\\bnodes?\\b|\\bmass\\b|gtv|avid|"
    "hot ?spot"
)
_ANATOMY = re.compile(
    "\\b(adrenal|aorta|artery|bladder|body|bones?|bowel|brain|breast|bronchi|colon|duodenum|esophagus|eyes?|fat|femur|"
    "gallbladder|glands?|heart|hip|kidneys?|liver|lobe|lungs?|marrow|muscles?|oesophagus|pancreas|parotid|prostate|ribs?|"
    "sacrum|skin|skull|spine|spinal|spleen|sternum|stomach|thyroid|tissue|trachea|urine|vein|vena|vertebrae?|healthy|"
    "normal|physiological)\\b"
)
IGNORE = "ignore"  # as in nnU-Net: voxels that nobody annotated
OTHER = "other"  # numbers of something else, such as of organs among lesions
LabelNumbers = dict[str, tuple[int, ...]]


def is_lesion(name: str) -> bool:
    """Whether a label's name says that it is diseased.

    >>> is_lesion("GTVp"), is_lesion("liver_tumor"), is_lesion("Liver"), is_lesion("ROI 3")
    (True, True, False, False)
    """
    return bool(_LESION.search(re.sub(r"[\W_]+", " ", name.casefold())))


def is_anatomy(name: str) -> bool:
    """Whether a label's name says that it is an organ or tissue, and not that it is diseased.

    >>> is_anatomy("lung_upper_lobe_left"), is_anatomy("liver tumor"), is_anatomy("ROI 3")
    (True, False, False)
    """
    return not is_lesion(name) and bool(_ANATOMY.search(re.sub(r"[\W_]+", " ", name.casefold())))


def label_text(numbers: Mapping[str, Sequence[int]]) -> str:
    """Names and their numbers as one text, which `label_numbers` reads.

    >>> label_text({"tumour": [1], "nodes": [2, 3]})
    'tumour=1; nodes=2+3'
    """
    plain = {" ".join(re.sub("[;=]", ",", name).split()): values for name, values in numbers.items()}
    return "; ".join(f"{name}={'+'.join(map(str, values))}" for name, values in plain.items())


def label_numbers(text: str) -> LabelNumbers:
    """The numbers of each name in a text such as "tumour=1; nodes=2+3; ignore=4".

    Raises:
        CohortError: The text has another form, or a number is not from 1 to 32767.
    """
    numbers: LabelNumbers = {}
    for part in filter(str.strip, text.split(";")):
        name, _, values = (word.strip() for word in part.rpartition("="))
        wrong = not name or name in numbers or not re.fullmatch(r"\d{1,5}(\s*\+\s*\d{1,5})*", values)
        found = () if wrong else tuple(int(value) for value in values.split("+"))
        if not found or not all(0 < value <= np.iinfo(np.int16).max for value in found):
            raise CohortError(f"labels {text!r}; expected names and numbers, such as 'tumour=1; nodes=2+3; ignore=4'.")
        numbers[name] = found
    return numbers


def counted(numbers: LabelNumbers) -> LabelNumbers:
    """The numbers of what counts."""
    return {name: values for name, values in numbers.items() if name not in (IGNORE, OTHER)}


def numbers_within(labels: np.ndarray, wanted: Iterable[int]) -> np.ndarray:
    """The label map with every other number set to 0."""
    wanted = np.fromiter(wanted, int)
    kept = np.zeros(max(int(labels.max(initial=0)), *wanted, 0) + 1, labels.dtype)
    kept[wanted] = wanted
    return kept[labels]


def organ_numbers(labels: np.ndarray, numbers: LabelNumbers) -> tuple[np.ndarray, dict[int, str]]:
    """A label map with one number for each organ, and the organ of each number.

    Raises:
        CohortError: Organs share a number, so that one label map cannot hold them.
    """
    numbers = counted(numbers)
    used = [value for values in numbers.values() for value in values]
    if len(set(used)) < len(used):
        raise CohortError(f"organs overlap in {label_text(numbers)!r}; give each number to one organ.")
    single = numbers_within(labels, used)
    for first, *others in numbers.values():
        single[np.isin(single, others)] = first
    return single, {values[0]: name for name, values in numbers.items()}


def detect_organ_convention(labels: Iterable[int], label_7_ml: float) -> str:
    """The member of `ORGAN_CONVENTIONS` that a label map follows, judged by its labels and the size of label 7.

    A convention is possible if it has all labels, and if label 7, where present, has a plausible size: below 150 mL for
    a prostate, else for a lower lobe of the lung. Possible conventions that agree on all labels present count as one.

    Args:
        labels: Labels in the file; 0 is ignored.
        label_7_ml: Volume of label 7, in mL; 0.0 if absent.

    Returns:
        Name of the convention.

    Raises:
        CohortError: No or several conventions are possible.
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
            f"labels {present} (label 7: {label_7_ml:.0f} mL) {verdict}. Look at the labels and state it in the column "
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


def wants_organs(only: Sequence[str] | None) -> bool:
    """Whether there are organs among the names of targets that are wanted; None: all are."""
    return only is None or not all(map(_is_lesion_target, only))


def wants_lesions(only: Sequence[str] | None) -> bool:
    """Whether there are lesions among the names of targets that are wanted; None: all are."""
    return only is None or any(map(_is_lesion_target, only))


def _is_lesion_target(name: str) -> bool:
    return name in ("lesions", "lesion") or name.startswith("lesion_")


def lesion_instances(lesions: np.ndarray) -> np.ndarray:
    """Single lesions as labels 1, 2, ..., the largest first (int32): 26-connected components of every label above 0."""
    components, _ = ndimage.label(lesions > 0, CONNECTED_26)
    sizes = np.bincount(components.ravel())[1:]
    rank = np.zeros(sizes.size + 1, components.dtype)
    rank[np.argsort(-sizes, kind="stable") + 1] = np.arange(1, sizes.size + 1)
    return rank[components]


def lesion_targets(lesions: np.ndarray, only: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """"lesions" (all together), then "lesion_01", ... as `lesion_instances` numbers them; masks are bool."""
    mask = lesions > 0
    if only is None or "lesions" in only:
        yield "lesions", mask
    if only is None or any(name.startswith("lesion_") or name == "lesion" for name in only):
        instances = lesion_instances(mask)
        for number in range(1, int(instances.max(initial=0)) + 1):
            name = lesion_name(number)
            if only is None or "lesion" in only or name in only:
                yield name, instances == number


def lesion_name(number: int) -> str:
    """The name of a single lesion, as "lesion_01"."""
    return f"lesion_{number:02d}"
