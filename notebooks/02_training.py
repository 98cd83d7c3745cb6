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
# # Training: learning from few good labels and many doubtful ones
#
# An expert draws the organs of a PET scan well, and slowly. A program and a tired assistant are quick, and err. So a
# hospital may have a few scans with labels to trust, and thousands with labels to doubt
# ([HQ and LQ](glossary.md#hq-and-lq)). Here you will open the network, look at doubtful labels, and train on both, by
# the three strategies that the SegAnyPET article compares.
#
# **You will learn**
#
# - what happens to a window of PET on its way to a mask, shape by shape, and two oddities of the published network;
# - why errors that everybody makes in the same way cost more than errors made at random;
# - the three losses (fine-tuning, consistency, cross prompting confident learning, in short CPCL), each formula with
#   the picture that belongs to it;
# - to train, to read a log, to go on after an interruption, and to use what you trained;
# - to compare strategies without being fooled: by chance, or by a weight that came along with the idea.
#
# **Before you start:** the [quickstart](00_quickstart.ipynb), and what a gradient step is. Words of the field are in
# the [glossary](glossary.md).
#
# **Time:** about 3 minutes to run on two cores of a laptop, an hour to read; 2 GB of memory. With `full=True` it trains
# as the ablation in `benchmarks` does, which takes (an estimate) a quarter of an hour more. No GPU, no internet.
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import json
import math
import time
import warnings
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import ndimage

import seganypet as sap
from seganypet.losses import consistency, mean_probability, ramp_up, rectify, uncertainty, uncertainty_threshold
from seganypet.model.attention import ReleasedAttention, ReleasedWindowAttention, relative_rows
from seganypet.model.config import RELEASED
from seganypet.model.sam3d import Sam3D
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.plots import COLOURS
from seganypet.phantom.annotators import annotate
from seganypet.prompting.window import sample_window, window_around
from seganypet.regions import bounding_box
from seganypet.study.plots import MARKERS
from seganypet.training.clicks import pick_clicks
from seganypet.training.objective import Objective, repeat

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
steps: int = 40  # optimiser steps of each of the three short trainings
hq: int = 2  # phantoms with true labels
lq: int = 4  # phantoms with the labels of someone who errs
lq_dsc: float = 0.75  # mean DSC of those labels to the truth, 0.6 to 0.93
prompts: int = 3  # K, clicks on one target whose answers are compared
phantom: int = 20_000  # seed of the phantom that is looked at closely
organ: str = "liver"  # the organ in it; one of the five that are learned
seed: int = 0  # of every other draw
clicks_file: str = "training_clicks.json"  # voxels to click in the section "Use it"
ablation_file: str = "../benchmarks/ablation_summary.csv"  # what `make ablation` writes
full: bool = False  # train as the ablation does: longer, on 8 HQ and 200 LQ phantoms
output_dir: str = "../out"  # everything is written here; a new name if you change what is above

# %%
assert organ in SEEN_ORGANS, f"organ={organ!r}: take one of {', '.join(SEEN_ORGANS)}."
assert hq >= 1 and lq >= 1 and prompts >= 2, "Expected hq and lq of at least 1, prompts of at least 2."
output = Path(output_dir)
organ_id = ORGANS.index(organ) + 1

# %% [markdown]
# ## Load, and look
#
# A [phantom](glossary.md#phantom), so that the truth is known. Five of its organs are
# [seen](glossary.md#seen-and-unseen-organ): training has labels of them. The other seven are *unseen*, kept to test
# whether the network learned organs or learned to follow clicks.

# %%
case = sap.make_phantom(phantom, "internal")
truth = case.organs == organ_id
_ = sap.show_mip(case.pet, {name: case.organs == ORGANS.index(name) + 1 for name in SEEN_ORGANS})

# %% [markdown]
# ## The network, opened
#
# The network never sees the whole scan. It sees a [window](glossary.md#window), a cube of voxels around a click.

# %%
network = sap.load_model("tiny-base")
config = network.config
click_mm = case.pet.to_mm(sap.first_click(truth, spacing=case.pet.spacing).ijk)
window = window_around(case.pet, click_mm, config.window_size, config.spacing_mm)
suv = sample_window(case.pet, window)  # (1, 1, n, n, n)
point = torch.tensor(window.to_window(click_mm), dtype=torch.float32)[None, None]  # (1, 1, 3): one window, one click
print(f"{network.name} sees {tuple(suv.shape[2:])} voxels of {config.spacing_mm:g} mm; click at {point[0, 0].tolist()}")

