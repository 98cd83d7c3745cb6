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
# # Tumours, many and scattered
#
# A liver is one thing in one place. Cancer that has spread is thirty things in thirty places, some as large as a plum
# and some as a pea, some against an organ that is bright in every healthy person. The article's supplement found that
# its own 3D network, ahead on organs, loses its lead here: level with slice-by-slice SAM after one round of clicks,
# behind it after three and five. Why? And what would help?
#
# **You will learn**
#
# - how far a few clicks can get if each of them draws one lesion: a bound that you can compute;
# - to compare 2D and 3D at no more clicks, with intervals, whichever way it goes;
# - to click [lesions](glossary.md#lesion) one by one, and what a session does to find windows that fit them;
# - what a reading room does instead, with [thresholds](glossary.md#41--rule), and what healthy organs do to them;
# - to measure tumour burden ([MTV](glossary.md#mtv), [TLG](glossary.md#tlg)), and how well it agrees with the truth;
# - what [zero-shot](glossary.md#zero-shot) may be called.
#
# **Before you start:** the quickstart; `03_2d_vs_3d_prompting` for 2D networks.
#
# **Time:** about 2 minutes to run on two cores of a laptop, an hour to read; 2 GB of memory. No GPU, no internet. Words
# are explained in the [glossary](glossary.md).
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import os
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.ticker import MaxNLocator

import seganypet as sap
from seganypet.cohort.case import InMemoryCase
from seganypet.cohort.labels import lesion_instances
from seganypet.metrics import lesion_scores
from seganypet.pet.physiology import physiology_from_clicks
from seganypet.pet.plots import COLOURS
from seganypet.prompting.autopet_clicks import simulate_autopet_clicks, write_autopet_clicks
from seganypet.prompting.simulate import first_click
from seganypet.prompting.suggest import background_clicks
from seganypet.study.interactive import interactive_scores, interactive_steps
from seganypet.study.lesion_clicks import prompt_one_by_one
from seganypet.study.protocol import ClickProtocol
from seganypet.study.tumour_scan import TumourScan

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = ""  # a cohort.csv, an AutoPET or an nnU-Net folder, with lesions; empty: phantoms
phantom_seeds: list = [501, 502, 503]  # of disseminated disease; 10000 and above were trained on
model_3d: str = "tiny-organs"  # or "tiny-base", "seganypet-v1", "seganypet-lesion", a path
model_2d: str = "tiny-2d-organs"  # or "tiny-2d", "sam-vit-b", "medsam-vit-b", a folder
others: list = ["tiny-base"]  # more 3D networks for the comparison
clicks: int = 3  # on each lesion, and in each slice
clicks_at_once: int = 10  # where all lesions are one object
min_volume_ml: float = 0.0  # smaller lesions are not clicked one by one
totalsegmentator_dir: str = ""  # TotalSegmentator's output for the cases, for brain and bladder
output_dir: str = "../out"  # everything is written here

# %%
assert clicks >= 1, f"clicks={clicks}: at least 1."
output = Path(output_dir) / "tumours"
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Load, and look
#
# The phantoms here have *disseminated disease*: 20 to 45 lesions in lymph nodes, spleen, liver and marrow, uneven
# inside, larger ones with a cold core, where there is room one against bladder and heart. Their numbers follow what is
# published on lymphoma, as far as it is. Lesions that touch count as one, so fewer are counted than were planted.

# %%
if data:
    cases = [case for case in sap.Cohort.from_path(data) if case.lesions]
    assert cases, f"data={data!r}: no case has labels of lesions."
else:
    cases = [InMemoryCase.from_phantom(sap.make_phantom(seed, lesions="disseminated")) for seed in phantom_seeds]
organs_from = totalsegmentator_dir or None
scan = next((one for one in (TumourScan.of(case, organs_from) for case in cases) if one.truth.any()), None)
assert scan is not None, "No case has a lesion: there is nothing to click."
pet, truth = scan.pet, scan.truth
instances = lesion_instances(truth)
count = int(instances.max())
volumes_ml = np.bincount(instances.ravel())[1:] * pet.voxel_volume_ml  # the largest first
print(f"{scan.name}: {pet.shape} voxels, {count} lesions of {volumes_ml.min():.1f} to {volumes_ml.max():.0f} mL")
print(f"together {volumes_ml.sum():.0f} mL; {np.count_nonzero(volumes_ml < 3)} of them below 3 mL")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 7.5), layout="constrained")
sap.show_mip(pet, ax=axes[0])
_ = sap.show_mip(pet, {"lesions": truth}, ax=axes[1])

