"""Sliders on labels, losses and comparisons. Each function returns an `Explorer`."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from seganypet.lessons.explorer import Explorer
from seganypet.losses import mean_probability, ramp_up, rectify, uncertainty, uncertainty_threshold
from seganypet.metrics import dice
from seganypet.pet.views import COLOURS

if TYPE_CHECKING:
    import pandas as pd

# Of one window, (K, 1, 1, m, m, m) logits of K clicks, and label and truth on their grid, (1, 1, m, m, m).
Answers = tuple[Tensor, Tensor, Tensor]


def vote(truth: np.ndarray, spacing: Sequence[float]) -> Explorer:
    """Many annotators who draw the right shape in a wrong place, and what the majority says.

    Args:
        truth: Mask of the organ, with room around it.
        spacing: Voxel size along its axes, in mm.
    """
    middle = int(np.median(np.nonzero(truth)[1]))
    plane = truth[:, [middle]]  # one coronal slice
    random = np.random.default_rng(0).normal(size=(200, 2))

    def draw(figure: Figure, annotators: int = 20, random_mm: float = 8.0, bias_mm: float = 0.0) -> str:
        shifts = random_mm * random[:annotators] + (0, -bias_mm)
        steps = np.rint(shifts / (spacing[0], spacing[2])).astype(int)
        labels = np.stack([np.roll(plane, step, (0, 2)) for step in steps])
        share = labels.mean(0)
        picture, curve = figure.subplots(1, 2)
        picture.imshow(share[:, 0].T, origin="lower", cmap="viridis", vmin=0, vmax=1, aspect=spacing[2] / spacing[0])
        picture.contour(plane[:, 0].T, [0.5], colors="white")
        picture.contour((share > 0.5)[:, 0].T, [0.5], colors=COLOURS[0])
        picture.set(title="share of labels; white: truth, orange: the vote", xticks=[], yticks=[])
        counts = np.arange(1, annotators + 1)
        votes = np.cumsum(labels, 0) / counts[:, None, None, None] > 0.5
        shared, drawn = (votes & plane).sum((1, 2, 3)), votes.sum((1, 2, 3))
        curve.plot(counts, 2 * shared / (drawn + plane.sum()), color=COLOURS[0])
        single = np.mean([dice(label, plane) for label in labels])
        curve.axhline(single, color="grey", linestyle="--", label="one label, on average")
        curve.set(xlabel="annotators", ylabel="DSC of the vote", ylim=(0, 1.02))
        curve.legend(loc="lower right")
        return f"one label {single:.2f}, the vote of {annotators} {dice(votes[-1], plane):.2f}"

    controls = {"annotators": (1, 100, 1), "random_mm": (0.0, 30.0, 1.0), "bias_mm": (0.0, 30.0, 1.0)}
    return Explorer(
        draw, controls, (9, 3.6), {"random_mm": "random error, mm", "bias_mm": "all towards the feet by, mm"}
    )


def rectify_live(ask: Callable[[str, str, int], Answers], networks: Sequence[str], organs: Sequence[str]) -> Explorer:
    """Who is better, the network or the label: organ, network, annotator, K and threshold.

    Args:
        ask: What a network answers to K clicks in a doubtful label: `ask(network, organ, annotator)`.
        networks: Names of the networks.
        organs: Names of the organs.
    """
    asked = lru_cache(maxsize=None)(ask)  # a fraction of a second for a new choice, then nothing

    def draw(figure: Figure, network: str = networks[0], organ: str = organs[0], annotator: int = 0, prompts: int = 3,
             doubted: float = 0.25, kind: str = "entropy") -> str:  # fmt: skip
        logits, given, true = asked(network, organ, annotator)
        logits = logits[:prompts]
        doubt = uncertainty(logits, kind)
        tau = uncertainty_threshold(doubt, "quantile", quantile=1 - doubted)
        grids = {"label": given, "network's mean": mean_probability(logits),
                 "rectified": rectify(given, logits, doubt, tau).label}  # fmt: skip
        known = true[0, 0].numpy() > 0.5
        scores = {name: dice(grid[0, 0].numpy() > 0.5, known) for name, grid in grids.items()}
        coronal = int(np.median(np.nonzero(known)[1])) if known.any() else known.shape[1] // 2
        *pictures, bars = figure.subplots(1, 4)
        for ax, (name, grid) in zip(pictures, grids.items(), strict=True):
            ax.imshow(grid[0, 0, :, coronal].flip(0).T.numpy(), origin="lower", cmap="gray_r", vmin=0, vmax=1)
            ax.contour(known[::-1, coronal].T, [0.5], colors=COLOURS[1])
            ax.set(title=f"{name}, DSC {scores[name]:.2f}", xticks=[], yticks=[])
        pictures[1].contour(
            (doubt > tau)[0, 0, :, coronal].flip(0).T.float().numpy(), [0.5], colors=COLOURS[0], linewidths=0.8
        )
        bars.bar(["label", "network", "rectified"], list(scores.values()), color=["grey", COLOURS[1], COLOURS[0]])
        bars.set(ylim=(0, 1), ylabel="DSC to the truth")
        gain = scores["rectified"] - scores["label"]
        return f"rectifying {'helps' if gain > 0.002 else 'harms' if gain < -0.002 else 'changes nothing'}: {gain:+.3f}"

    controls = {"network": list(networks), "organ": list(organs), "annotator": (0, 4, 1), "prompts": (1, 5, 1),
                "doubted": (0.01, 0.6, 0.01), "kind": ["entropy", "variance", "logit_variance"]}  # fmt: skip
    words = {"prompts": "K prompts", "doubted": "share of voxels doubted", "kind": "uncertainty"}
    return Explorer(draw, controls, (11.5, 3.2), words)


def ramp() -> Explorer:
    """The weight of what rests on the network's own opinion, over a training."""
    times = np.linspace(0, 1, 101)

    def draw(figure: Figure, t: float = 0.5, beta: float = 5.0, exponent: int = 1, w_max: float = 0.1) -> str:
        ax = figure.subplots()
        now = ramp_up(t, 1.0, w_max=w_max, beta=beta, exponent=exponent)
        ax.plot(
            times, [ramp_up(one, 1.0, w_max=w_max, beta=beta, exponent=exponent) for one in times], color=COLOURS[1]
        )
        ax.plot(t, now, "o", color=COLOURS[0], markersize=9)
        ax.set(xlabel="$t / t_{max}$", ylabel=r"$\lambda$", ylim=(0, 1.05 * w_max))
        return f"at {t:.0%} of the training the weight is {now:.4f}, {now / w_max:.0%} of its maximum"

    controls = {"t": (0.0, 1.0, 0.01), "beta": (0.0, 10.0, 0.5), "exponent": [1, 2], "w_max": (0.05, 1.0, 0.05)}
    return Explorer(draw, controls, (6.5, 3.2), {"t": "t / t_max"}, {"left": 0.12})


