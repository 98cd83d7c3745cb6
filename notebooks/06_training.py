# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Training: train by three strategies, and compare without being fooled
#
# Fine-tuning believes every label. Consistency also asks that clicks at different places bring the same answer. CPCL
# (lesson 5) rectifies doubtful labels. Here you train all three for a minute, use what you trained with your own
# clicks, and then ask the question that a table hides: which of the changes made the difference?
#
# **You will be able to**
#
# - train, read a log, go on after an interruption, and use what you trained;
# - say how large each term of a loss really is;
# - tell a gain from chance, with an [interval](glossary.md#bootstrap-interval);
# - find a confounder, and the arm of a study that isolates it.
#
# **Before you start:** lesson 5, and what a gradient step is.
#
# **Time:** about 3 minutes to run on two cores of a laptop, half an hour to read; with `full=True` it trains as the
# ablation in `benchmarks` does, half an hour more; 2 GB of memory. No GPU, no internet. Words are explained in
# the [glossary](glossary.md).
#
# *Lesson 6 of 9; previous: [5 Doubtful labels and CPCL](05_training_doubtful_labels.ipynb); next: [7 One click, many
# lesions](07_tumor_zero_shot.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display

import seganypet as sap
from seganypet.lessons.hands import stand_in
from seganypet.lessons.pictures_training import loss_shares, repeated_studies
from seganypet.organs import SEEN_ORGANS
from seganypet.pet.plots import COLOURS
from seganypet.study.plots import MARKERS
from seganypet.training.objective import Objective

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
steps: int = 24  # optimiser steps of each of the three short trainings
hq: int = 2  # phantoms with true labels
lq: int = 3  # phantoms with the labels of someone who errs
lq_dsc: float = 0.75  # mean DSC of those labels to the truth, 0.6 to 0.93
prompts: int = 3  # K, clicks on one target whose answers are compared
seed: int = 0  # of every draw
recorded_clicks: str = "recorded_clicks.json"  # a hand that stands in where nobody clicks
ablation_file: str = "../benchmarks/ablation_summary.csv"  # what `make ablation` writes
full: bool = False  # train as the ablation does: longer, on 8 HQ and 200 LQ phantoms
output_dir: str = "../out"  # everything is written here; a new name if you change what is above

# %%
sap.check_parameters(globals())
assert hq >= 1 and lq >= 1 and prompts >= 2, "Expected hq and lq of at least 1, prompts of at least 2."
output = Path(output_dir)

# %% [markdown]
# ## Your hand first: clicks that three networks will get
#
# A scan that no training here sees. Click heart, spleen, liver, left kidney (**Add object** for each, with the names
# `heart`, `spleen`, `liver`, `kidney_left`), with at most three clicks each. The network is `tiny-base`, *before*
# training. Your clicks are kept: later each trained network gets the very same ones. **Predict:** will they do better
# with them?

# %%
volume = sap.load_volume("../data_samples/phantom_internal_9000/SUV.nii.gz", unit="SUVbw")
sample = sap.Cohort.from_csv("../data_samples/cohort.csv")["phantom_internal_9000"]
truths = dict(sample.targets(volume, SEEN_ORGANS))
network = sap.load_model("tiny-base")
by_hand = sap.Session(network, volume)
by_hand.select("heart")
sap.ClickWidget(by_hand, truth=truths, goal=0.8, output_dir=output / "by_hand")

# %%
print(stand_in(by_hand, recorded_clicks, "6"))
_ = sap.show_mip(volume, by_hand.masks)

# %% [markdown]
# ## Train
#
# A config is a frozen dataclass. We read the one that makes the embedded network `tiny`, and change what makes the
# training short. Weights start from `tiny-base`, which knows organs already; batches hold one trusted window and two
# doubtful ones, and nothing is rehearsed: this is about labels. For `full` we take the numbers of the ablation.

