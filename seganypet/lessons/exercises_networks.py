"""Answers and hints of lessons 4 to 9: prompts, training, tumours, the network. Do not look here first."""

from collections.abc import Callable
from math import exp, log
from typing import TYPE_CHECKING, Any

import numpy as np

from seganypet.lessons.checks import Mistake, by_hand, close, exercise, expect, letter, number, two
from seganypet.metrics import dice
from seganypet.pet.physiology import physiology_from_clicks, without_physiology
from seganypet.pet.volume import Volume
from seganypet.prompting.suggest import hot_mask

if TYPE_CHECKING:
    import pandas as pd


# ---- 4: clicks in 2D and 3D


@exercise("4.clicks", "5N: five clicks in each slice that holds the kidney.", "Slices times five; then divide by five.")
def clicks(answer: Any) -> str:
    made, times = two(answer)
    expect(number(made) != 34, "That is N.")
    expect(made != 5, "Five in each slice.")
    expect(made == 5 * 34)
    expect(number(times) == 34, "Divide by the five points of the 3D method.")
    return "170 clicks, 34 times as many."


@exercise(
    "4.equal",
    "Which rows of the table cost at most two clicks?",
    "Filter by model, by group and by total_clicks <= 2; then take the largest DSC.",
)
def equal_effort(answer: Any, curve: "pd.DataFrame", model: str, group: str) -> str:
    rows = curve[(curve["group"] == group) & (curve["model"] == model)]
    expect(0 <= number(answer) <= 1, "DSC lies between 0 and 1.")
    right = rows.loc[rows["total_clicks"] <= 2, "dsc"].max()
    expect(close(answer, right, 0.01), "That took more clicks." if close(answer, rows["dsc"].max(), 0.01) else "")
    return f"{answer:.2f}"


@exercise(
    "4.best",
    "After the third of five clicks, which DSCs does an evaluation know?",
    "Go through the list and keep the largest that you have met.",
)
def best_so_far(answer: Callable[[list[float]], Any]) -> str:
    reported = [float(one) for one in answer([0.5, 0.8, 0.6, 0.7, 0.9])]
    expect(reported != [0.5, 0.8, 0.6, 0.7, 0.9], "After the third click the best is still 0.8.")
    expect(reported != [0.9] * 5, "After the first click nobody knows the fifth.")
    expect(reported == [0.5, 0.8, 0.8, 0.8, 0.9])
    return str(reported)


@exercise("4.hand", "Click a slice of the organ on the left; click its middle on the right.")
def both_ways(answer: Any, truth: np.ndarray, name: str) -> str:
    expect(isinstance(answer, dict) and set(answer) == {"2D", "3D"}, "Expected the two sessions, by_hand.")
    reached = {kind: dice(session.mask_of(name), truth) for kind, session in answer.items() if name in session.objects}
    expect(len(reached) == 2, f"Click {name} on both sides.")
    expect(reached["3D"] >= 0.6, f"3D: DSC {reached['3D']:.2f}; reach 0.6.")
    spent = {kind: len(session.prompts_of(name)) for kind, session in answer.items()}
    return "; ".join(f"{kind}: DSC {reached[kind]:.2f} after {spent[kind]} clicks" for kind in answer)


@exercise("4.seconds", "Drag seconds per click from 2 to 15, and read how far the last point of each curve moves.")
def seconds(answer: Any) -> str:
    letter(answer, "b", {
        "a": "The network's seconds do not change with yours.",
        "c": "They move by clicks times seconds; the one with more clicks moves farther.",
    })  # fmt: skip
    return "The slower the hand, the dearer the many clicks."


# ---- 5: doubtful labels and CPCL


@exercise("5.lambda", "w_max exp(-beta (1 - t / t_max)), with w_max 0.1 and beta 5.", "exp(-2.5) times 0.1.")
def weight(answer: Any) -> str:
    expect(not close(number(answer), 0.1 * exp(-5 * 0.25)), "That is the Gaussian; do not square.")
    expect(not close(answer, exp(-2.5)), "Times w_max.")
    expect(close(answer, 0.1 * exp(-2.5)))
    return f"{answer:.4f}"


