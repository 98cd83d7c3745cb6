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
# # Training: doubtful labels, and what CPCL does about them
#
# An expert draws the organs of a PET scan well, and slowly. A program and a tired assistant are quick, and err. So a
# hospital may have a few scans with labels to trust, and thousands with labels to doubt ([HQ and
# LQ](glossary.md#hq-and-lq)). Cross prompting confident learning ([CPCL](glossary.md#cpcl)) lets the network itself
# contradict a label. When is that wise?
#
# **You will be able to**
#
# - say why errors that everybody makes in the same way cost more than errors made at random;
# - go from K prompts to uncertainty, threshold and rectified label, each formula with the picture that belongs to it;
# - say when rectifying helps and when it harms, before you train: who is better, the network or the label?
# - say what the weight over the training does, and what the released code computes.
#
# **Before you start:** lessons 0 and 3, and what a loss and a probability are.
#
# **Time:** about 1 minute to run on two cores of a laptop, 40 minutes to read and try; 2 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 5 of 9; previous: [4 Clicks in 2D and 3D](04_2d_vs_3d_prompting.ipynb); next: [6 Train and
# compare](06_training.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import math
import warnings
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import display
from scipy import ndimage

import seganypet as sap
from seganypet.lessons.pictures_training import ramp, rectify_live, vote
from seganypet.losses import consistency, mean_probability, rectify, uncertainty, uncertainty_threshold
from seganypet.model.sam3d import Sam3D
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.plots import COLOURS
from seganypet.phantom.annotators import annotate
from seganypet.prompting.window import sample_window, window_around
from seganypet.regions import bounding_box
from seganypet.study.plots import MARKERS
from seganypet.training.clicks import pick_clicks
from seganypet.training.objective import repeat

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
lq_dsc: float = 0.75  # mean DSC of doubtful labels to the truth, 0.6 to 0.93
prompts: int = 3  # K, clicks on one target whose answers are compared
phantom: int = 9000  # seed of the phantom that is looked at; 10000 and above were trained on
organ: str = "liver"  # the organ in it; one of the five that are learned
seed: int = 0  # of every other draw
output_dir: str = "../out"  # what the widget saves goes here

# %%
sap.check_parameters(globals())
assert organ in SEEN_ORGANS, f"organ={organ!r}: take one of {', '.join(SEEN_ORGANS)}."
assert 2 <= prompts <= 5, f"prompts={prompts}: 2 to 5."
organ_id = ORGANS.index(organ) + 1

# %% [markdown]
# ## Load, and look

# %% [markdown]
# A phantom, so that the truth is known, and a doubtful label: somebody's who errs, chosen so that the mean DSC over
# five organs is `lq_dsc`.

# %%
case = sap.make_phantom(phantom, "internal")
truth = case.organs == organ_id
doubted = sap.low_quality_labels(case, lq_dsc, seed=seed, organs=SEEN_ORGANS)
doubtful = doubted.labels == organ_id
deepest = sap.first_click(truth, spacing=case.pet.spacing)
_ = sap.show_slices(case.pet, {"label": doubtful, "truth": truth}, at_ijk=deepest.ijk)
print(f"DSC of the label {sap.dice(doubtful, truth):.2f}; mean of five {doubted.mean_dsc:.2f}, asked for {lq_dsc:g}")

# %% [markdown]
# ## Your hand first: be the better annotator
#
# Draw the same organ, from nothing: click, correct, use the eraser. The goal is to beat the doubtful label. You have
# what its annotator lacked: a score.

# %%
network = sap.load_model("tiny-base")
config = network.config
drawing = sap.Session(network, case.pet)
drawing.select(organ)
goal = round(sap.dice(doubtful, truth), 2)
sap.ClickWidget(drawing, truth={organ: truth}, goal=goal, output_dir=f"{output_dir}/by_hand")

# %% [markdown]
# ## What doubtful labels look like
#
# *Published*: the article's training set has some 40 scans that senior experts checked, and 5,631 whose labels come
# from a model and a junior annotator. We cannot see those. So `seganypet.phantom.annotators` *imitates* how people and
# programs err; kinds of errors are partly published, sizes are our inference. Five of them, at the same severity:

# %%
box = tuple(slice(max(part.start - 10, 0), part.stop + 10) for part in bounding_box(truth))
affine = case.pet.affine.copy()
affine[:3, 3] = case.pet.to_mm([part.start for part in box])
around = sap.Volume(case.pet.data[box], affine, case.pet.unit)
names = ("boundary", "threshold41", "missed_slices", "z_shift", "leak")
drawn = {name: annotate(case, organ, name, 2.0, np.random.default_rng(seed))[box] for name in names}

# %%
middle = sap.first_click(truth[box], spacing=around.spacing).ijk
figure, axes = plt.subplots(3, len(drawn), figsize=(13, 9), layout="constrained")
for column, (name, label) in zip(axes.T, drawn.items(), strict=True):
    sap.show_slices(around, {"label": label, "truth": truth[box]}, at_ijk=middle, axes=column)
    column[0].set_title(f"{name}\nDSC {sap.dice(label, truth[box]):.2f}")
    column[0].get_legend().remove()
    for ax in column[1:]:
        ax.set_title("")
_ = figure.suptitle(f"{organ}: label (orange) and truth (blue) in axial, coronal and sagittal slices")

# %% [markdown]
# - `boundary` draws too large, along a contour that wanders, as PET's [blur](glossary.md#partial-volume-effect) tempts
#   one to.
# - `threshold41` follows 41 % of the organ's maximum, near the surface.
# - `missed_slices` stops early at both ends and forgets slices between.
# - `z_shift` copies from a CT taken in another breath: nearly always too far to the feet.
# - `leak` runs over into a neighbour that is as hot. Where none touches, it changes nothing.
#
# `low_quality_labels` lets them loose on every organ, one or two after another, until a chosen mean
# [DSC](glossary.md#dsc) is reached.

# %% [markdown]
# ## Random errors average out
#
# Many people draw the organ with the right shape in a wrong place. A network that minimises cross-entropy over all of
# them learns, at best, what the majority says at each voxel. So take the vote. **Predict, then drag:** first let them
# err at random (no bias) and add annotators; then let all be off towards the feet. What do a hundred annotators help
# against which error?

# %%
vote(truth[box], around.spacing)


# %% [markdown]
# Random errors average out, though not quite to the truth: where they are as large as the organ is thick, the vote
# keeps its core and loses its rim, however many vote. Systematic errors are what everybody agrees on, and ten thousand
# scans more would only confirm them. Something else has to contradict such a label. CPCL's idea is that the network
# itself may, where it is in doubt.

# %% [markdown]
# ## The loss
#
# Trusted and doubtful scans meet in each batch:
#
# $$L = L_\text{trusted} + w \, L_\text{doubtful} + \lambda(t) \, L_\text{consistency}$$
#
# $L_\text{trusted}$ and $L_\text{doubtful}$ are **DiceCE**, *from the release*: with the probability $p$ and the
# label $y$ of each voxel,
#
# $$1 - \frac{2 \sum p \, y}{\sum p^2 + \sum y^2} \;-\; \text{mean}\,(y \ln p + (1 - y) \ln (1 - p))$$
#
# The Dice part asks for overlap, however small the organ. Cross-entropy gives every voxel a say. Both are taken after
# the first click and after the last of a simulated dialogue.
#
# | strategy | labels of doubtful scans | $w$ | consistency |
# |---|---|---|---|
# | fine-tuning | as given | 1 | no |
# | consistency | as given | 1 | $\lambda(t)$ |
# | CPCL | rectified where the network is in doubt | $\lambda(t)$ | $\lambda(t)$ |
#
# *Published* are the three names, the idea of each and $\lambda(t)$. How the parts are put together is *reconstructed
# here*: the formulas of uncertainty, threshold, rectification and consistency stand in nothing that we could read.
# That $w$ is 1 in the first two rows is our reading, too. We come back to that.
#
# ## K prompts, K answers
#
# Now with real numbers. A window of the phantom, the doubtful label in it, and K clicks somewhere in that label: the
# user of training believes the label, so a click may lie outside the true organ.