# %%
tiny = sap.TrainConfig.from_yaml("../seganypet/configs/tiny.yaml")
tiny = replace(
    tiny, lq_weight=None, seed=seed, validation=replace(tiny.validation, phantoms=0), rehearsed_per_batch=0,
    data=replace(tiny.data, rehearsed=0),
)  # fmt: skip
short = replace(
    tiny, epochs=1, steps_per_epoch=steps, batch_size=3, lq_per_batch=2, targets_per_window=2, prompts=prompts,
    readings=False, start_masks=0.0, deep=0.4, learning_rate=0.0005, warm_up=steps // 4, ema=0.9, precision="32-true",
    data=replace(tiny.data, hq=hq, lq=lq, lq_dsc=lq_dsc, windows_per_case=3),
)  # fmt: skip
as_ablation = replace(
    tiny, epochs=4, steps_per_epoch=100, batch_size=3, lq_per_batch=2, targets_per_window=1, prompts=2,
    learning_rate=0.001, warm_up=30, ema=0.98,
    data=replace(tiny.data, hq=8, lq=200, lq_dsc=0.62, lq_annotators=("missed_slices",)),
)  # fmt: skip
configs = {
    strategy: replace(as_ablation if full else short, name=strategy, strategy=strategy)
    for strategy in ("finetune", "consistency", "cpcl")
}

# %% [markdown]
# What do labels of doubtful scans weigh, and what consistency? The objective itself answers, at five moments. The last
# row is CPCL with the weight that fine-tuning gives.

# %%
moments = (0.0, 0.25, 0.5, 0.75, 1.0)
weighed = configs | {"cpcl, weight 1": replace(configs["cpcl"], lq_weight=1.0)}
weights = {
    name: {f"t = {t:g}": "{:.4f}, {:.4f}".format(*Objective(network, one).weights(t)) for t in moments}
    for name, one in weighed.items()
}
print("weight of doubtful labels, weight of consistency")
pd.DataFrame(weights).T

# %% [markdown]
# Now train. First the phantoms are drawn and kept on disk, two or three seconds for each; all strategies share them. A
# window is cut anew, turned and stretched a little, whenever it is learned from. Everything that is written lies in
# the folder `training` of the output folder.

# %%
runs = output / ("training_full" if full else "training")
trained = {}
for strategy, run_config in configs.items():
    trained[strategy] = sap.train(run_config, runs, processes=1)


# %% [markdown]
# A trained network remembers how it was made.

# %%
metadata = trained["cpcl"].metadata
print(f"cpcl: {metadata['step']} steps; mean DSC of the doubtful labels to the truth: {metadata['lq_dsc']:.2f}")
print("files:", ", ".join(sorted(path.name for path in runs.iterdir() if path.is_file())))

# %% [markdown]
# ## Read the log
#
# Every ten steps, and at the last, a row of numbers goes to `<name>.csv`.

# %%
logs = {strategy: pd.read_csv(runs / f"{strategy}.csv") for strategy in configs}
columns = ["step", "loss_first_click", "loss_last_click", "loss_lq", "consistency", "lambda", "changed_fraction"]
logs["cpcl"][columns].round(4)

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
quantities = {
    "loss_first_click": "loss after the first click",
    "loss_last_click": "loss after the last click",
    "lambda": r"weight of consistency, $\lambda$",
    "changed_fraction": "share of voxels rectified",
}
for ax, (column, title) in zip(axes, quantities.items(), strict=True):
    for (strategy, log), colour, marker, size in zip(logs.items(), COLOURS, MARKERS, (10, 7, 4), strict=False):
        ax.plot(log["step"], log[column], marker + "-", color=colour, markersize=size, label=strategy)
    ax.set(title=title, xlabel="step", ylim=(0, 1.1 * ax.get_ylim()[1]))
    ax.grid(alpha=0.3)
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
_ = figure.suptitle("The logs of three short trainings")