@exercise(
    "5.doubt",
    "Average the two probabilities first.",
    "-p ln p - (1 - p) ln(1 - p) of the mean p.",
)
def doubt(answer: Any) -> str:
    def entropy(p: float) -> float:
        return -p * log(p) - (1 - p) * log(1 - p)

    expect(not close(number(answer), entropy(0.7) / log(2)), "That is in bits; take the natural logarithm.")
    each = (entropy(0.9) + entropy(0.5)) / 2
    expect(not close(answer, each), "Average the probabilities first, then take the entropy.")
    expect(close(answer, entropy(0.7)))
    return f"{answer:.3f} of at most {log(2):.3f}"


@exercise(
    "5.rectify",
    "np.where(condition, value if true, value if false)",
    "The condition: doubt above its 0.9 quantile. If true: 1 where mean_p is above one half, else 0. If false: y.",
)
def rectified(answer: Any, y: np.ndarray, mean_p: np.ndarray, doubt: np.ndarray) -> str:
    expect(np.shape(answer) == y.shape, f"Expected one value for each voxel, shape {y.shape}.")
    doubted = doubt > np.quantile(doubt, 0.9)
    if (~np.isclose(answer, np.where(doubted, mean_p > 0.5, y))).mean() < 1e-4:  # but for rounding of the quantile
        return f"{np.mean((np.asarray(answer) > 0.5) != (y > 0.5)):.2%} of the voxels changed sides"
    expect(not np.allclose(answer, np.where(doubted, 1 - y, y)), "That flips the label; ask the network instead.")
    expect(
        not np.allclose(answer, np.where(doubted, y, mean_p > 0.5)), "The other way round: where is the label doubted?"
    )
    expect(not np.allclose(answer, np.where(doubted, mean_p, y)), "0 or 1 there, not p itself.")
    raise Mistake


@exercise(
    "5.impatient",
    "np.flatnonzero(mask.any(axis=(0, 1))) are the organ's slices, from the feet upwards.",
    "Work on mask.copy(), and set the last third of those slices to False.",
)
def impatient(answer: Callable[[np.ndarray], Any], truth: np.ndarray) -> str:
    shown = truth.copy()
    mine = answer(shown)
    expect(np.array_equal(shown, truth), "You changed the mask that you were given; work on mask.copy().")
    expect(isinstance(mine, np.ndarray) and mine.shape == truth.shape, "Return a mask of the same shape.")
    expect(not (mine & ~truth).any(), "Your annotator only leaves out; some voxels are new.")
    had, has = (np.flatnonzero(mask.any(axis=(0, 1))) for mask in (truth, mine))
    expect(bool(has.size), "Nothing is left at all.")
    expect(has[0] == had[0], "The feet are at the beginning of the last axis; you left out the wrong end.")
    expect(abs(has.size - 2 * had.size / 3) <= 1, f"{has.size} of {had.size} slices are left; count the organ's only.")
    expect(np.array_equal(mine[..., has], truth[..., has]), "Slices that are drawn are drawn completely.")
    return f"{has.size} of {had.size} slices, DSC {dice(mine, truth):.2f}"


@exercise("5.hand", "Draw the organ better than the doubtful label does: click it, correct it.")
def better_label(answer: Any, label: np.ndarray, truth: np.ndarray, name: str) -> str:
    reached = by_hand(answer, name, truth, dice(label, truth))
    return f"Your label has DSC {reached:.2f}, the doubtful one {dice(label, truth):.2f}."


@exercise("5.better", "Compare the two first bars for several organs, and the third.")
def who_is_better(answer: Any) -> str:
    letter(answer, "b", {
        "a": "Choose `tiny` and an organ that it knows: there it helps.",
        "c": "Few or many doubted voxels change how much happens, not in which direction.",
        "d": "With one prompt the entropy of its answer is there as well; K makes it steadier.",
    })  # fmt: skip
    return "Rectifying helps where the network's mean answer is better than the label, and harms where it is not."


# ---- 6: train and compare


@exercise("6.interval", "An interval that holds 0 decides nothing.", "low > 0 is a gain, high < 0 a loss.")
def verdict(answer: Callable[[float, float], Any]) -> str:
    expect(answer(-0.4, 2.1) == "undecided", "An interval that holds 0 decides nothing.")
    expect(answer(0.2, 1.4) == "gain", "All of the interval lies above 0.")
    expect(answer(-3.0, -0.1) == "loss", "All of the interval lies below 0.")
    return "0 inside: undecided."