# %% [markdown]
# Three parts follow each other. The **image encoder** turns the window into tokens, lets them attend to each other,
# and narrows them (the *neck*): the [embedding](glossary.md#embedding). The **prompt encoder** turns a click into
# *sparse* tokens, and the previous mask into a *dense* [prompt](glossary.md#prompt). In the **mask decoder** tokens
# look at image and image at tokens, then the image is enlarged twice.
#
# A *hook* is called whenever a part has done its work. These note the shape of what came out.

# %%
parts = {
    "stem: tokens, half, quarter": network.image_encoder.patch_embed,
    **{f"attention block {n}": block for n, block in enumerate(network.image_encoder.blocks)},
    "neck": network.image_encoder.neck,
    "prompts: sparse, dense, ...": network.prompt_encoder,
    "decoder: tokens, image": network.mask_decoder.transformer,
    "enlarged once": network.mask_decoder.fuse_quarter,
    "enlarged twice": network.mask_decoder.fuse_half,
    "logits, predicted IoU": network.mask_decoder,
}
made = {}
hooks = [
    part.register_forward_hook(lambda _, given, result, name=name: made.update({name: result}))
    for name, part in parts.items()
]
embedding = network.embed(network.normalise(suv))
network.decode(embedding, point, torch.ones(1, 1), network.no_logits())
for hook in hooks:
    hook.remove()
for name, result in made.items():
    tensors = result if isinstance(result, tuple) else (result,)
    print(f"{name:28s}", *(tuple(tensor.shape) for tensor in tensors if tensor is not None))

# %% [markdown]
# What to notice:
#
# - The stem also returns two finer grids. They skip attention and join the decoder where the image has been enlarged
#   to their size, so that edges survive.
# - One click makes *two* sparse tokens: the click, and one that says "no more".
# - The decoder's other tokens are one for the predicted quality (IoU) and four for masks; a mask token becomes a
#   filter over the enlarged image.
# - [Logits](glossary.md#logits) come on every second voxel. `network.upscale` interpolates them; above 0 is inside.
#
# Where are the parameters, and how does the published network compare? On the device `meta` tensors have a shape
# and no memory, so we can count a large network on a small machine.

# %%
with torch.device("meta"):
    released = Sam3D(RELEASED)
counts = pd.DataFrame(
    {
        name: {part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in model.named_children()}
        for name, model in {network.name: network, "released": released}.items()
    }
)
counts.loc["sum"] = counts.sum()
print("parameters, in millions")
print(counts.round(3).to_string())

# %% [markdown]
# Nearly all of the published network is its image encoder, which runs once per window. Its size is *from the release*:
# 12 blocks. (The supplement writes 16.) Ours differs in three points, so that it learns in minutes: a convolutional
# stem instead of one projection of each patch, the finer grids, and clicks that are also drawn into the dense prompt.
#
# ## What the released weights know: shifted axes
#
# Attention alone does not know where a token lies. So each query $q$ at $(d, h, w)$ adds to its logit for a key at
# $(k_d, k_h, k_w)$ a bias from three tables $T$ of relative positions. The textbook pairs each axis with itself:
#
# $$q_{dhw} \cdot T_d[d - k_d] + q_{dhw} \cdot T_h[h - k_h] + q_{dhw} \cdot T_w[w - k_w]$$
#
# *From the release*: the public code adds its tables one axis off, and takes other queries' vectors for two of them:
#
# $$q_{dhw} \cdot T_d[d - k_w] + q_{d h k_d} \cdot T_h[h - k_w] + q_{d h k_h} \cdot T_w[k_h - k_w]$$
#
# It looks like a slip, but the weights were trained with it: correct it, and they no longer fit.
#
# To see what it does, let one table serve all axes and say "look near": 0 at distance 0, and -1 for each token of
# distance. All queries are 1, so a bias is a sum of table rows.

# %%
side = 6
query = d, h, w = 4, 1, 3
near = -(torch.arange(2.0 * side - 1) - (side - 1)).abs()[:, None]  # (2 side - 1, 1 channel)
rows = relative_rows(near, side)[..., 0]  # (side, side): row for a query at [this] and a key at [that]
textbook = rows[d][:, None, None] + rows[h][None, :, None] + rows[w][None, None, :]  # (kd, kh, kw)
shifted = rows[d][None, None, :] + rows[h][None, None, :] + rows[None, :, :].expand(side, -1, -1)