# %% [markdown]
# What to notice: losses are of trusted windows, and each point is *one* batch, so they jump; look for trends over
# many. All three saw the same batches, so their curves jump together. Fine-tuning and consistency lie on one another
# to the third digit: $\lambda$ is at most 0.1 and the consistency term some thousandths, so it is less than a percent
# of the loss. $\lambda$ stays at 0 for fine-tuning. Only CPCL rectifies, so only it has a share of changed voxels.
#
# Be honest about this: a few dozen steps from weights that knew organs before show the *machinery*. They do not rank
# the strategies, and a loss on training windows never does.

# %% [markdown]
# ## What is in the loss?
#
# **Predict, then drag:** how large is consistency's share at the weight that the article publishes, at most 0.1? At
# which weight does it begin to steer?

# %%
loss_shares(logs["cpcl"])

# %% [markdown]
# Consistency is a small number times a small weight: less than a percent. A term like that can hardly teach anything
# in a short training, whatever its idea is worth. Doubtful labels, at weight 1, are as large as trusted ones; CPCL
# brings them down to a tenth at most.

# %% [markdown]
# ## Interrupted?
#
# A run that was stopped, by you or by a power cut, goes on from its checkpoint when the same call is made again, to
# the same weights that it would have reached without a break. A finished one returns at once:

# %%
started = time.perf_counter()
again = sap.train(configs["cpcl"], runs, processes=1, progress=False)
assert all(torch.equal(one, other) for one, other in zip(again.parameters(), trained["cpcl"].parameters(), strict=True))
print(f"the same weights after {time.perf_counter() - started:.1f} s")

# %% [markdown]
# It goes on with its own settings only. If you change a parameter above, the call stops and names what differs. That
# is this lesson's deliberate failure:

# %%
try:
    sap.train(replace(configs["cpcl"], learning_rate=0.01), runs, processes=1, progress=False)
except sap.SegAnyPETError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## Use it: your clicks, all networks

# %%
sessions, rows = {network.name: by_hand}, []
for name, model in trained.items():
    sessions[name] = sap.Session(model, volume)
clicks = {target: by_hand.clicks_of(target) for target in by_hand.objects if target in truths}
for name, session in sessions.items():
    again = sap.Session(network, volume) if session is by_hand else session
    for target, places in clicks.items():
        again.select(target)
        for number, click in enumerate(places, 1):
            mask = again.click(ijk=click.ijk, foreground=click.foreground)
            rows.append({"model": name, "target": target, "click": number, "DSC": sap.dice(mask, truths[target])})
    print(f"{name} has the clicks")
scores = pd.DataFrame(rows)
by_click = scores.pivot_table(index="click", columns="model", values="DSC", sort=False)
by_click.round(3)

# %%
change = (by_click["cpcl"] - by_click[network.name]).items()
print("cpcl less not trained further:", ", ".join(f"{gain:+.3f} after click {click}" for click, gain in change))
figure, axes = plt.subplots(1, 3, figsize=(11, 6.6), layout="constrained")
pictures = {"truth": {target: truths[target] for target in clicks}}
pictures |= {name: {target: sessions[name].mask_of(target) for target in clicks} for name in (network.name, "cpcl")}
for ax, (name, masks) in zip(axes, pictures.items(), strict=True):
    sap.show_mip(volume, masks, ax=ax)
    mean = np.mean([sap.dice(mask, truths[target]) for target, mask in masks.items()])
    ax.set_title(name if name == "truth" else f"{name}, mean DSC {mean:.2f}")
_ = figure.suptitle("the same clicks: not trained further, and trained for a minute")

# %% [markdown]
# Whether a minute of training helps depends on the click. Where it gains after the *first*, it learned what a click on
# these organs means: the whole organ, not a spot. Where it loses after the *third*, it unlearned some of how to follow
# corrections: `tiny-base` had practised them for hours on shapes of all kinds, and a few dozen steps on five organs
# with doubtful labels pull the weights away from that. That trade is real in long trainings, too: the article's unseen
# organs are where SegAnyPET falls behind its parent. Which of it do *your* rows show? One scan and a handful of
# clicks prove nothing, so the next section has more of both.

