"""Answers and hints of lessons 0 to 3: clicks, SUV, masks, cohorts. Do not look here first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from seganypet.cohort.case import Case
from seganypet.cohort.cohort import Cohort
from seganypet.lessons.checks import Mistake, by_hand, close, exercise, expect, letter, number, two
from seganypet.pet.quantification import quantify
from seganypet.pet.volume import Volume

if TYPE_CHECKING:
    import pandas as pd

HALF_LIFE_S = 6586.2  # of fluorine-18


# ---- 0: quickstart


@exercise(
    "0.volume",
    "How many voxels of the mask are True, and how large is one?",
    "Multiply the number of voxels by the product of the spacing. Which unit is that?",
    "mask.sum() * np.prod(volume.spacing) is in mm3, and 1 mL is 1000 mm3.",
)
def volume_in_ml(answer: Any, mask: np.ndarray, volume: Volume) -> str:
    right = mask.sum() * volume.voxel_volume_ml
    expect(not close(number(answer), 1000 * right), "These are mm3; 1 mL is 1000 mm3.")
    expect(not close(answer, mask.sum()), "You counted voxels; how large is one?")
    expect(close(answer, right))
    return f"{answer:.1f} mL"


@exercise(
    "0.hottest",
    "Hide what lies outside the mask before you look for the largest value.",
    "np.where(mask, volume.data, -np.inf).argmax() counts through the flattened array; np.unravel_index goes back.",
    "volume.to_mm(ijk) turns the voxel into millimetres.",
)
def hottest(answer: Any, mask: np.ndarray, volume: Volume) -> str:
    expect(np.shape(answer) == (3,), "Expected a place: three numbers, x, y and z in mm.")
    i, j, k = np.rint(volume.to_ijk(answer)).astype(int).tolist()
    expect(
        volume.contains_ijk((i, j, k)), "This lies outside the scan. Did you give voxels? volume.to_mm(ijk) converts."
    )
    expect(bool(mask[i, j, k]), "This lies outside the mask. Hide the rest with np.where(mask, data, -np.inf).")
    expect(close(volume.data[i, j, k], volume.data[mask].max()), "Hotter voxels exist inside the mask. argmax?")
    return f"SUV {volume.data[i, j, k]:.2f} at {np.round(answer, 1).tolist()} mm"


@exercise(
    "0.kidney",
    "Use Add object, name it kidney_left, and click the middle of the kidney.",
    "The patient faces you: the left kidney is on the right of the picture, beside the spine.",
    "Where the outline leaves something out, click it; where it holds too much, right-click there.",
)
def kidney(answer: Any, truth: np.ndarray) -> str:
    reached = by_hand(answer, "kidney_left", truth, 0.6)
    return f"DSC {reached:.2f} in {len(answer.prompts_of('kidney_left'))} steps."


@exercise("0.threshold", "Drag the slider through the whole range and watch the curve; then answer in quotes.")
def threshold_on_organ(answer: Any) -> str:
    letter(answer, "b", {
        "a": "Drag far to the right: the region falls to pieces, because an organ is not even.",
        "c": "The curve rises and falls: neither end is good.",
        "d": "The truth is known here; look whether any threshold reaches DSC 1.",
    })  # fmt: skip
    return "Too low leaks into what touches, too high leaves holes; in between is the best that a threshold can do."


# ---- 1: from counts to SUV


@exercise(
    "1.suv",
    "What would be in each gram if the dose that is left had spread evenly?",
    "75 minutes are 4500 s; of the dose 2^(-4500 / 6586.2) is left.",
    "SUVbw = Bq/mL x g / (Bq at injection x 2^(-t / half-life)).",
)
def suv(answer: Any) -> str:
    undecayed = 9000 * 64_000 / 250e6
    right = undecayed * 2 ** (75 * 60 / HALF_LIFE_S)
    answer = number(answer)
    expect(not close(answer, undecayed * 2 ** (75 / HALF_LIFE_S), 2e-3), "75 minutes are how many seconds?")
    expect(not close(answer, undecayed), "How much of the 250 MBq is left after 75 minutes?")
    expect(not close(1000 * answer, right, 1e-2), "The weight is needed in grams.")
    expect(not close(answer, 1e6 * right, 1e-2), "The dose is needed in becquerel; 1 MBq is a million.")
    expect(not close(answer, undecayed * np.exp(75 * 60 / HALF_LIFE_S), 1e-2), "It is 2^(-t / half-life), not e^.")
    expect(not close(answer, undecayed**2 / right, 1e-2), "Less activity left means a higher SUV.")
    expect(close(answer, right))
    return f"SUV {answer:.2f}"


@exercise(
    "1.clock",
    "If the clock says that the injection was later, how much activity seems to be left?",
    "More seems to be left, by 2^(60 / 109.77); SUV divides by it.",
)
def clock(answer: Any) -> str:
    factor, why = two(answer)
    right = 2 ** (-3600 / HALF_LIFE_S)
    expect(not close(number(factor), 1 / right, 1e-2), "More activity seems to be left, and SUV divides by it.")
    expect(close(factor, right, 1e-2))
    letter(why, "a", {
        "b": "The dose at injection is typed correctly; what is wrong is how long it has decayed.",
        "c": "Every voxel is divided by the same number: the picture looks the same.",
    })  # fmt: skip
    return "All SUVs are a third too low, and nothing in the picture shows it."


@exercise(
    "1.liver",
    "The liver is the large, even organ under the right lung; the patient's right is on your left.",
    "Click well inside. If the region leaks, click the leak with the right button.",
)
def liver(answer: Any, truth: np.ndarray) -> str:
    reached = by_hand(answer, "liver", truth, 0.6)
    values = answer.volume.data[answer.mask_of("liver")]
    return f"DSC {reached:.2f}; SUVmean {values.mean():.2f}, between 1.5 and 3.5 as in most people."


# ---- 2: what a mask measures


@exercise(
    "2.mtv",
    "The threshold is 41 % of the liver's own SUVmax.",
    "Voxels count that are labelled liver and reach the threshold; then multiply by the volume of one.",
    "(liver & (data >= 0.41 * data[liver].max())).sum() voxels, times np.prod(spacing) / 1000.",
)
def mtv(answer: Any, pet: Volume, liver: np.ndarray) -> str:
    table = quantify(pet, {"liver": liver}, threshold="41% SUVmax")
    right, ml, answer = table.query("quantity == 'MTV'")["value"].item(), pet.voxel_volume_ml, number(answer)
    own_hot = pet.data >= 0.41 * pet.data[liver].max()
    of_all = (liver & (pet.data >= 0.41 * pet.data.max())).sum() * ml
    if close(answer, right):
        return f"{answer:.1f} of {liver.sum() * ml:.1f} mL"
    expect(not close(answer, liver.sum() * ml), "That is all of the liver; 41 % of which number?")
    expect(not close(answer, own_hot.sum() * ml), "Hot voxels outside the liver do not count.")
    expect(not close(answer, of_all), "41 % of the liver's own maximum, not of the whole scan's.")
    expect(not close(answer, 0.41 * liver.sum() * ml), "The threshold is on SUV, not on the volume.")
    expect(not close(answer, 1000 * right), "These are mm3.")
    expect(not close(1000 * answer, right), "These are litres.")
    raise Mistake


@exercise("2.blur", "Set the slider to blur 8 mm and diameter 10 mm, and read the line below the picture.")
def blur(answer: Any) -> str:
    times, why = two(answer)
    expect(not close(number(times), 1, 0.1), "That would be the true volume; read the line below the picture.")
    expect(times > 1, "Found divided by true: is the region smaller or larger than the ball?")
    expect(close(times, _ball_found_41(10.0, 8.0), 0.1))
    letter(why, "c", {
        "a": "Noise was 0; what else moved the maximum?",
        "b": "The ball is as it was; only the picture of it is blurred.",
        "d": "A voxel is 1 mm here, far smaller than the ball.",
    })  # fmt: skip
    return "The maximum sinks, and with it the threshold, until it lies in the blur around the ball."


@exercise(
    "2.lesion",
    "Click the middle of the lesion, then correct what leaks.",
    "A lesion with a cold middle needs a click on its rim, too.",
)
def lesion(answer: Any, truth: np.ndarray) -> str:
    return f"DSC {by_hand(answer, 'another', truth, 0.6):.2f}"


@exercise(
    "2.tlg",
    "TLG is the lesion's volume times its mean SUV.",
    "Mean over the voxels of the mask; volume in mL.",
)
def tlg(answer: Any, pet: Volume, mask: np.ndarray) -> str:
    right, answer = pet.data[mask].mean() * mask.sum() * pet.voxel_volume_ml, number(answer)
    expect(not close(answer, pet.data[mask].sum()), "A sum over voxels: how large is a voxel, in mL?")
    expect(not close(answer, pet.data[mask].max() * mask.sum() * pet.voxel_volume_ml), "The mean SUV, not the largest.")
    expect(not close(answer, 1000 * right), "The volume is needed in mL.")
    expect(close(answer, right))
    return f"{answer:.1f} g"


# ---- 3: labels and cohorts


@exercise(
    "3.mend",
    "Run Cohort(mended).validate() and read what is left.",
    "replace(suspects[0], pet_unit=...) names the unit that the file has; the others need the right files.",
)
def mend(answer: Any, suspects: Sequence[Case]) -> str:
    is_list = isinstance(answer, list) and bool(answer) and all(isinstance(one, Case) for one in answer)
    expect(is_list, "Expected a list of cases, [replace(suspects[0], ...), ...].")
    left = Cohort(answer, "mended").validate(progress=False)
    expect(left.empty, f"Still wrong: {'; '.join(f'{row.case}: {row.problem}' for row in left.itertuples())}.")
    expect(len({one.load_pet().fingerprint() for one in answer}) == 3, "Three different scans can be kept.")
    expect(all(one.organs and one.lesions for one in answer), "Mend labels, do not drop them.")
    names = {one.name for one in suspects}
    expect({one.name for one in answer} <= names, "Use replace(...) on the suspects themselves.")
    return "The cohort is sound."


@exercise(
    "3.spleen",
    "Compare each case's spleen with the same case's liver.",
    "Keep the rows of SUVmax; divide spleen by liver, case by case; take the largest.",
)
def spleen(answer: Any, measured: "pd.DataFrame") -> str:
    maxima = measured.query("quantity == 'SUVmax'").set_index(["case", "object"])["value"].unstack()
    ratios = maxima["spleen"] / maxima["liver"]
    expect(isinstance(answer, str) and answer in ratios.index, f"Expected one name of {', '.join(ratios.index)}.")
    expect(answer == ratios.idxmax(), "Compare SUVmax; divide each case's spleen by the same case's liver.")
    return f"{answer}, spleen at {ratios.max():.2f} times its liver"


@exercise(
    "3.hunt",
    "Turn the projection and go through the outlines one by one: is it the organ, all of it, nothing else?",
    "Left and right; what two outlines share; what an outline swallowed.",
)
def hunt(answer: Any, wrong: Sequence[str]) -> str:
    expect(isinstance(answer, list | tuple | set), 'Expected a list of names, such as ["heart", "spleen"].')
    named, known = set(answer), set(wrong)
    expect(named <= known, f"{', '.join(sorted(map(str, named - known)))}: look again, this one is sound.")
    expect(named == known, f"{len(named)} of {len(known)} found.")
    return "All of them. Now mend them."


@exercise(
    "3.mended",
    "Remove an object (x), Add object under its name and click it anew; or take away what is too much.",
    "Two outlines that are exchanged are mended by their names.",
)
def hunt_mended(answer: Any, truths: dict[str, np.ndarray]) -> str:
    for name, truth in truths.items():
        by_hand(answer, name, truth, 0.7)
    return "All of these outlines can be measured now."


@exercise("3.quality", "Set lq_dsc to 0.6 in the parameters and run the lesson again, or drag the severity.")
def quality(answer: Any) -> str:
    letter(answer, "c", {
        "a": "Look at the slider: a leak into something cool changes the mean, not the maximum.",
        "b": "A forgotten hot spot changes SUVmax, and DSC hardly notices it.",
    })  # fmt: skip
    return "Which number suffers depends on the kind of error, so ask for which number a label must be good."


def _ball_found_41(diameter_mm: float, blur_mm: float) -> float:
    """Volume found by 41 % of the maximum over the true one, of a ball of SUV 8 in 1."""
    axis = np.arange(-30.0, 31.0)
    away = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    ball = np.where(away < diameter_mm / 2, 8.0, 1.0)
    seen = ndimage.gaussian_filter(ball, blur_mm / 2.355, truncate=3)
    return float(((seen >= 0.41 * seen.max()) & (away < 25)).sum() / (ball > 4).sum())