def loss_shares(log: "pd.DataFrame") -> Explorer:
    """How much of a loss each of its terms is, by their weights.

    Args:
        log: Log of a training by CPCL, as `sap.train` writes it.
    """
    last = log.iloc[-1]
    trusted, doubtful, consistency = (
        float(one)
        for one in ((last["loss_first_click"] + last["loss_last_click"]) / 2, last["loss_lq"], last["consistency"])
    )

    def draw(figure: Figure, doubtful_weight: float = 0.1, consistency_weight: float = 0.1) -> str:
        terms = {"trusted labels": trusted, "doubtful labels": doubtful_weight * doubtful,
                 "consistency": consistency_weight * consistency}  # fmt: skip
        ax, left, total = figure.subplots(), 0.0, sum(terms.values())
        for (name, term), colour in zip(terms.items(), COLOURS[1:], strict=False):
            ax.barh(0, 100 * term / total, left=left, color=colour, label=f"{name} {term / total:.1%}")
            left += 100 * term / total
        ax.set(xlabel="share of the loss, %", xlim=(0, 100), yticks=[], ylim=(-0.5, 1.4))
        ax.legend(ncols=3, loc="upper center", fontsize=9)
        return f"{consistency_weight:g} x {consistency:.2e} = {terms['consistency']:.2e} is consistency's part"

    controls = {"doubtful_weight": (0.0, 1.0, 0.01), "consistency_weight": (0.0, 20.0, 0.1)}
    words = {"doubtful_weight": "weight of doubtful labels", "consistency_weight": "weight of consistency"}
    return Explorer(draw, controls, (8, 2.2), words, {"bottom": 0.28})


def repeated_studies() -> Explorer:
    """The same comparison made again and again, on other patients: how often is an interval clear?"""
    normal = np.random.default_rng(0).normal(size=(40, 200))

    def draw(figure: Figure, patients: int = 5, gain_percent: float = 2.0, spread_percent: float = 6.0) -> str:
        differences = gain_percent + spread_percent * normal[:, :patients]
        means = differences.mean(1)
        reach = stats.t.ppf(0.975, patients - 1) * differences.std(1, ddof=1) / np.sqrt(patients)
        clear, wrong = means - reach > 0, means + reach < 0
        ax = figure.subplots()
        for study, (mean, length) in enumerate(zip(means, reach, strict=True)):
            colour = COLOURS[2] if clear[study] else COLOURS[0] if wrong[study] else "grey"
            ax.errorbar(study, mean, length, fmt="o", color=colour, markersize=3)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.axhline(gain_percent, color=COLOURS[1], linestyle="--", label="true gain")
        ax.set(xlabel="study", ylabel="gain in DSC, points, 95 %", ylim=(-15, 15))
        ax.legend(loc="upper right")
        blind = 40 - clear.sum() - wrong.sum()
        return f"{clear.sum()} of 40 studies see a gain, {wrong.sum()} see a loss, {blind} see neither"

    controls = {"patients": (2, 200, 1), "gain_percent": (-5.0, 10.0, 0.5), "spread_percent": (0.5, 15.0, 0.5)}
    words = {"gain_percent": "true gain, points of DSC", "spread_percent": "spread between patients, points"}
    return Explorer(draw, controls, (9, 3.2), words)