# %% [markdown]
# Left, as a reader sees it first: which dark spots are disease? Brain, heart, kidneys and bladder are dark in health
# too, and some lesions are hardly dark at all. Right, the truth.
#
# ## Why one click cannot do it
#
# Suppose a perfect network: each click segments the lesion that it hits, without one wrong voxel, and the user always
# clicks the largest that is left. What is the best [DSC](glossary.md#dsc) over the whole scan after k clicks?
# DSC = 2 |found| / (|found| + |all|). **Predict the value after one click, then run:**

# %%
found_ml = np.cumsum(volumes_ml)
ceiling = 2 * found_ml / (found_ml + volumes_ml.sum())
print(f"a perfect network: {ceiling[0]:.2f} after one click, {ceiling[min(2, count - 1)]:.2f} after three")
print(f"DSC 0.9 needs {np.argmax(ceiling >= 0.9) + 1} clicks, all {count} lesions {count}")

# %%
network = sap.load_model(model_3d)
session = sap.Session(network, pet)
one_click = session.click(ijk=first_click(instances == 1, spacing=pet.spacing).ijk)  # on the largest
figure, axes = plt.subplots(1, 2, figsize=(11, 5.5), layout="constrained")
sap.show_mip(pet, {"after one click": one_click, "lesions": truth}, ax=axes[0])
axes[1].plot(np.arange(1, count + 1), ceiling, color=COLOURS[0], label="perfect network, a lesion a click")
axes[1].plot(1, sap.dice(one_click, truth), "o", color=COLOURS[1], label=f"{model_3d}, first click")
axes[1].set(xlabel="clicks", ylabel="DSC, all lesions", ylim=(0, 1.02))
axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
axes[1].grid(alpha=0.3)
_ = axes[1].legend(loc="lower right")

# %% [markdown]
# With one, three or five points *for all tumours together*, as 3D had in the supplement, whoever draws one lesion a
# click is bounded by the disease, before any network comes in. That is a part of the answer, not all of it: networks
# stay below the bound, and a threshold, which needs no click, is not bound by it. The 2D networks there had N, 3N and
# 5N points, one to five in *every* slice with tumour: dozens to hundreds, so most lesions get some. That is not
# dimension against dimension, it is few clicks against many. Below, both are counted.
#
# ## A window as fine as the lesion
#
# The second obstacle is size. The embedded 3D networks look at 64 voxels of 4 mm and draw [logits](glossary.md#logits)
# of 8 mm: in such a picture, 1 mL is a voxel or two. Nobody tells a session how large the thing is that you click, so
# it finds out by itself:
#
# - At the first click it looks at several sizes. A fine window comes first; a small hot spot with a clear edge all
#   around is taken as it is seen there. Else it looks once more, from farther away, and keeps the answer whose edge is
#   the clearest.
# - Then the [window](glossary.md#window) follows: it moves to the middle of what was found, which need not be where
#   you clicked, and its voxels become smaller if that is small, down to 1.5 mm.
# - What was seen in fine windows only ends at about half contrast: half-way between its own uptake and that around it.
#   There lies the true edge of something that the scanner has blurred.
#
# It can be wrong: a network that draws a lesion far too large makes it look from afar. You know more than the session
# does, namely that you will click lesions and no livers, and may fix the sizes by hand. `spacing_mm=2.0` is the size of
# a window's voxels, and the session then tries no other at the first click; `min_spacing_mm=1.5` still lets the window
# become finer for what is small. Networks from the release keep the size that they were trained with. Every lesion of
# this scan now gets the same number of clicks in three ways: in windows *as trained*, of one size; as the session finds
# them *by itself*; and *by hand*. **Which will be best for small lesions, and which at the first click?**

# %%
own_mm = network.config.spacing_mm
fine = {"spacing_mm": min(own_mm, 2.0), "min_spacing_mm": min(own_mm, 1.5)}
sessions = {
    "as trained": sap.Session(network, pet, spacing_mm=own_mm),
    "by itself": sap.Session(network, pet),
    "by hand": sap.Session(network, pet, **fine),
}
dialogues = pd.concat([
    pd.DataFrame(prompt_one_by_one(session, truth, ClickProtocol(clicks))).assign(look=name)
    for name, session in sessions.items()
])  # fmt: skip
each = dialogues[dialogues["lesion"] != "all"]
size = np.where(each["volume_ml"] < 3, "below 3 mL", "3 mL and more")
print(f"mean DSC of single lesions of this scan, by clicks on each, {model_3d}")
print(each.pivot_table(index=["look", size], columns="click", values="dsc", sort=False).round(2).to_string())