# %%
figure, axes = plt.subplots(2, 3, figsize=(8.4, 6), layout="constrained", sharex=True, sharey=True)
for line, (name, bias) in zip(axes, {"textbook": textbook, "released": shifted}.items(), strict=True):
    for ax, kd in zip(line, (0, 2, 4), strict=True):
        image = ax.imshow(bias[kd], cmap="viridis", vmin=-12, vmax=0)
        ax.set(title=f"{name}: keys of $k_d$ = {kd}", xlabel="$k_w$", ylabel="$k_h$")
        ax.label_outer()
        if kd == d:
            ax.plot(w, h, "o", color="white", markeredgecolor="black", markersize=9)
figure.colorbar(image, ax=axes, shrink=0.7, label="bias of the logit")
_ = figure.suptitle(f"Where the query at (d, h, w) = {query} looks; its own place is the disc")

# %% [markdown]
# The textbook form is brightest at the query's own place and fades in all directions. In the released form $k_d$ makes
# no difference at all: it chooses a query's vector, and here these are all alike. Nor does $w$, where the query is.
# "Near" no longer means near. A network can learn around that, and the released one did.
#
# Networks trained here use the textbook form. The released form exists for released weights.
#
# ## 2744 x 2744 is 512 x 513
#
# A second oddity, *from the release*. Two thirds of its blocks attend within windows of 14 tokens a side. But the grid
# has only 8. So it is padded with zeros to $14^3 = 2744$ tokens, and the pads are not masked: their query, key and
# value are the projection's biases. Most of the work is spent on pads.
#
# All pads have the same key and the same value. So for a query they act as *one* key, whose weight is the sum of
# theirs; and nobody reads what the pads' own queries find. 512 queries against 512 keys and a virtual one are enough.
# Is it the same, exactly? We pad by hand, in double precision, and compare.

# %%
torch.manual_seed(seed)
quick = ReleasedWindowAttention(dim=12, heads=2, window=5).double()
for parameter in quick.parameters():
    torch.nn.init.normal_(parameter)
naive = ReleasedAttention(dim=12, heads=2, side=5).double()  # attention among all 5^3 tokens, pads or not
naive.load_state_dict(quick.state_dict())
tokens = torch.randn(1, 3, 3, 3, 12, dtype=torch.float64)
with torch.inference_mode():
    padded = F.pad(tokens, (0, 0, 0, 2, 0, 2, 0, 2))  # (1, 5, 5, 5, 12): zeros behind each axis
    difference = (naive(padded)[:, :3, :3, :3] - quick(tokens)).abs().max()
print(f"largest difference: {difference:.1e}")

# %% [markdown]
# Nothing but rounding. The saving, at the published size and for one block of 12 heads:

# %%
for name, queries, keys in (("padded", 14**3, 14**3), ("collapsed", 8**3, 8**3 + 1)):
    numbers = 12 * queries * keys
    print(f"{name:10s} {queries} x {keys}: {numbers:10,d} logits, {4 * numbers / 2**20:3.0f} MiB")
print(f"a factor of {14**6 / (8**3 * (8**3 + 1)):.1f}")

# %% [markdown]
# The virtual key's logit is the logarithm of a sum of exponentials over all pads. The docstring of
# `ReleasedWindowAttention` derives it, without the differences that would cancel in single precision.
#
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

# %%
doubted = sap.low_quality_labels(case, lq_dsc, seed=seed, organs=SEEN_ORGANS)
report = pd.DataFrame([asdict(entry) for entry in doubted.report])
print(report.assign(severity=[np.round(entry.severity, 1).tolist() for entry in doubted.report]).round(2).to_string())
print(f"mean DSC {doubted.mean_dsc:.2f}, asked for {lq_dsc:g}")

# %% [markdown]
# ## Random errors average out
#
# Twenty people draw the organ with the right shape in a wrong place: in the first group each is off in a random
# direction, in the second nearly all are off towards the feet. A network that minimises cross-entropy over all twenty
# learns, at best, what the majority says at each voxel. So let us take the vote.
#
# **Predict, then run:** a single label of either group is about equally bad. How good is the vote of each group?