# %% [markdown]
# Now with the mouse: the session of the network that CPCL trained, with your clicks in it. Correct what they left
# wrong.

# %%
sap.ClickWidget(sessions["cpcl"], truth=truths, goal=0.85, output_dir=output / "by_hand_cpcl")

# %% [markdown]
# ## What was published, and what we measured
#
# *Published*, Table 4 of the supplement: mean DSC in percent, over the five organs that were trained on and the seven
# that were not.

# %%
arms = {"Fine-Tuning": "finetune", "Consistency": "consistency", "CPCL": "cpcl"}
published = sap.published(table=4)
published = published.assign(
    arm=published["strategy"].map(arms),
    targets=published["seen"].map({True: "seen", False: "unseen"}),
    percent=100 * published["dsc"],
)
by_arm = published.pivot_table(index="arm", columns=["targets", "click"], values="percent", sort=False)
by_arm.round(2)

# %% [markdown]
# *Measured*: `python -m benchmarks.ablation strategies` trains `tiny-base` by each strategy, with three seeds, 8
# trusted and 200 doubtful phantoms, and evaluates on phantoms that no run has seen, in the scanner they trained on
# ([internal](glossary.md#internal-and-external-test)) and another one (external). The file is that of the last run;
# `benchmarks/ablation.md` says of which edition of the network. Here "unseen" is weaker than in the article:
# `tiny-base` met those organs as targets before.

# %%
summary = pd.read_csv(ablation_file) if Path(ablation_file).exists() else None
if summary is None:
    print(f"{ablation_file} is not here: `make ablation` makes it, in some hours.")
else:
    percent = summary.assign(dsc=100 * summary["dsc"])
    by_arm = percent.pivot_table(index=["domain", "arm"], columns=["targets", "click"], values="dsc", sort=False)
    display(by_arm.round(1))

# %% [markdown]
# Do not compare columns across the two tables: organs, scans, network and length of training differ. Compare the
# *orders*. The article says: consistency above fine-tuning, CPCL above both. Does that hold here? A difference from
# fine-tuning counts if its 95 % [interval](glossary.md#bootstrap-interval), over patients and training seeds together,
# excludes 0.

# %%
if summary is not None:
    holds = summary[summary["arm"].isin(["consistency", "cpcl"])].copy()
    verdicts = [holds["minus_low"] > 0, holds["minus_high"] < 0]
    holds["order"] = np.select(verdicts, ["as published", "the reverse"], "undecided")
    low, high = (100 * holds[column].round(4) for column in ("minus_low", "minus_high"))
    holds["minus finetune"] = [f"{mean:+.1f} ({a:+.1f}, {b:+.1f})" for mean, a, b in
                               zip(100 * holds["minus_finetune"], low, high, strict=True)]  # fmt: skip
    display(holds[["domain", "targets", "click", "arm", "minus finetune", "order"]].head(6))
    display(holds.groupby("arm")["order"].value_counts().to_frame())

# %% [markdown]
# And of CPCL over consistency we have means only:

# %%
if summary is not None:
    means = summary.pivot_table(index=["domain", "targets", "click"], columns="arm", values="dsc")
    print(f"cpcl above consistency in {(means['cpcl'] > means['consistency']).sum()} of {len(means)} cells")

# %% [markdown]
# ### How many patients does a gain need?
#
# **Predict, then drag:** a strategy truly gains 2 points of DSC, and patients differ by 6. Of 40 studies with 5
# patients each, how many see it? How many patients make nearly all of them see it? And with a true gain of 0, how many
# see one?

# %%
repeated_studies()