# %%
def cut_window(labels: np.ndarray, organ_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uptake, doubtful label and truth of an organ in the window around it, (1, 1, n, n, n) each."""
    middle_mm = case.pet.to_mm(np.argwhere(labels == organ_id).mean(0))
    window = window_around(case.pet, middle_mm, config.window_size, config.spacing_mm)
    to_scan = np.linalg.inv(case.pet.affine) @ window.affine  # from voxels of the window to voxels of the scan
    nearest = {"matrix": to_scan, "output_shape": [config.window_size] * 3, "order": 0}
    label, true = (
        torch.from_numpy(ndimage.affine_transform((one == organ_id).astype(np.float32), **nearest))[None, None]
        for one in (labels, case.organs)
    )
    return sample_window(case.pet, window), label, true


def on_logits_grid(grid: torch.Tensor) -> torch.Tensor:
    """Means over the voxels of the coarser grid that the network's logits lie on."""
    return F.avg_pool3d(grid, config.window_size // config.logits_size)


suv, fine_label, fine_truth = cut_window(doubted.labels, organ_id)
pet, given, true = on_logits_grid(suv), on_logits_grid(fine_label), on_logits_grid(fine_truth)
print(f"label and truth on the grid of the logits: {tuple(given.shape)}, from 0 (empty) to 1 (full of {organ})")


# %%
def ask(network: Sam3D, suv: torch.Tensor, label: torch.Tensor, prompts: int) -> torch.Tensor:
    """What a network answers to K clicks in a label, each on its own: logits (K, 1, 1, m, m, m)."""
    torch.manual_seed(seed)
    inside = (on_logits_grid(label) >= 0.5).float()
    clicks = [pick_clicks(inside, label, deep=0.7) for _ in range(prompts)]
    points, signs = (torch.cat(part) for part in zip(*clicks, strict=True))  # (K, 1, 3), (K, 1)
    embedding = repeat(network.embed(network.normalise(suv)), prompts)  # embedded once, decoded K times
    logits, _ = network.decode(embedding, points, signs, network.no_logits(prompts))
    return logits[:, None]


logits = ask(network, suv, fine_label, prompts)
p_k, p = logits.sigmoid(), mean_probability(logits)
print(f"{prompts} clicks, one embedding: logits {tuple(logits.shape)}, mean probability {tuple(p.shape)}")

# %%
coronal = int((given[0, 0] >= 0.5).nonzero()[:, 1].median())
panels = {f"$p_{n}$": one for n, one in enumerate(p_k, 1)} | {"mean $p$": p}
figure, axes = plt.subplots(1, len(panels) + 1, figsize=(2.5 * len(panels) + 3, 3), layout="constrained")
axes[0].imshow(pet[0, 0, :, coronal].flip(0).T, origin="lower", cmap="gray_r", vmin=0, vmax=7)
axes[0].contour(given[0, 0, :, coronal].flip(0).T, levels=[0.5], colors=COLOURS[0])
axes[0].contour(true[0, 0, :, coronal].flip(0).T, levels=[0.5], colors=COLOURS[1])
axes[0].set(title="label (orange), truth (blue)", xticks=[], yticks=[])
for ax, (title, panel) in zip(axes[1:], panels.items(), strict=True):
    image = ax.imshow(panel[0, 0, :, coronal].flip(0).T, origin="lower", cmap="viridis", vmin=0, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
figure.colorbar(image, ax=axes, shrink=0.8, label="probability")
_ = figure.suptitle("One coronal slice of the window, the patient's right on your left")

# %% [markdown]
# The answers agree deep inside and far outside. They part at borders, and where one click hinted at something else.
#
# ## Uncertainty
#
# $$U = -p \ln p - (1 - p) \ln(1 - p) \quad\text{or}\quad \text{var}_k \, p_k \quad\text{or}\quad \text{var}_k \, z_k$$
#
# The first, entropy of the mean, is what a reader of the article reports; it is our default. The variance of logits
# $z_k$ is *from the release*. The variance of probabilities is *ours*.

# %%
kinds = ("entropy", "variance", "logit_variance")
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
for ax, kind in zip(axes, kinds, strict=True):
    unsure = uncertainty(logits, kind)
    image = ax.imshow(unsure[0, 0, :, coronal].flip(0).T, origin="lower", cmap="magma", vmin=0)
    ax.contour(given[0, 0, :, coronal].flip(0).T, levels=[0.5], colors="white", linewidths=1)
    ax.set(title=kind.replace("_", " "), xticks=[], yticks=[])
    figure.colorbar(image, ax=ax, shrink=0.8)
_ = figure.suptitle("Uncertainty of K answers; white: the given label")

# %% [markdown]
# Entropy is high wherever $p$ is near a half, also if all K answers say a half. Variances are high where answers
# *differ*. The variance of logits also rises where nothing is at stake: logits of -8 and -14 both say "outside".
#
# ## The threshold
#
# A label is doubted where $U > \tau$. *Reconstructed here*: $\tau$ is the mean of $U$ over the window (our default),
# or a quantile of it. *Published* elsewhere by the same authors: $(0.75 + 0.25 r) \ln 2$, where $r$ grows to 1 during
# training, like $\lambda$.

# %%
unsure = uncertainty(logits)
thresholds = {
    "mean": uncertainty_threshold(unsure, "mean"),
    "quantile 0.9": uncertainty_threshold(unsure, "quantile", quantile=0.9),
    "ramp, first step": uncertainty_threshold(unsure, "ramp", progress=0.0),
    "ramp, late (0.9)": uncertainty_threshold(unsure, "ramp", progress=0.9),
}
for name, tau in thresholds.items():
    print(f"{name:17s} tau {tau.item():.3f}   {(unsure > tau).float().mean():.2%} of all voxels doubted")

# %%
figure, axes = plt.subplots(1, len(thresholds), figsize=(11, 3.4), layout="constrained")
for ax, (name, tau) in zip(axes, thresholds.items(), strict=True):
    doubted_here = (unsure > tau).float()
    ax.imshow(doubted_here[0, 0, :, coronal].flip(0).T, origin="lower", cmap="gray_r", vmin=0, vmax=1)
    ax.contour(given[0, 0, :, coronal].flip(0).T, levels=[0.5], colors=COLOURS[0], linewidths=1)
    ax.contour(true[0, 0, :, coronal].flip(0).T, levels=[0.5], colors=COLOURS[1], linewidths=1)
    ax.set(title=name, xticks=[], yticks=[])
_ = figure.suptitle("Black: doubted voxels. Label (orange) and truth (blue)")

# %% [markdown]
# Most of a window is far from the organ, and there the network is nearly sure. So the mean lies low, and much more
# than the border lies above it; the ramp asks for voxels near a coin's toss.
#
# ## Rectification
#
# What becomes of a doubted voxel? *Reconstructed here*, three ways; elsewhere the label $y$ stands:
#
# - `replace`: it gets what the prompts say on average, $[p > 0.5]$ (our default);
# - `flip`: it becomes $1 - y$, which the release seems to intend;
# - `ignore`: it leaves the loss.
#
# **Predict, then run:** which of the three brings this label nearer to the truth? Can one make it worse?

# %%
tau = uncertainty_threshold(unsure, "mean")
rectified = {kind: rectify(given, logits, unsure, tau, kind) for kind in ("replace", "flip", "ignore")}


def agreement(label: torch.Tensor, truth: torch.Tensor, where: torch.Tensor | bool = True) -> float:
    """DSC of two grids of fractions, of those voxels that count."""
    return sap.dice(((label > 0.5) & where)[0, 0].numpy(), ((truth > 0.5) & where)[0, 0].numpy())


table = {}
for kind, result in rectified.items():
    counted = result.valid > 0  # all voxels but those that `ignore` leaves out
    table[kind] = {
        "label as given": agreement(given, true, counted), "rectified": agreement(result.label, true, counted),
        "voxels scored": counted.float().mean().item(), "changed": result.changed_fraction.item(),
    }  # fmt: skip
pd.DataFrame(table).T.round(3)

# %%
panels = {
    "given": given,
    "replace": rectified["replace"].label,
    "flip": rectified["flip"].label,
    "ignore (grey: left out)": torch.where(rectified["ignore"].valid > 0, given, 0.5),
    "truth": true,
}
figure, axes = plt.subplots(1, len(panels), figsize=(12.5, 3.2), layout="constrained")
for ax, (title, panel) in zip(axes, panels.items(), strict=True):
    ax.imshow(panel[0, 0, :, coronal].flip(0).T, origin="lower", cmap="gray_r", vmin=0, vmax=1)
    ax.set(title=title, xticks=[], yticks=[])
_ = figure.suptitle("The label before and after; the same coronal slice")

# %% [markdown]
# What to notice: `flip` asks the label to be wrong wherever the network is unsure, and near a correct border it is
# not. `ignore` looks like the winner and changed nothing: it is scored on the voxels that remain, on which the label
# as given is exactly as good. And *changed* is the number to watch in a log: a rectification that changes
# nothing, or everything, teaches nothing.

# %% [markdown]
# ## Who is better, the network or the label?
#
# `replace` puts the network's mean answer where the label is doubted, so it can only be as good as that answer. Two
# networks: `tiny-base`, which does not know whether a click means a spot or an organ, and `tiny`, which learned these
# organs. Neither was trained on this patient.
#
# **Drag and choose:** find an organ where rectifying helps, and one where it harms. What do the first two bars say in
# each case? Does another annotator change it? More prompts? A larger share of doubted voxels? (A new choice of
# network, organ or annotator takes a moment: the network is asked.)

# %%
teachers = {name: sap.load_model(name) for name in ("tiny-base", "tiny")}


def answers_of(name: str, organ: str, annotator: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one network, organ and annotator: five answers, the label and the truth on the grid of the logits."""
    labels = sap.low_quality_labels(case, lq_dsc, seed=annotator, organs=[organ]).labels
    uptake, drawn, known = cut_window(labels, ORGANS.index(organ) + 1)
    return ask(teachers[name], uptake, drawn, 5), on_logits_grid(drawn), on_logits_grid(known)


rectify_live(answers_of, list(teachers), SEEN_ORGANS)

# %% [markdown]
# **Predict, then run:** all five organs of this patient, both networks. In how many of the ten rows does rectification
# help?

# %%
rows = []
for name, teacher in teachers.items():
    for one in SEEN_ORGANS:
        uptake, drawn, known = cut_window(doubted.labels, ORGANS.index(one) + 1)
        answers = ask(teacher, uptake, drawn, prompts)
        drawn, known = on_logits_grid(drawn), on_logits_grid(known)
        doubt = uncertainty(answers)
        better = rectify(drawn, answers, doubt, uncertainty_threshold(doubt, "mean"), "replace").label
        rows.append({
            "network": name, "organ": one, "label": agreement(drawn, known),
            "network's mean p": agreement(mean_probability(answers), known), "rectified": agreement(better, known),
        })  # fmt: skip
who = pd.DataFrame(rows)
display(who.round(2))
knows_better, helped = who["network's mean p"] > who["label"], who["rectified"] > who["label"]
print(f"rectification helps in {helped.sum()} of {len(who)}, the network is better in {knows_better.sum()}; "
      f"the two agree in {(helped == knows_better).sum()}")

# %%
_, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
for (name, rows_of), colour, marker in zip(who.groupby("network", sort=False), COLOURS, MARKERS, strict=False):
    gain = [rows_of[column] - rows_of["label"] for column in ("network's mean p", "rectified")]
    ax.scatter(*gain, color=colour, marker=marker, s=50, label=name)
ax.axhline(0, color="black", linewidth=0.8)
ax.axvline(0, color="black", linewidth=0.8)
ax.set(xlabel="network's mean answer minus label, DSC", ylabel="rectified minus given label, DSC",
       title="It helps where the network knows better")  # fmt: skip
_ = ax.legend()

# %% [markdown]
# The points lie above right, where the network is better than the label, or below left, where it is not; one near the
# crossing may stray, as not every doubted voxel is a wrong one. CPCL is a bet that training brings a network to the
# right side of that line before its weight $\lambda(t)$ grows.
#
# **What does the released code compute?** Its rectified label reads `(y and not H) and (not y and H)`, where `H` says
# that a voxel is doubted. Here is the whole truth table:

# %%
truth_table = [(y, H, (y and not H) and (not y and H)) for y, H in product((False, True), repeat=2)]
pd.DataFrame(truth_table, columns=["y", "H", "released"])

# %% [markdown]
# It is empty for every input. With "or" between its brackets it would be `flip`, which is why we read it so. (The
# released trainer cannot have made the released weights in this state: it does not parse, either.)
#
# ## A deliberate failure
#
# The ramp's threshold ends at $\ln 2$. How high can entropy get? A rectification that finds nothing to doubt is
# allowed, once in a while, so the library warns. Here we turn the warning into an error, to catch it.

# %%
tau = uncertainty_threshold(unsure, "ramp", progress=1.0)
with warnings.catch_warnings():
    warnings.simplefilter("error", RuntimeWarning)
    try:
        rectify(given, logits, unsure, tau)
    except RuntimeWarning as warning:
        print("RuntimeWarning -", warning)

# %% [markdown]
# Entropy of one voxel's in or out is at most $\ln 2$, at $p = 0.5$, and nothing lies *above* the highest. So at the
# end of training this threshold switches rectification off. That may be wanted: early, the network is doubtful about
# much; late, little is left. But one should know it, and a log that says 0 for a thousand steps should make you look.
#
# ## Consistency
#
# $$L_\text{consistency} = \text{mean}_k \, (p_k - p)^2$$
#
# *Published* is that there is such a [term](glossary.md#consistency). Its form is *reconstructed here* (`mse`; or
# `kl`, a symmetric divergence). It needs no label: wherever a user clicks in an organ, the answer should be the same
# organ.

# %%
for kind in ("mse", "kl"):
    alike = consistency(logits[:1].expand(prompts, -1, -1, -1, -1, -1), kind)
    print(f"{kind}: {consistency(logits, kind):.2e} for these answers, {alike:.2e} if all were the first")

# %% [markdown]
# ## The weight grows
#
# Early in training the network's own opinion is worth little. So the terms that rest on it come in slowly:
#
# $$\lambda(t) = w_\text{max} \, e^{-\beta (1 - t / t_\text{max})}, \qquad w_\text{max} = 0.1, \; \beta = 5$$
#
# *Published*, with these numbers. The text calls it Gaussian; that would square $1 - t / t_\text{max}$, as other code
# of the authors does. The library's option `exponent` chooses.

# %% [markdown]
# **Predict, then drag to half of the training:** which share of the maximum has been reached: a half, a quarter, less
# than a tenth? And with exponent 2, the Gaussian?

# %%
ramp()

# %% [markdown]
# In CPCL this weight also stands before the labels of all doubtful scans. As written, for most of the training they
# hardly count. Lesson 6 asks which of the two, weight or rectification, makes the difference.

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. The weight by hand.** What is $\lambda$ at $t = t_\text{max} / 2$, as the supplement writes it?

# %% tags=["solution"]
my_lambda = 0.1 * math.exp(-5 * (1 - 0.5))

# %%
sap.check("5.lambda", my_lambda)

# %% [markdown]
# **2. Doubt by hand.** Two prompts give a voxel the probabilities 0.9 and 0.5. What is its uncertainty, as entropy of
# the mean?

# %% tags=["solution"]
my_p = (0.9 + 0.5) / 2
my_entropy = -my_p * math.log(my_p) - (1 - my_p) * math.log(1 - my_p)

# %%
sap.check("5.doubt", my_entropy)

# %% [markdown]
# **3. Rectify by hand.** With numpy alone: where the uncertainty is above its 0.9 quantile, take what the prompts say
# on average (1 if $p > 0.5$, else 0); elsewhere keep the label. Inputs: `y`, `mean_p` and `doubt`, arrays of one
# shape.

# %%
y, mean_p, doubt = (grid[0, 0].numpy() for grid in (given, p, unsure))

# %% tags=["solution"]
my_label = np.where(doubt > np.quantile(doubt, 0.9), mean_p > 0.5, y)

# %%
sap.check("5.rectify", my_label, y=y, mean_p=mean_p, doubt=doubt)


# %% [markdown]
# **4. An annotator of your own.** Write `impatient(mask)`, who draws from the feet upwards and goes home before the
# last third of the organ's slices (along the last axis; the head is at its end) is drawn. Do not change `mask` itself.

# %% tags=["solution"]
def impatient(mask: np.ndarray) -> np.ndarray:
    """A label without the upper third of the organ's slices."""
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    drawn = mask.copy()
    drawn[..., slices[round(2 / 3 * slices.size) :]] = False
    return drawn


# %%
sap.check("5.impatient", impatient, truth=truth)

# %% [markdown]
# Would a network learn this error, or average it out? Lesson 6 trains on such labels.

# %% [markdown]
# **5. By hand: a better label.** In the widget above, draw the organ better than the doubtful label.

# %% tags=["solution"]
click = deepest
for _ in range(8):
    mine = drawing.click(ijk=click.ijk, foreground=click.foreground)
    click = sap.next_click(truth, mine, spacing=case.pet.spacing)

# %%
sap.check("5.hand", drawing, label=doubtful, truth=truth, name=organ)

# %% [markdown]
# **6. Change and explain.** Choose among networks, organs and annotators above. What decides whether rectifying helps?
#
# - a: It never helps.
# - b: Whether the network's mean answer is better than the label.
# - c: How many voxels are doubted.
# - d: The number of prompts.

# %% tags=["solution"]
my_sentence = "b"

# %%
sap.check("5.better", my_sentence)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** A thousand scans were all labelled from a CT in another breath. Do a thousand more help?
#
# <details><summary>Answer</summary>
#
# No: the error is systematic, everybody agrees on it, and the network learns it. Something else must contradict the
# label.
#
# </details>
#
# **2.** All K answers say 0.5. Is the entropy of the mean high, and the variance?
#
# <details><summary>Answer</summary>
#
# Entropy is at its highest; the variance is 0, as the answers do not differ. They are two kinds of doubt.
#
# </details>
#
# **3.** A log says that 0 % of voxels were rectified for a thousand steps. What may have happened?
#
# <details><summary>Answer</summary>
#
# The threshold is higher than any uncertainty, such as ln 2 for entropy at the end of the ramp: rectification is
# switched off.
#
# </details>

# %% [markdown]
# ## What you take home
#
# - Systematic errors do not average out. Ask how labels were made before you ask how many there are.
# - A network's doubt can correct a label only where the network is better than the label.
# - Watch the share of changed voxels.
#
# ## Who says what
#
# - **Published:** $\lambda(t)$ with $w_\text{max}$ and $\beta$; the ideas of consistency between prompts and of
#   self-rectification guided by uncertainty; how many scans had good and doubtful labels.
# - **From the release:** DiceCE with squared denominators, the variance of logits, and the formula that is empty.
# - **Reconstructed here:** uncertainty, threshold, rectification, consistency, and the weights of fine-tuning. Each is
#   an option with a name, in `seganypet.losses`.
# - **Measured here:** every number that a cell printed.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, and its supplement (B.2).
# - MONAI's `DiceCELoss`. The loss on labels.
# - The docstrings of `seganypet.losses` and `seganypet.phantom.annotators`.
#
# *Lesson 5 of 9; previous: [4 Clicks in 2D and 3D](04_2d_vs_3d_prompting.ipynb); next: [6 Train and
# compare](06_training.ipynb)*
#
# *Not for clinical use.*