@exercise(
    "6.share",
    "weight times term, divided by the sum of all weighted terms",
    "0.1 x 0.004 over (0.5 + 0.1 x 0.6 + 0.1 x 0.004).",
)
def share(answer: Any) -> str:
    right = 0.1 * 0.004 / (0.5 + 0.1 * 0.6 + 0.1 * 0.004)
    expect(not close(number(answer), 100 * right), "As a fraction, not in percent.")
    expect(not close(answer, 0.004 / (0.5 + 0.6 + 0.004)), "Weigh the terms first.")
    expect(close(answer, right, 0.02))
    return f"{answer:.2%}: too little to steer anything."


@exercise(
    "6.confounder", "Which arm changes one thing only?", "Compare it with fine-tuning: same labels, other weight."
)
def confounder(answer: Any) -> str:
    letter(answer, "c", {
        "a": "From fine-tuning to CPCL two things change.",
        "b": "This keeps the weight and rectifies: it shows what rectifying adds, not what the weight does.",
        "d": "True labels show what could be reached at most.",
    })  # fmt: skip
    return "Leaving doubtful labels out changes their weight alone."


@exercise("6.hand", "Pick the object, look where the outline is wrong, and click there.")
def corrected(answer: Any, truth: np.ndarray, name: str) -> str:
    return f"DSC {by_hand(answer, name, truth, 0.6):.2f} in {len(answer.prompts_of(name))} steps"


@exercise("6.patients", "Leave gain and spread; drag the patients.", "By which factor does an interval shrink?")
def patients(answer: Any) -> str:
    times, why = two(answer)
    expect(number(times) != 2, "Twice the patients narrow an interval by the square root of 2 only.")
    expect(times == 4)
    letter(why, "b", {
        "a": "The spread between patients is what it is.",
        "c": "Seeds of training are another source; here only patients were added.",
    })  # fmt: skip
    return "Four times the patients, half the interval."


# ---- 7: one click, many lesions


@exercise(
    "7.bound",
    "Begin with the largest lesion.",
    "DSC is 2 found / (found + all).",
)
def bound(answer: Callable[[list[float], int], Any]) -> str:
    one = number(answer([10, 60, 30], 1))
    expect(not close(one, 0.6), "0.6 is the share found; DSC is 2 found / (found + all).")
    expect(not close(one, 20 / 110), "Begin with the largest lesion.")
    expect(close(one, 120 / 160), "After one click 60 mL of 100 mL are found.")
    expect(close(answer([10, 60, 30], 2), 180 / 190), "After two clicks 90 mL are found.")
    expect(close(answer([10, 60, 30], 9), 1), "After all lesions it is 1, and stays there.")
    return f"{one:.2f} after one click"


@exercise("7.equal", "N clicks, shared by 24 lesions.", "96 slices, a click in each; 24 lesions.")
def equal_clicks(answer: Any) -> str:
    expect(number(answer) != 96, "That is N, for the whole scan.")
    expect(answer != 96 * 24, "Divide.")
    expect(answer == 4)
    return "4 clicks on each"


@exercise("7.hand", "Next suggestion, look at the spot in three planes, click it; Add object before the next.")
def four_lesions(answer: Any, instances: np.ndarray) -> str:
    found = [name for name in answer.objects if _is_a_lesion(answer.mask_of(name), instances)]
    expect(
        len(found) >= 4, f"{len(found)} of your objects are lesions (DSC 0.3 and more with one); four are asked for."
    )
    return f"{len(found)} lesions, each an object of its own"


@exercise("7.window", "Drag the voxel size, and read how many millilitres one voxel of the answer is.")
def window(answer: Any) -> str:
    ml, why = two(answer)
    expect(close(number(ml), (4 * 64 / 32 / 10) ** 3, 0.02), "Read the line below the picture at 4 mm.")
    letter(why, "a", {
        "b": "The window of 4 mm is the larger one: it holds the lesion many times.",
        "c": "Noise is averaged in coarse voxels, not added.",
    })  # fmt: skip
    return "A lesion of 1 mL is two voxels there: no network can draw its outline."