# %% [markdown]
# Compare the rows in pairs. What does a fixed size cost that suits livers? Where does the session find a better one,
# and where does it help to know what is clicked? And is there a click that does not help? One lesion in pictures, that
# with the median gain *by hand* over *as trained* after the last click:

# %%
after = each[each["click"] == clicks].pivot(index="lesion", columns="look", values="dsc")
typical = (after["by hand"] - after["as trained"]).sort_values().index[len(after) // 2]
lesion = instances == int(typical.removeprefix("lesion_"))
drawn = {name: session.mask_of(typical) for name, session in sessions.items()}
print(f"{typical}, {np.count_nonzero(lesion) * pet.voxel_volume_ml:.1f} mL")
for name, mask in drawn.items():
    print(f"{name}: DSC {sap.dice(mask, lesion):.2f}")
clicked = sessions["by hand"].clicks_of(typical)
_ = sap.show_slices(pet, {"truth": lesion, **drawn}, clicks=clicked, at_ijk=clicked[0].ijk, field_mm=90)

# %% [markdown]
# ## A reader in the loop
#
# What the supplement leaves to the future: instances. Each lesion becomes an object of its own, with clicks of its own.
# `suggest_click` points to the hottest spot that is neither segmented nor a healthy organ. It is a suggestion: you
# decide. Press *Next suggestion*, look at the spot in three planes, and click if you believe it (**Add object** before
# the next lesion). It never points to what is colder than SUV 4: when it is done, faint lesions may be left.

# %%
by_hand = sap.Session(network, pet, **fine)
suggestions = []
for number in range(1, 4):  # three lesions are accepted here; the rest is yours
    suggestion = sap.suggest_click(pet, by_hand.masks, physiology=scan.physiology)
    if suggestion is None:
        break
    suggestions.append(suggestion)
    by_hand.select(f"lesion_{number:02d}")
    by_hand.click(ijk=suggestion.ijk)
reader = sap.ClickWidget(by_hand, output_dir=output)
button, word = ipywidgets.Button(description="Next suggestion"), ipywidgets.Label()


def point_there(_button: ipywidgets.Button | None = None) -> None:
    """Move the slices to the next candidate."""
    following = sap.suggest_click(pet, by_hand.masks, physiology=scan.physiology)
    if following is None:
        word.value = "Nothing above SUV 4 is left."
    else:
        reader.look_at(following.ijk)
        word.value = f"SUVmax {following.suv_max:.1f}, {following.volume_ml:.1f} mL above the threshold"


button.on_click(point_there)
point_there()
display(ipywidgets.HBox([button, word]))
reader

# %%
for suggestion in suggestions:
    hit = "a lesion" if truth[suggestion.ijk] else "no lesion"
    print(f"suggested: SUVmax {suggestion.suv_max:5.1f}, {suggestion.volume_ml:6.1f} mL: {hit}")
found = np.any([np.zeros(pet.shape, bool), *by_hand.masks.values()], axis=0)
print(f"now: {len(by_hand.objects)} objects, {found[truth].mean():.0%} of the tumour")

# %% [markdown]
# ## The comparison
#
# Every network is clicked as suits it, by a simulated user who knows the truth:
#
# - 3D, *all at once*: every click goes to one object, wherever the largest error is (Table 5's setting);
# - 3D, *one by one*: each lesion gets 1, 2, 3, ... clicks of its own; in both, sessions find their windows by
#   themselves;
# - 2D, *per slice*: N, 2N, 3N, a click in each slice that holds tumour. Which slices do, only this user is told;
# - a threshold, one by one (41 % of the hottest voxel nearby), and without any click (SUV 4 everywhere).
#
# **Zero-shot** is a claim about training, so say it with the name: `tiny-organs` and `tiny-2d-organs` learned from the
# same patients, none of whom had a lesion; `tiny-base` and `tiny-2d` saw simulated lesions of other patients. All of
# them learned from phantoms only.

# %%
networks = list(dict.fromkeys([model_3d, *others, model_2d]))
# One table for each setting: the same setting goes on where it was stopped.
own_table = "_".join([*(Path(name).stem for name in networks), f"{clicks}_{clicks_at_once}_{min_volume_ml:g}.csv"])
table = sap.analyse_tumours(
    cases, networks, clicks=clicks, clicks_at_once=clicks_at_once, min_volume_ml=min_volume_ml,
    totalsegmentator=organs_from, output=output / own_table, reports=output,
)  # fmt: skip
summary = sap.summarise_tumours(table)
shown = summary[summary["click"].isin([0, 1, 3, clicks, clicks_at_once])]
columns = ["model", "lesions_in_training", "prompting", "click", "total_clicks", "dsc", "dsc_low", "dsc_high",
           "fpv_ml", "fnv_fraction", "f1", "lesion_dsc"]  # fmt: skip
with_lesions = table.loc[table["lesions"] > 0, "patient"].nunique()
print(f"DSC: means over {with_lesions} patients with lesions; intervals: 95 % bootstrap; lesion_dsc: lesions from 3 mL")
print(shown[columns].round(2).to_string(index=False))

# %% [markdown]
# Mind the intervals. Who resamples three patients often draws one of them three times, so an interval over three runs
# from the worst patient to the best, and holds the true mean about three times in four instead of 95 times in 100
# (simulated for normal values). Read it as a range. Ask for more phantoms, or see `benchmarks/tumours.md` in the
# repository: its eight hold the mean about nine times in ten.
#
# Look at `41% SUVmax, from hottest`, too: single lesions are fair, all together are poor, and yet its FPV is small.
# Around a faint lesion it leaks into whole organs; but FPV counts pieces that touch *no* lesion, and a leak touches
# one. The MTV further down tells.
#
# Now drawn, DSC of all lesions together against all clicks on a scan:

# %%
_, ax = plt.subplots(figsize=(9, 5), layout="constrained")
styles = {"all at once": "o:", "one by one": "^--", "per slice": "s-"}
colours = dict(zip(summary["model"].unique(), COLOURS, strict=False))
with_clicks = summary[summary["prompting"] != "no click"]
for (name, prompting), rows in with_clicks.groupby(["model", "prompting"], sort=False):
    look = {"color": colours.get(name, "black"), "markersize": 4}
    ax.plot(rows["total_clicks"], rows["dsc"], styles[prompting], label=f"{name}, {prompting}", **look)
for style, (_, row) in zip((":", "-.", "--"), summary[summary["prompting"] == "no click"].iterrows(), strict=False):
    ax.axhline(row["dsc"], linestyle=style, color="grey", label=f"{row['model']}, no click")
ax.set(xscale="log", xlabel="clicks on a scan, all lesions", ylabel="DSC, all lesions", ylim=(0, 1))
ax.grid(alpha=0.3)
_ = ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))