# %% [markdown]
# ## The confounder
#
# Read the weights printed above again. As published, doubtful labels weigh $\lambda \leq 0.1$ in CPCL, and (as we take
# it) 1 in fine-tuning. So going from one to the other changes *two* things: labels are rectified, and bad labels
# count less. If CPCL gains, which of the two was it? Arms that change one thing at a time can tell:
#
# - `hq only`: doubtful labels weigh 0. If this gains as much as `cpcl`, the weight explains it.
# - `cpcl, weight 1`: rectified labels with fine-tuning's weight. What it gains over `finetune` is not the weight.
# - `cpcl, weight 1, ignore`: doubted voxels leave the loss instead. (`flip` diverges; `benchmarks/ablation.md` tells.)
# - `clean`: all labels true. The ceiling on seen organs: no treatment of bad labels can be expected to beat good ones.
# - `finetune + supervoxels`: some targets are pieces of the image instead of organs.
# - `tiny-base`: not trained further at all. An arm to the left of this line has *unlearned* something.

# %%
if summary is not None:
    domains, arms = summary["domain"].unique(), summary["arm"].unique()
    figure, axes = plt.subplots(
        len(domains), 2, figsize=(11, 4.6 * len(domains)), sharex="col", layout="constrained", squeeze=False
    )
    for ax, (domain, targets) in zip(axes.flat, product(domains, ("seen", "unseen")), strict=True):
        cell = summary.query("domain == @domain and targets == @targets")
        for (click, one), colour, marker in zip(cell.groupby("click"), COLOURS, MARKERS, strict=False):
            one = one.set_index("arm").loc[arms]
            place = np.arange(len(arms)) + 0.12 * (click - 3)
            errors = 100 * np.stack([one["dsc"] - one["dsc_low"], one["dsc_high"] - one["dsc"]])
            ax.errorbar(100 * one["dsc"], place, xerr=errors, fmt=marker, color=colour, label=f"after click {click}")
            ax.axvline(100 * one.loc["finetune", "dsc"], color=colour, linewidth=0.8, linestyle=":")
            ax.axvline(100 * one.loc["tiny-base", "dsc"], color=colour, linewidth=0.8, linestyle="-.")
        ax.set(title=f"{domain}, {targets} organs", xlabel="DSC, %", yticks=range(len(arms)), yticklabels=arms)
        ax.invert_yaxis()
        ax.label_outer()
        ax.grid(alpha=0.3, axis="x")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("Each arm with its 95 % interval; dotted: fine-tuning; dash-dotted: not trained further")

# %% [markdown]
# So which of the two was it? The gain over fine-tuning of each arm, averaged over all cells:

# %%
if summary is not None:
    gains = 100 * summary.groupby("arm", sort=False)["minus_finetune"].mean()
    asked = [arm for arm in ("hq only", "cpcl", "cpcl, weight 1", "clean") if arm in gains]
    display(gains[asked].round(1).to_frame())
    by_weight, by_labels = gains["hq only"], gains["cpcl, weight 1"]
    print("What leaving doubtful labels out gains is", "more" if by_weight > by_labels else "less",
          "than what rectifying them at full weight gains.")  # fmt: skip


# %% [markdown]
# `hq only` throws doubtful labels away. If it gains as much as `cpcl`, then CPCL's gain here is that bad labels count
# less, not that they became good. `benchmarks/ablation.md` says how large an effect this setting could have shown.

# %% [markdown]
# When you read the figure: intervals are wide, since patients and seeds are few. That two of them overlap does not say
# that two arms are equal; arms share patients and seeds, so the interval of the *difference*, above, is the sharper
# one. And an arm that we name after a method is our reconstruction of it, on phantoms: it can neither confirm nor
# refute the article.

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. Verdicts.** Write `verdict(low, high)` for the interval of a difference: `"gain"`, `"loss"` or `"undecided"`.

# %% tags=["solution"]
def verdict(low: float, high: float) -> str:
    """What an interval of a difference decides."""
    return "gain" if low > 0 else "loss" if high < 0 else "undecided"