# ---- 8: tumour burden


@exercise(
    "8.fpv",
    "Which pieces touch no lesion at all?",
    "Sum the volumes of the pieces with no voxel in a lesion.",
)
def fpv(answer: Any) -> str:
    answer = round(number(answer), 1)
    expect(answer != 2, "Volume, not number.")
    expect(answer != 1653.5, "That is all that was found.")
    expect(answer != 1633.5, "One voxel in a lesion is enough for a piece not to count.")
    expect(answer == 1630.0)
    return "1630 mL; DSC alone would not tell a brain from a blurred edge."


@exercise("8.percent", "Difference over the mean of both, in percent.", "(30 - 10) / 20.")
def percent(answer: Any) -> str:
    expect(not close(number(answer), 200), "Over the mean of both, not over the truth.")
    expect(not close(answer, 1), "In percent.")
    expect(close(answer, 100))
    return "+100 % of the mean is three times as large."


@exercise("8.hand", "Click brain, bladder, heart, kidneys: whatever is hot and healthy.")
def healthy_organs(answer: Any, pet: Volume, truth: np.ndarray) -> str:
    places = [click.ijk for click in answer.clicks if click.foreground]
    expect(bool(places), "There is no click in the widget yet.")
    hot = hot_mask(pet, 4.0)
    left = without_physiology(pet, hot, physiology_from_clicks(pet, places))
    share, lost = (left & ~truth).sum() / (hot & ~truth).sum(), 1 - (left & truth).sum() / (hot & truth).sum()
    expect(lost < 0.3, f"Your clicks take {lost:.0%} of the tumour that was found with them: take something back.")
    expect(share < 0.6, f"{share:.0%} of the false alarms are left; click on.")
    return f"{share:.0%} of the false alarms are left, at a loss of {lost:.0%} of the tumour that was found."


@exercise("8.threshold", "Drag the threshold from 4 to 2.5, with hot organs removed; read the line below.")
def lower_threshold(answer: Any) -> str:
    letter(answer, "c", {
        "a": "Read on: volume that is no lesion comes, too.",
        "b": "Some faint lesions appear that were not touched before.",
    })  # fmt: skip
    return "More lesions are found, and more healthy tissue with them: a trade, not a gain."


# ---- 9: inside the network


@exercise("9.tokens", "How many patches fit along a side?", "(96 / 16) cubed.")
def tokens(answer: Any) -> str:
    expect(number(answer) != 6, "That is along one side.")
    expect(answer != 36, "The window is a cube.")
    expect(answer == 216)
    return "216 tokens, 46,656 pairs"


@exercise("9.pads", "Tokens cubed, over window cubed.", "1 - (8 / 14)^3.")
def pads(answer: Any) -> str:
    right = 1 - (8 / 14) ** 3
    expect(not close(number(answer), 1 - right, 0.01), "That is the part that is no pad.")
    expect(not close(answer, 100 * right, 0.01), "As a fraction, not in percent.")
    expect(close(answer, right, 0.01))
    return f"{answer:.0%} of what is attended to is empty."


@exercise("9.released", "Move the query along w, and watch the right picture.")
def released(answer: Any) -> str:
    letter(answer, "c", {
        "a": "Move d: the right picture changes.",
        "b": "Move h: the right picture changes.",
        "d": "One of the three makes no difference; move them one by one.",
    })  # fmt: skip
    return "In the released form the query's place along w does not count."


@exercise("9.hand", "Click the organ, then click something else, and compare the two outlines.")
def two_objects(answer: Any) -> str:
    expect(len(answer.objects) >= 2, "Two objects are asked for: Add object.")
    one, other = (answer.mask_of(name) for name in answer.objects[:2])
    expect(one.any() and other.any(), "One of them is empty.")
    expect(dice(one, other) < 0.5, "Both are the same thing; click something else.")
    return "Two objects: the first click on each looked for its own window, and further ones reuse it."


def _is_a_lesion(mask: np.ndarray, instances: np.ndarray) -> bool:
    touched = np.unique(instances[mask & (instances > 0)])
    return any(dice(mask, instances == number) >= 0.3 for number in touched)