# %% [markdown]
# ### 2D less 3D
#
# The supplement's comparison sets N clicks against 1: `matched` *rounds*. The other sets 2D against the last round of
# 3D that took *no more* clicks than 2D did: `matched` *clicks*. 3D stops at `clicks_at_once`, or at `clicks` a lesion,
# so 2D still has up to forty times as many; where 3D is ahead in such a row, it is so in spite of that, and where 2D
# is, it may be because of it. Positive: 2D is better. **Which sign do you expect in each row?**

# %%
differences = pd.concat([
    sap.two_d_against_three_d(table, model_2d, model_3d, prompting).assign(three_d=prompting)
    for prompting in table.loc[table["model"] == model_3d, "prompting"].unique()
])  # fmt: skip
print(f"DSC of {model_2d} less DSC of {model_3d}, patient by patient")
print(differences.round(2).to_string(index=False))

# %%
published = sap.published(table=5)
print("published, Table 5: whole tumour burden of AutoPET, DSC after each round (SAM, MedSAM in 2D; the others in 3D)")
print(published.pivot_table(index="model", columns="click", values="dsc", sort=False).round(2).to_string())

# %% [markdown]
# Read both side by side, but do not compare the numbers: other networks, other patients. Compare the *order*. With
# rounds matched and all lesions as one object, is 2D ahead here, as it is there from the third round on? What is left
# of it at no more clicks? And how much do clicks on each lesion change?
#
# ## What makes a lesion hard
#
# One by one, each lesion has a DSC. Against its volume, its heat, the clicks that it got, and by network:

# %%
single = table[(table["prompting"] == "one by one") & (table["lesion"] != "all")]
of_network = single[single["model"] == model_3d]
figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained", sharey=True)
for colour, number in zip(COLOURS, sorted({1, clicks}), strict=False):
    rows = of_network[of_network["click"] == number]
    for ax, cause in zip(axes, ("volume_ml", "suv_max"), strict=False):
        ax.plot(rows[cause], rows["dsc"], "o", markersize=4, alpha=0.7, color=colour, label=f"{number}")
axes[0].set(xscale="log", xlabel="volume of the lesion (mL)", ylabel="DSC of the lesion", ylim=(-0.02, 1.02))
axes[1].set(xlabel="its SUVmax (g/mL)")
axes[0].legend(title="clicks")
sizes = pd.cut(single["volume_ml"], [0, 1, 3, 10, np.inf], labels=["< 1", "1 to 3", "3 to 10", "> 10"])
for colour, (name, rows) in zip(COLOURS, of_network.groupby(sizes, observed=True), strict=False):
    axes[2].plot(rows.groupby("click")["dsc"].mean(), "o-", color=colour, label=name)
axes[2].set(xlabel="clicks on the lesion", xticks=range(1, clicks + 1))
axes[2].legend(title="volume (mL)")
for ax in axes[:3]:
    ax.set_title(model_3d)
by_size = single[single["click"] == clicks].pivot_table(
    index="model", columns=sizes, values="dsc", observed=True, sort=False
)
by_size = by_size[[size for size in sizes.cat.categories if size in by_size]]
for name, row in by_size.iterrows():
    axes[3].plot(row.index.astype(str), row, "o-", color=colours[name], label=name)
axes[3].set(xlabel="volume of the lesion (mL)", title=f"after {clicks} clicks")
axes[3].legend()
print(f"mean DSC of single lesions after {clicks} clicks, by volume in mL")
print(by_size.round(2).to_string())

# %% [markdown]
# Are small lesions hard because they are small? There are reasons: few voxels, blurred edges
# ([partial volume](glossary.md#partial-volume-effect)), a truth that is itself a matter of a voxel. But compare the
# networks. `tiny-organs` never saw a lesion and draws small ones far too large; `tiny-base` minds far less. It saw
# simulated lesions, from the same simulator as those here, and it learned longer. So size alone does not explain the
# slope in the first panel; training does for the larger part. Which of the two would you call zero-shot, and which
# would you rather use?
#
# ## Burden: MTV and TLG
#
# Oncologists do not ask for DSC, they ask how much tumour there is. Agreement of each lesion's MTV and of its TLG with
# the truth ([Bland-Altman](glossary.md#bland-altman-plot); first: the network, second: the truth), in per cent of the
# mean of both: +100 % is three times as large.

# %%
last = of_network[(of_network["click"] == clicks) & (of_network["mtv_ml"] > 0)]
if len(last) < 3:
    print(f"Skipped: limits of agreement need at least 3 lesions; there are {len(last)}.")
else:
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for ax, (column, unit) in zip(axes, {"mtv_ml": "mL", "tlg": "SUV mL"}.items(), strict=True):
        name = column.split("_")[0].upper()
        agreement = sap.bland_altman_of(
            last[column], last[f"true_{column}"], quantity=name, unit=unit, relative=True
        )  # fmt: skip
        sap.plot_bland_altman(agreement, ax=ax)
        print(agreement.text)

# %%
burden = table[(table["lesion"] == "all") & table["click"].isin([0, clicks])]
burden = burden[["case", "model", "prompting", "mtv_ml", "true_mtv_ml", "tlg", "true_tlg"]]
print(burden.round(0).to_string(index=False))

# %% [markdown]
# The points make a funnel: small lesions scatter more widely than large ones, and most of them are drawn too large. One
# pair of limits cannot describe both ends. And lesions of one patient resemble each other, so the intervals around bias
# and limits, which take every lesion for a witness of its own, are too narrow.
#
# Now the sum over a patient. Large lesions carry the burden, but one mask that leaked into an organ can outweigh them
# all, and DSC of single lesions, a mean, hides it. Do errors cancel? Only where their signs differ; for MTV most have
# one sign here, and add up. Where they do cancel, it is luck, not accuracy.
#
# ## The reading room, and what healthy organs do to it
#
# Without any click a threshold calls everything hot tumour: brain, bladder, heart, kidneys, bowel. The
# [false positive volume](glossary.md#fpv-and-fnv) says how much of it lies in pieces that touch no lesion; an organ
# that a lesion touches is left out of it, so `false_ml` here counts every voxel outside of lesions. Two remedies: know
# the organs, or click once on each of them.
#
# And is 4 the right number? [PERCIST](glossary.md#percist) asks the patient's own liver: 1.5 times its mean plus 2 of
# its SD, in SUL, is what a lesion's SULpeak must reach to be measured (it takes a liver label and the patient's weight,
# height and sex). It was not made to draw contours; used for that, it shows what a lower threshold trades.