# %%
sap.check("6.interval", verdict)

# %% [markdown]
# **2. A share.** Trusted labels: loss 0.5 at weight 1; doubtful labels: 0.6 at weight 0.1; consistency: 0.004 at
# weight 0.1. Which fraction of the loss is consistency?

# %% tags=["solution"]
my_share = 0.1 * 0.004 / (0.5 + 0.1 * 0.6 + 0.1 * 0.004)

# %%
sap.check("6.share", my_share)

# %% [markdown]
# **3. The confounder.** Which arm shows what the *weight* of doubtful labels alone does?
#
# - a: `cpcl`, against `finetune`
# - b: `cpcl, weight 1`, against `finetune`
# - c: `hq only`, against `finetune`
# - d: `clean`, against `finetune`

# %% tags=["solution"]
my_arm = "c"

# %%
sap.check("6.confounder", my_arm)

# %% [markdown]
# **4. Change and explain.** In the slider of studies: by which factor must the number of patients grow to halve an
# interval? And why? Answer with both, such as `(3, "a")`.
#
# - a: Patients become more alike.
# - b: The spread of a mean falls with the square root of their number.
# - c: More seeds of training are averaged.

# %% tags=["solution"]
my_factor = (4, "b")

# %%
sap.check("6.patients", my_factor)

# %% [markdown]
# **5. By hand: a fifth organ.** In the last widget, **Add object** `kidney_right` and bring it to a DSC of 0.6 or
# more.

# %% tags=["solution"]
cpcl, kidney = sessions["cpcl"], truths["kidney_right"]
cpcl.select("kidney_right")
drawn = cpcl.click(ijk=sap.first_click(kidney, spacing=volume.spacing).ijk)
for _ in range(8):
    if sap.dice(drawn, kidney) < 0.65:
        click = sap.next_click(kidney, drawn, spacing=volume.spacing)
        drawn = cpcl.click(ijk=click.ijk, foreground=click.foreground)

# %%
sap.check("6.hand", sessions["cpcl"], truth=truths["kidney_right"], name="kidney_right")

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** The loss on training windows is lower for CPCL than for fine-tuning. Is CPCL better?
#
# <details><summary>Answer</summary>
#
# The losses are not the same quantity: one is taken on given labels, the other on rectified ones. And a loss on what
# was trained on ranks nothing.
#
# </details>
#
# **2.** Two intervals overlap. Are both arms equal?
#
# <details><summary>Answer</summary>
#
# Not shown. Arms share patients and seeds; the interval of their *difference* is narrower and is the one to read.
#
# </details>
#
# **3.** CPCL beats fine-tuning. Name two things that changed between them.
#
# <details><summary>Answer</summary>
#
# Doubtful labels are rectified, and they weigh at most 0.1 instead of 1. Only an arm that changes one of them tells
# which it was.
#
# </details>

# %% [markdown]
# ## What you take home
#
# - Watch each term's share of the loss before you credit an idea.
# - Change one thing at a time, and ask for the interval of the difference.
# - A short training can gain at one click and lose at another.
#
# ## Who says what
#
# - **Published:** Table 4; $\lambda(t)$.
# - **Reconstructed here:** how the parts are put together; that doubtful labels weigh 1 in the first two strategies.
# - **Measured here:** every number that a cell printed, and the ablation. An arm that we name after a method is our
#   reconstruction of it, on phantoms: it can neither confirm nor refute the article.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, and its supplement (B.2: training; Table 4: strategies).
# - Wang et al., *SAM-Med3D*, arXiv:2310.15161. Training by simulated clicks.
# - `benchmarks/ablation.md`. The study.
#
# *Lesson 6 of 9; previous: [5 Doubtful labels and CPCL](05_training_doubtful_labels.ipynb); next: [7 One click, many
# lesions](07_tumor_zero_shot.ipynb)*
#
# *Not for clinical use.*