# %%
rng = np.random.default_rng(seed)
groups = {
    "random": [ndimage.shift(truth[box], rng.integers(-4, 5, 3), order=0) for _ in range(20)],
    "systematic": [annotate(case, organ, "z_shift", 2.5, rng)[box] for _ in range(20)],
}
for name, labels in groups.items():
    vote = np.mean(labels, axis=0) > 0.5
    single = np.mean([sap.dice(label, truth[box]) for label in labels])
    print(f"{name:10s} DSC of one label {single:.2f}, of the vote {sap.dice(vote, truth[box]):.2f}")

# %% [markdown]
# Random errors average out, though not quite to the truth: where they are as large as the organ is thick, the vote
# keeps its core and loses its rim, however many vote. Systematic errors are what everybody agrees on, and ten thousand
# scans more would only confirm them. Something else has to contradict such a label. [CPCL](glossary.md#cpcl)'s idea is
# that the network itself may, where it is in doubt.
#
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
def cut_window(organ_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uptake, doubtful label and truth of an organ in the window around it, (1, 1, n, n, n) each."""
    middle_mm = case.pet.to_mm(np.argwhere(doubted.labels == organ_id).mean(0))
    window = window_around(case.pet, middle_mm, config.window_size, config.spacing_mm)
    to_scan = np.linalg.inv(case.pet.affine) @ window.affine  # from voxels of the window to voxels of the scan
    nearest = {"matrix": to_scan, "output_shape": [config.window_size] * 3, "order": 0}
    label, true = (
        torch.from_numpy(ndimage.affine_transform((labels == organ_id).astype(np.float32), **nearest))[None, None]
        for labels in (doubted.labels, case.organs)
    )
    return sample_window(case.pet, window), label, true


def on_logits_grid(grid: torch.Tensor) -> torch.Tensor:
    """Means over the voxels of the coarser grid that the network's logits lie on."""
    return F.avg_pool3d(grid, config.window_size // config.logits_size)


suv, label, fine_truth = cut_window(organ_id)
pet, given, true = on_logits_grid(suv), on_logits_grid(label), on_logits_grid(fine_truth)
print(f"label and truth on the grid of the logits: {tuple(given.shape)}, from 0 (empty) to 1 (full of {organ})")

# %%
def ask(network: Sam3D, suv: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """What a network answers to K clicks in a label, each on its own: logits (K, 1, 1, m, m, m)."""
    torch.manual_seed(seed)
    inside = (on_logits_grid(label) >= 0.5).float()
    clicks = [pick_clicks(inside, label, deep=0.7) for _ in range(prompts)]
    points, signs = (torch.cat(part) for part in zip(*clicks, strict=True))  # (K, 1, 3), (K, 1)
    embedding = repeat(network.embed(network.normalise(suv)), prompts)  # embedded once, decoded K times
    logits, _ = network.decode(embedding, points, signs, network.no_logits(prompts))
    return logits[:, None]


logits = ask(network, suv, label)
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
# Most of a window is far from the organ, and there the network is nearly sure. So the mean lies low, and much more than
# the border lies above it; the ramp asks for voxels near a coin's toss.
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
print("DSC to the truth\n" + pd.DataFrame(table).T.round(4).to_string())

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
# What to notice: `flip` asks the label to be wrong wherever the network is unsure, and near a correct border it is not.
# `ignore` looks like the winner and changed nothing: it is scored on the easy voxels that remain, on which the label as
# given is exactly as good. And *changed* is the number to watch in a log: a rectification that changes nothing, or
# everything, teaches nothing.
#
# ## Who is better, the network or the label?
#
# `replace` puts the network's mean answer where the label is doubted, so it can only be as good as that answer. Whether
# it helps or harms is decided before the first step of a training: by whether the network that doubts knows better than
# the label. One organ and one network showed one case. Here are all five organs of this patient and two networks:
# `tiny-base`, which does not know whether a click means a spot or an organ, and `tiny`, which learned these organs.
#
# **Predict, then run:** in how many of the ten rows does rectification help?

# %%
rows = []
for teacher in (sap.load_model(name) for name in ("tiny-base", "tiny")):
    for name in SEEN_ORGANS:
        uptake, drawn, known = cut_window(ORGANS.index(name) + 1)
        answers = ask(teacher, uptake, drawn)
        drawn, known = on_logits_grid(drawn), on_logits_grid(known)
        doubt = uncertainty(answers)
        better = rectify(drawn, answers, doubt, uncertainty_threshold(doubt, "mean"), "replace").label
        rows.append({
            "network": teacher.name, "organ": name, "label": agreement(drawn, known),
            "network's mean p": agreement(mean_probability(answers), known), "rectified": agreement(better, known),
        })  # fmt: skip
who = pd.DataFrame(rows)
print("DSC to the truth\n" + who.round(2).to_string(index=False))
knows_better, helped = who["network's mean p"] > who["label"], who["rectified"] > who["label"]
print(f"\nrectification helps in {helped.sum()} of {len(who)}, the network is better in {knows_better.sum()}; "
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
print(pd.DataFrame([(y, H, (y and not H) and (not y and H)) for y, H in product((False, True), repeat=2)],
                   columns=["y", "H", "released"]).to_string(index=False))  # fmt: skip

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
# Entropy of one voxel's in or out is at most $\ln 2$, at $p = 0.5$, and nothing lies *above* the highest. So at the end
# of training this threshold switches rectification off. That may be wanted: early, the network is doubtful about much;
# late, little is left. But one should know it, and a log that says 0 for a thousand steps should make you look.
#
# ## Consistency
#
# $$L_\text{consistency} = \text{mean}_k \, (p_k - p)^2$$
#
# *Published* is that there is such a [term](glossary.md#consistency). Its form is *reconstructed here* (`mse`; or `kl`,
# a symmetric divergence). It needs no label: wherever a user clicks in an organ, the answer should be the same organ.

# %%
for kind in ("mse", "kl"):
    alike = consistency(logits[:1].expand(prompts, -1, -1, -1, -1, -1), kind)
    print(f"{kind}: {consistency(logits, kind):.2e} for these answers, {alike:.2e} if all were the first")

# %% [markdown]
# A network that always answers the same, whatever is clicked, is perfectly consistent, too. So this term can only
# accompany a loss on labels. In training it is taken on windows with doubtful labels alone.
#
# ## The weight grows
#
# Early in training the network's own opinion is worth little. So the terms that rest on it come in slowly:
#
# $$\lambda(t) = w_\text{max} \, e^{-\beta (1 - t / t_\text{max})}, \qquad w_\text{max} = 0.1, \; \beta = 5$$
#
# *Published*, with these numbers. The text calls it Gaussian; that would square $1 - t / t_\text{max}$, as other code
# of the authors does. The library's option `exponent` chooses.
#
# **Predict, then run:** at half of the training, which share of $w_\text{max}$ has been reached: a half, a quarter,
# less than a tenth?

# %%
progress = np.linspace(0, 1, 101)
figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for exponent, style, name in ((1, "-", "as written, exponent 1"), (2, "--", "Gaussian, exponent 2")):
    curve = [ramp_up(t, 1.0, exponent=exponent) for t in progress]
    ax.plot(progress, curve, style, label=name, color=COLOURS[exponent - 1])
    print(f"{name}: at half time {ramp_up(0.5, 1.0, w_max=1.0, exponent=exponent):.0%} of the maximum")
ax.set(xlabel="$t / t_{max}$", ylabel=r"$\lambda$", title="Trade-off weight over the training")
ax.grid(alpha=0.3)
_ = ax.legend()

# %% [markdown]
# In CPCL this weight also stands before the labels of all doubtful scans. As written, for most of the training they
# hardly count.
#
# ## Train
#
# A config is a frozen dataclass. We read the one that makes the embedded network `tiny`, and change what makes the
# training short. Weights start from `tiny-base`, which knows organs already; batches hold one trusted window and two
# doubtful ones, and nothing is rehearsed: this is about labels. For `full` we take the numbers of the ablation.

# %%
tiny = sap.TrainConfig.from_yaml("../seganypet/configs/tiny.yaml")
tiny = replace(
    tiny, lq_weight=None, learning_rate=0.0005, seed=seed, validation=replace(tiny.validation, phantoms=0),
    rehearsed_per_batch=0, readings=False, start_masks=0.0, data=replace(tiny.data, rehearsed=0),
)  # fmt: skip
short = replace(
    tiny, epochs=1, steps_per_epoch=steps, batch_size=3, lq_per_batch=2, targets_per_window=2,
    prompts=prompts, warm_up=steps // 4, ema=0.9, precision="32-true",
    data=replace(tiny.data, hq=hq, lq=lq, lq_dsc=lq_dsc, windows_per_case=3),
)  # fmt: skip
as_ablation = replace(
    tiny, epochs=3, steps_per_epoch=20, batch_size=4, lq_per_batch=3, warm_up=10, ema=0.95,
    data=replace(tiny.data, hq=8, lq=200),
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
print(pd.DataFrame(weights).T.to_string())

# %% [markdown]
# Now train. First the phantoms are drawn and kept on disk, two or three seconds for each; all strategies share them. A
# window is cut anew, turned and stretched a little, whenever it is learned from. Everything that is written lies in the
# folder `training` of the output folder.

# %%
runs = output / ("training_full" if full else "training")
trained = {}
for strategy, run_config in configs.items():
    started = time.perf_counter()
    trained[strategy] = sap.train(run_config, runs, processes=1, progress=False)
    print(f"{strategy}: {time.perf_counter() - started:.0f} s\n")

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
print(logs["cpcl"][columns].to_string(index=False))

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
# What to notice: losses are of trusted windows, and each point is *one* batch, so they jump; look for trends over many.
# All three saw the same batches, so their curves jump together. Fine-tuning and consistency lie on one another to the
# third digit: $\lambda$ is at most 0.1 and the consistency term some thousandths, so it is less than a percent of the
# loss. $\lambda$ stays at 0 for fine-tuning. Only CPCL rectifies, so only it has a share of changed voxels.
#
# Be honest about this: a few dozen steps from weights that knew organs before show the *machinery*. They do not rank
# the strategies, and a loss on training windows never does.
#
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
# It goes on with its own settings only. If you change a parameter above, the call stops and names what differs: give
# `output_dir` another name then.
#
# ## Use it
#
# A scan that no training has seen, and clicks that were recorded: voxels in a file. All networks get the same ones.

# %%
volume = sap.load_volume("../data_samples/phantom_internal_9000/SUV.nii.gz", unit="SUVbw")
sample = sap.Cohort.from_csv("../data_samples/cohort.csv")["phantom_internal_9000"]
truths = dict(sample.targets(volume, SEEN_ORGANS))
recorded = json.loads(Path(clicks_file).read_text())
sessions, rows = {}, []
for name, model in {network.name: network, **trained}.items():
    sessions[name] = session = sap.Session(model, volume)
    for target, places in recorded.items():
        session.select(target)
        for number, (i, j, k, foreground) in enumerate(places, 1):
            mask = session.click(ijk=(i, j, k), foreground=foreground)
            rows.append({"model": name, "target": target, "click": number, "DSC": sap.dice(mask, truths[target])})

# %%
scores = pd.DataFrame(rows)
print(scores.pivot_table(index=["target", "click"], columns="model", values="DSC", sort=False).round(3).to_string())

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 6.6), layout="constrained")
pictures = {"truth": {target: truths[target] for target in recorded}}
pictures |= {name: sessions[name].masks for name in (network.name, "cpcl")}
for ax, (name, masks) in zip(axes, pictures.items(), strict=True):
    sap.show_mip(volume, masks, ax=ax)
    mean = np.mean([sap.dice(mask, truths[target]) for target, mask in masks.items()])
    ax.set_title(name if name == "truth" else f"{name}, mean DSC {mean:.2f}")
_ = figure.suptitle("phantom_internal_9000, the same clicks: before and after training")

# %%
for name, session in sessions.items():
    session.save_journal(output / f"training_{name}.json")

# %% [markdown]
# Now with the mouse: the session of the network that CPCL trained, with the recorded clicks in it. Correct what they
# left wrong, or press **Add object** and try an organ that no training named. For another network, put its name in
# the place of `cpcl`.

# %%
sap.ClickWidget(sessions["cpcl"], output_dir=output / "by_hand")

# %% [markdown]
# One scan and a handful of clicks again prove nothing. The next section has more of both.
#
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
print(by_arm.round(2).to_string())

# %% [markdown]
# *Measured here*: `python -m benchmarks.ablation strategies` trains `tiny-base` by each strategy, with three seeds, 8
# trusted and 200 doubtful phantoms, and evaluates on phantoms that no run has seen, in the scanner they trained on
# ([internal](glossary.md#internal-and-external-test)) and another one (external). In our
# study "unseen" is weaker than in the article: `tiny-base` met those organs as targets before.

# %%
summary = pd.read_csv(ablation_file) if Path(ablation_file).exists() else None
if summary is None:
    print(f"{ablation_file} is not here: `make ablation` makes it, in an hour or two.")
else:
    percent = summary.assign(dsc=100 * summary["dsc"])
    print(percent.pivot_table(index=["domain", "arm"], columns=["targets", "click"], values="dsc", sort=False).round(1))

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
    print(holds[["domain", "targets", "click", "arm", "minus finetune", "order"]].to_string(index=False))
    print("\n" + holds.groupby("arm")["order"].value_counts().to_string())

# %% [markdown]
# And of CPCL over consistency we have means only:

# %%
if summary is not None:
    means = summary.pivot_table(index=["domain", "targets", "click"], columns="arm", values="dsc")
    print(f"cpcl above consistency in {(means['cpcl'] > means['consistency']).sum()} of {len(means)} cells")

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
# - `clean`: all labels true. The ceiling: no treatment of bad labels can be expected to beat good ones.
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
    print(gains[asked].round(1).to_string())
    by_weight, by_labels = gains["hq only"], gains["cpcl, weight 1"]
    print("What leaving doubtful labels out gains is", "more" if by_weight > by_labels else "less",
          "than what rectifying them at full weight gains.")  # fmt: skip

# %% [markdown]
# `hq only` throws doubtful labels away. If it gains as much as `cpcl`, then CPCL's gain here is that bad labels count
# less, not that they became good. `benchmarks/ablation.md` says how large an effect this setting could have shown.
#
# When you read the figure: intervals are wide, since patients and seeds are few. That two of them overlap does not say
# that two arms are equal; arms share patients and seeds, so the interval of the *difference*, above, is the sharper
# one. And an arm that we name after a method is our reconstruction of it, on phantoms: it can neither confirm nor
# refute the article.
#
# ## Your turn
#
# Each exercise ends with a check that tells you what may be wrong. This edition holds the solutions: cover them first.
#
# **1. The weight by hand.** What is $\lambda$ at $t = t_\text{max} / 2$, as the supplement writes it?

# %% tags=["solution"]
my_lambda = 0.1 * math.exp(-5 * (1 - 0.5))

# %%
assert not np.isclose(my_lambda, 0.1 * math.exp(-5 * 0.25)), "Hint: that is the Gaussian; do not square."
assert not np.isclose(my_lambda, math.exp(-2.5)), "Hint: times w_max."
assert np.isclose(my_lambda, ramp_up(50, 100)), "Hint: w_max exp(-beta (1 - t / t_max)), w_max 0.1, beta 5."
print(f"Right: {my_lambda:.4f}")

# %% [markdown]
# **2. Doubt by hand.** Two prompts give a voxel the probabilities 0.9 and 0.5. What is its uncertainty, as entropy
# of the mean?

# %% tags=["solution"]
my_p = (0.9 + 0.5) / 2
my_entropy = -my_p * math.log(my_p) - (1 - my_p) * math.log(1 - my_p)

# %%
answers = torch.tensor([0.9, 0.5]).logit().reshape(2, 1, 1, 1, 1, 1)
right = uncertainty(answers).item()
each = np.mean([uncertainty(one[None]).item() for one in answers])
assert not np.isclose(my_entropy, right / math.log(2), atol=1e-4), "Hint: that is in bits; take the natural logarithm."
assert not np.isclose(my_entropy, each, atol=1e-4), "Hint: average the probabilities first, then take the entropy."
assert np.isclose(my_entropy, right, atol=1e-4), "Hint: -p ln p - (1 - p) ln(1 - p) of the mean p."
print(f"Right: {my_entropy:.3f} of at most {math.log(2):.3f}")

# %% [markdown]
# **3. Rectify by hand.** With numpy alone: where the uncertainty is above its 0.9 quantile, take what the prompts say
# on average (1 if $p > 0.5$, else 0); elsewhere keep the label. Inputs: `y`, `mean_p` and `doubt`, arrays of one shape.

# %%
y, mean_p, doubt = (grid[0, 0].numpy() for grid in (given, p, unsure))

# %% tags=["solution"]
my_label = np.where(doubt > np.quantile(doubt, 0.9), mean_p > 0.5, y)

# %%
quantile = uncertainty_threshold(unsure, "quantile", quantile=0.9)
right = rectify(given, logits, unsure, quantile).label[0, 0].numpy()
wrong_way = np.where(doubt > quantile.item(), y, mean_p > 0.5)
assert np.shape(my_label) == y.shape, f"Hint: one value for each voxel, shape {y.shape}."
assert not np.allclose(my_label, np.where(doubt > quantile.item(), 1 - y, y)), "Hint: that is `flip`."
assert not np.allclose(my_label, wrong_way), "Hint: the other way round: np.where(condition, if true, if false)."
assert not np.allclose(my_label, np.where(doubt > quantile.item(), mean_p, y)), "Hint: 0 or 1 there, not p itself."
assert (~np.isclose(my_label, right)).sum() <= 5, "Hint: np.where(doubt > threshold, mean_p > 0.5, y)."
print(f"Right: {np.mean((np.asarray(my_label) > 0.5) != (y > 0.5)):.2%} of the voxels changed sides")

# %% [markdown]
# **4. An annotator of your own.** Write `impatient(mask)`, who draws from the feet upwards and goes home before the
# last third of the organ's slices (along the last axis; the head is at its end) is drawn. Do not change `mask` itself.

# %% tags=["solution"]
share_drawn = 2 / 3


def impatient(mask: np.ndarray) -> np.ndarray:
    """A label without the upper third of the organ's slices."""
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    drawn = mask.copy()
    drawn[..., slices[round(share_drawn * slices.size)] :] = False
    return drawn


# %%
shown = truth.copy()
mine = impatient(shown)
assert np.array_equal(shown, truth), "Hint: you changed the mask that you were given; work on mask.copy()."
assert isinstance(mine, np.ndarray) and mine.shape == truth.shape, "Hint: return a mask of the same shape."
assert not (mine & ~truth).any(), "Hint: your annotator only leaves out; some voxels are new."
had, has = (np.flatnonzero(mask.any(axis=(0, 1))) for mask in (truth, mine))
assert has.size, "Hint: nothing is left at all."
assert has[0] == had[0], "Hint: the feet are at the beginning of the last axis; you left out the wrong end."
assert abs(has.size - 2 * had.size / 3) <= 1, f"Hint: {has.size} of {had.size} slices are left; count the organ's only."
assert np.array_equal(mine[..., has], truth[..., has]), "Hint: slices that are drawn are drawn completely."
print(f"Right: {has.size} of {had.size} slices, DSC {sap.dice(mine, truth):.2f}")

# %% [markdown]
# Would a network learn this error, or average it out? You know how to ask: train on it.
#
# ## Who says what
#
# - **Published:** the numbers of Table 4; $\lambda(t)$ with $w_\text{max}$ and $\beta$; the ideas of consistency
#   between prompts and of self-rectification guided by uncertainty; how many scans had good and doubtful labels.
# - **From the release:** depth and size of the network, the shifted axes, the unmasked pads, DiceCE with squared
#   denominators, the variance of logits, and the formula that is empty. All from the public repositories of SegAnyPET
#   and SAM-Med3D.
# - **Reconstructed here:** uncertainty, threshold, rectification, consistency, and the weights of fine-tuning. Each is
#   an option with a name, in `seganypet.losses`; another reading is a line in a config.
# - **Measured here:** every number that a cell printed, and the ablation.
#
# ## What you take home
#
# - Systematic errors do not average out. Ask how labels were made before you ask how many there are.
# - A network's doubt can correct a label only where the network is better than the label.
# - Watch the share of changed voxels, change one thing at a time, and ask for an interval.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET: Universal Promptable Segmentation from Positron Emission Tomography Images*, ICCV 2025,
#   arXiv:2502.14351, and its supplement (B.2: training; Table 4: strategies).
# - Wang et al., *SAM-Med3D*, arXiv:2310.15161. The network, its training by simulated clicks, and the released code.
# - Li et al., *MViTv2*, arXiv:2112.01526. Decomposed relative positions, the textbook form.
# - MONAI's `DiceCELoss`. The loss on labels.
# - The docstrings of `seganypet.losses`, `seganypet.phantom.annotators` and `seganypet.model.attention`.
#
# *Not for clinical use.*