# %%
masks = {"SUV>=4": sap.hot_mask(pet, 4.0)}
organs = scan.physiology
if organs is not None:
    masks["SUV>=4, organs cut out"] = masks["SUV>=4"] & ~organs
    masks["SUV>=4, no hot organs"] = sap.without_physiology(pet, masks["SUV>=4"], organs)
    not_this = [click.ijk for click in background_clicks(pet, organs)]  # as a reader clicks who knows anatomy
    clicked_organs = physiology_from_clicks(pet, not_this)
    if clicked_organs.any():
        masks[f"SUV>=4, {len(not_this)} clicks"] = sap.without_physiology(pet, masks["SUV>=4"], clicked_organs)
if isinstance(cases[0], InMemoryCase):
    phantom = next(case for case in cases if case.name == scan.name)
    liver = sap.liver_reference(pet, phantom.organs == 1, exclude=truth)
    print(liver.text)
    print(f"PERCIST's threshold is SUVbw {liver.rule.suvbw:.2f} in this patient")
    masks["PERCIST"] = sap.hot_mask(pet, liver.rule)
    masks["PERCIST, no hot organs"] = sap.without_physiology(pet, masks["PERCIST"], organs)
scores = {name: lesion_scores(mask, truth, pet.data, pet.voxel_volume_ml) for name, mask in masks.items()}
alarms = pd.DataFrame(scores).T
alarms["false_ml"] = {name: np.count_nonzero(mask & ~truth) * pet.voxel_volume_ml for name, mask in masks.items()}
print(alarms[["dsc", "fpv_ml", "false_ml", "fnv_ml", "f1", "mtv_ml", "true_mtv_ml"]].round(2).to_string())
if isinstance(cases[0], InMemoryCase):
    left = masks["SUV>=4, no hot organs"] & ~truth
    tissues = pd.Series(phantom.anatomy[left]).map(phantom.anatomy_names).value_counts() * pet.voxel_volume_ml
    print("what is left and no lesion lies in:", ", ".join(f"{name} {ml:.0f} mL" for name, ml in tissues[:4].items()))

# %%
figure, axes = plt.subplots(2, 3, figsize=(12, 13), layout="constrained")
for ax, (name, mask) in zip(axes.flat, masks.items(), strict=False):
    sap.show_mip(pet, {"found": mask, "lesions": truth}, ax=ax)
    ax.set_title(name)
for ax in axes.flat[len(masks):]:
    ax.set_axis_off()

# %% [markdown]
# Cutting an organ out at its border leaves a rim, because the scanner blurs the organ over its border: little volume,
# many false findings, a low F1. `without_physiology` lets each voxel go with its own peak instead: what climbs to a
# peak in the bladder is bladder, what climbs to a peak beside it is not. A node against the bladder stays if it has a
# peak of its own. If the bladder's blur drowns it, it is lost: compare FNV before and after, which is the price.
#
# A click speaks for one peak, and for what hangs on it at half its uptake or more: it can leave half a heart, or take a
# lesion along. PERCIST's lower threshold finds faint lesions (FNV) and more healthy tissue (`false_ml`).
#
# Bowel is left, since the list of hot organs leaves it out: lesions lie in it and around it, and nobody would find them
# again. In the projection it covers the bladder, which may look as if that had stayed.
#
# ## autoPET's interactive protocol
#
# The autoPET IV challenge gives foreground and background clicks *in advance*, in a file, ten of each, and measures
# after 0, 1, ..., 10 of them. Nobody looks at the mask before the next click. We write such a file, read by any
# contestant, and follow the protocol with one object and with one for each lesion. The clicked lesions are drawn by
# chance, so the bound of a perfect network is another one here: it finds those that are clicked. `auc` is the area over
# the ten steps: of DSC at most 10, of volumes in mL times steps. A background click only matters where a mask holds it.

# %%
given = simulate_autopet_clicks(truth, pet, count=10, seed=0)
write_autopet_clicks(output / f"{scan.name}_clicks.json", given)
_, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for number, objects in enumerate(("single", "per_lesion")):
    steps = interactive_steps(sap.Session(network, pet, **fine), given, truth, objects=objects)
    ax.plot(steps["step"], steps["dsc"], "o-", color=COLOURS[number], label=f"{model_3d}, objects={objects!r}")
    scores = {name: round(value, 2) for name, value in interactive_scores(steps)._asdict().items()}
    print(f"objects={objects!r}: {scores}")
hit = [{int(instances[ijk]) for ijk in given.tumor[:step]} for step in range(11)]
hit_ml = np.array([sum(volumes_ml[number - 1] for number in numbers) for numbers in hit])
ax.plot(range(11), 2 * hit_ml / (hit_ml + volumes_ml.sum()), ":", color="grey", label="perfect network, these clicks")
ax.set(xlabel="clicks of each kind, given in advance", ylabel="DSC, all lesions", ylim=(0, 1))
ax.grid(alpha=0.3)
_ = ax.legend()

# %% [markdown]
# A click can lower DSC: a small lesion that is drawn far too large costs more than it brings. And a lesion that nobody
# clicked, no network can mend.
#
# ## Real tumours
#
# Twelve soft-tissue sarcomas of real patients (public; `sap.samples.fetch` gets one with a network) are cut out around
# a single tumour, so they say nothing about scatter, but they are real. They were never trained on. Where they lie
# beside the repository, two are looked at:

# %%
beside = Path(os.environ.get("SEGANYPET_REAL_DATA", "../../shared/data")) / "sts"
rows = []
for number in (2, 3):
    folder = beside / f"STS_{number:03d}"
    if not folder.is_dir():
        continue
    sarcoma = sap.load_volume(folder / "PET_image.nii.gz", unit="SUVbw")
    drawn = sap.load_labels(folder / "PET_mask.nii.gz", like=sarcoma) > 0
    scores = sap.evaluate(
        [InMemoryCase(folder.name, folder.name, sarcoma, lesions=drawn)], [model_3d, *others], clicks=5,
        targets=["lesions"], rules=["41% SUVmax, from hottest"], progress=False,
    )  # fmt: skip
    rows.append(scores[scores["click"].isin([1, 3, 5])])
    first = first_click(drawn, spacing=sarcoma.spacing)
    answer = sap.Session(network, sarcoma).click(ijk=first.ijk)
    masks = {"drawn by an expert, on MR and CT": drawn, f"{model_3d}, one click": answer}
    axes = sap.show_slices(sarcoma, masks, clicks=[first])
    axes[0].figure.suptitle(folder.name)
if rows:
    print(pd.concat(rows).pivot_table(index=["case", "model"], columns="click", values="dsc").round(2).to_string())
else:
    print("Skipped: no folder sts; set SEGANYPET_REAL_DATA to a folder that holds it.")

# %% [markdown]
# Two patients are an anecdote. On eight others, measured in `benchmarks/tumours.md`, the network that never saw a
# lesion is behind a threshold of 41 % after one click and ahead of it after five, with intervals that exclude 0; the
# other one cannot be told from it either time. A tumour with a cold core is where a threshold must fail and a shape
# could help.

# %% [markdown]
# ## A page for each case
#
# The comparison also wrote one self-contained page for each case, of the first 3D network: the projection, the lesions,
# their table, every click, and which versions made it. Open it in a browser; nothing in it asks any host.

# %%
for page in sorted(output.glob("*.html")):
    print(page, f"{page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## When it goes wrong
#
# "SUV 4" means nothing in Bq/mL: a whole scan lies above 4. A library that thresholds whatever number it gets would
# call the patient one tumour. Ours asks for the unit:

# %%
in_becquerel = sap.Volume(pet.data * 2000.0, pet.affine, "Bq/mL", source="the same scan in Bq/mL")
try:
    sap.hot_mask(in_becquerel, 4.0)
except sap.SegAnyPETError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check that tells you what may be wrong. This edition holds the solutions: cover them first.
#
# **1. The bound.** Three lesions of 60, 30 and 10 mL. Write `bound(volumes_ml, clicks)`: the best DSC over all lesions
# that any network can have if each click draws one lesion and nothing else.

# %% tags=["solution"]
largest_first = {"reverse": True}  # for sorted()


def bound(volumes_ml: list[float], clicks: int) -> float:
    """The best DSC after some clicks, a lesion each."""
    found = sum(sorted(volumes_ml, **largest_first)[:clicks])
    return 2 * found / (found + sum(volumes_ml))


# %%
answer = bound([10, 60, 30], 1)
assert isinstance(answer, int | float | np.number), "Hint: return one number."
assert not np.isclose(answer, 0.6), "Hint: 0.6 is the share found; DSC is 2 found / (found + all)."
assert not np.isclose(answer, 20 / 110), "Hint: begin with the largest lesion."
assert np.isclose(answer, 120 / 160), "Hint: after one click 60 mL of 100 mL are found."
assert np.isclose(bound([10, 60, 30], 2), 180 / 190), "Hint: after two clicks 90 mL are found."
assert np.isclose(bound([10, 60, 30], 9), 1), "Hint: after all lesions it is 1, and stays there."
print(f"Right: {answer:.2f} after one click")

# %% [markdown]
# **2. Equal clicks.** A scan has 24 lesions in 96 axial slices that hold tumour. How many clicks does *one by one*
# spend on each lesion, at most, if it may spend no more than 2D's N, a click in each of these slices?

# %% tags=["solution"]
my_clicks = 96 // 24

# %%
assert my_clicks != 96, "Hint: that is N, for the whole scan."
assert my_clicks != 96 * 24, "Hint: divide."
assert my_clicks == 4, "Hint: N clicks, shared by 24 lesions."
print(f"Right: {my_clicks} clicks on each")

# %% [markdown]
# **3. False alarms.** `components` holds, for each connected piece that a threshold found: its volume in mL, and how
# many of its voxels lie in a true lesion. Compute the false positive volume as autoPET does.

# %%
components = pd.DataFrame({"volume_ml": [12.0, 230.0, 3.5, 1400.0, 8.0], "voxels_in_lesions": [90, 0, 1, 0, 40]})
print(components.to_string())

# %% tags=["solution"]
my_fpv_ml = components.loc[components["voxels_in_lesions"] == 0, "volume_ml"].sum()

# %%
assert isinstance(my_fpv_ml, int | float | np.number), "Hint: one number, in mL."
assert my_fpv_ml != 2, "Hint: volume, not number."
assert my_fpv_ml != 1653.5, "Hint: that is all that was found."
assert my_fpv_ml != 1633.5, "Hint: one voxel in a lesion is enough for a piece not to count."
assert np.isclose(my_fpv_ml, 1630.0), "Hint: the pieces that touch no lesion at all."
print(f"Right: {my_fpv_ml:.0f} mL; DSC alone would not tell a brain from a blurred edge")

# %% [markdown]
# ## On your AutoPET folder
#
# One command for the whole folder, resumable, with a page for each case (weights are downloaded once, under their
# owners' licences):
#
# ```
# seganypet lesions FDG-PET-CT-Lesions --models seganypet-v1 sam-vit-b \
#     --clicks 5 --totalsegmentator TotalSegmentator --output tumours.csv --reports reports
# ```
#
# ## Who says what
#
# - **Published:** Table 5, and that scattered tumours are why; N, 3N and 5N; instance-level lesions as future work; the
#   protocol of autoPET IV; PERCIST; 41 %.
# - **Ours:** one by one, windows that follow, suggestions, and that a voxel goes with its peak.
# - **Measured here:** every number that a cell printed but those of Table 5 and of the exercise on false alarms, with
#   networks trained here on phantoms.
#
# ## What you take home
#
# - Who draws a lesion a click is bounded by the disease, before any network is chosen. Compute the bound first.
# - Compare at equal effort, patient by patient, with an interval. Change one thing at a time: clicks, or windows.
# - FPV, FNV and F1 say what DSC hides, and hide what DSC shows. Burden is what the clinic asks for.
# - "Zero-shot" needs a sentence about the training.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, supplement C.3, Fig. 5, Table 5.
# - Gatidis et al., *A whole-body FDG-PET/CT dataset with manually annotated tumor lesions*, Sci Data 9, 2022; autoPET
#   IV, autopet-iv.grand-challenge.org.
# - Wahl et al., *From RECIST to PERCIST*, J Nucl Med 50, 2009. Boellaard et al., *FDG PET/CT: EANM procedure
#   guidelines*, EJNMMI 42, 2015.
# - Vallières et al., soft-tissue sarcoma, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.7GO2GSKS.
#
# *Not for clinical use.*
