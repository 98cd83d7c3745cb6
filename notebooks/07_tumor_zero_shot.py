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
# # Tumours, zero-shot: one click, many lesions
#
# A liver is one thing in one place. Cancer that has spread is thirty things in thirty places, some as large as a plum
# and some as a pea. The article's supplement found that its own 3D network, ahead on organs, loses its lead here:
# level with slice-by-slice SAM after one round of clicks, behind it after three and five. Why? And what would help?
#
# **You will be able to**
#
# - compute how far a few clicks can get if each of them draws one lesion;
# - click [lesions](glossary.md#lesion) one by one, in windows that fit them;
# - compare 2D and 3D at no more clicks, with intervals, whichever way it goes;
# - say what [zero-shot](glossary.md#zero-shot) may be called.
#
# **Before you start:** lessons 0 and 4.
#
# **Time:** about 2 minutes to run on two cores of a laptop, 40 minutes to read and click; 2 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 7 of 9; previous: [6 Train and compare](06_training.ipynb); next: [8 Tumour burden](08_tumor_burden.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
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
from seganypet.lessons.pictures_prompts import ceiling, window_view
from seganypet.pet.plots import COLOURS
from seganypet.prompting.simulate import first_click
from seganypet.study.lesion_clicks import prompt_one_by_one
from seganypet.study.protocol import ClickProtocol
from seganypet.study.tumour_scan import TumourScan

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = ""  # a cohort.csv, an AutoPET or an nnU-Net folder, with lesions; empty: phantoms
phantom_seeds: list = [501, 502]  # of disseminated disease; 10000 and above were trained on
model_3d: str = "tiny-organs"  # or "tiny-base", "seganypet-v1", "seganypet-lesion", a path
model_2d: str = "tiny-2d-organs"  # or "tiny-2d", "sam-vit-b", "medsam-vit-b", a folder
others: list = ["tiny-base"]  # more 3D networks for the comparison
clicks: int = 3  # on each lesion, and in each slice
clicks_at_once: int = 10  # where all lesions are one object
min_volume_ml: float = 0.0  # smaller lesions are not clicked one by one
totalsegmentator_dir: str = ""  # TotalSegmentator's output for the cases, for brain and bladder
output_dir: str = "../out"  # everything is written here

# %%
sap.check_parameters(globals())
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
# ## Your hand first: five clicks for all of it
#
# All lesions are *one object*, as in the supplement's table. **How far do you get with five clicks?** Choose them
# well: which lesions first?

# %%
network = sap.load_model(model_3d)
one_object = sap.Session(network, pet)
one_object.select("all lesions")
sap.ClickWidget(one_object, truth={"all lesions": truth}, goal=0.5)

# %%
if not one_object.objects:
    print("Nobody clicked: a program takes the five largest.")
    for number in range(1, min(count, 5) + 1):
        one_object.click(ijk=first_click(instances == number, spacing=pet.spacing).ijk)
made = len(one_object.clicks)
print(f"{made} clicks: DSC {sap.dice(one_object.mask, truth):.2f} over all lesions")

# %% [markdown]
# ## Why one click cannot do it
#
# Suppose a perfect network: each click segments the lesion that it hits, without one wrong voxel, and the user always
# clicks the largest that is left. What is the best [DSC](glossary.md#dsc) over the whole scan after k clicks?
# DSC = 2 |found| / (|found| + |all|). **Predict the value after one click, then run:**

# %%
found_ml = np.cumsum(volumes_ml)
ceiling_dsc = 2 * found_ml / (found_ml + volumes_ml.sum())
print(f"a perfect network: {ceiling_dsc[0]:.2f} after one click, {ceiling_dsc[min(2, count - 1)]:.2f} after three")
print(f"DSC 0.9 needs {np.argmax(ceiling_dsc >= 0.9) + 1} clicks, all {count} lesions {count}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 5.5), layout="constrained")
sap.show_mip(pet, {f"after {made} clicks": one_object.mask, "lesions": truth}, ax=axes[0])
axes[1].plot(np.arange(1, count + 1), ceiling_dsc, color=COLOURS[0], label="perfect network, a lesion a click")
axes[1].plot(made, sap.dice(one_object.mask, truth), "o", color=COLOURS[1], label="your clicks")
axes[1].set(xlabel="clicks", ylabel="DSC, all lesions", ylim=(0, 1.02))
axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
axes[1].grid(alpha=0.3)
_ = axes[1].legend(loc="lower right")

# %% [markdown]
# **Drag:** what makes the bound low, many lesions or even ones? How many clicks does DSC 0.9 take for 20 lesions of
# one size?

# %%
ceiling()

# %% [markdown]
# With one, three or five points *for all tumours together*, as 3D had in the supplement, whoever draws one lesion a
# click is bounded by the disease, before any network comes in. That is a part of the answer, not all of it: networks
# stay below the bound, and a threshold, which needs no click, is not bound by it. The 2D networks there had N, 3N and
# 5N points, one to five in *every* slice with tumour: dozens to hundreds, so most lesions get some. That is not
# dimension against dimension, it is few clicks against many. Below, both are counted.

# %% [markdown]
# ## A window as fine as the lesion
#
# The second obstacle is size. The embedded 3D networks look at 64 voxels of 4 mm and draw [logits](glossary.md#logits)
# of 8 mm. **Drag the voxels finer:** when does the largest lesion become something that one could outline, and what
# leaves the picture?

# %%
config = network.config
window_view(pet, first_click(instances == 1, spacing=pet.spacing).ijk, config.window_size, config.logits_size)

# %% [markdown]
# Nobody tells a session how large the thing is that you click, so it finds out by itself. At the first click it looks
# at two sizes, and the [window](glossary.md#window) follows to the middle of what was found, with voxels down to 1.5
# mm. There the network clicks in its own mask, where that is deep and far from your click, as long as the mask grows
# by it, and of all these answers the session keeps the one whose edge is the clearest. A hot spot that stands alone, of
# 1 mL or more, comes before them all. It can be wrong: a network that draws a lesion far too large makes it look from
# afar. You know that you will click lesions and no livers, and may fix the sizes: `spacing_mm=2.0` and
# `min_spacing_mm=1.5`.
#
# Every lesion of this scan now gets the same number of clicks in three ways: in windows *as trained*, of one size; as
# the session finds them *by itself*; and *by hand*. **Which will be best for small lesions, and which at the first
# click?**

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
each.pivot_table(index=["look", size], columns="click", values="dsc", sort=False).round(2)

# %% [markdown]
# Compare the rows in pairs. What does a fixed size cost that suits livers? And is there a click that does not help?
# One lesion in pictures, that with the median gain *by hand* over *as trained* after the last click:

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
# What the supplement leaves to the future: instances. Each lesion becomes an object of its own, with clicks of its
# own. `suggest_click` points to the hottest spot that is neither segmented nor a healthy organ. It is a suggestion:
# you decide. Press *Next suggestion*, look at the spot in three planes, and click if you believe it (**Add object**
# before the next lesion). It never points to what is colder than SUV 4: when it is done, faint lesions may be left.

# %%
by_hand = sap.Session(network, pet, **fine)
by_hand.select("lesion_01")
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
if not by_hand.objects:
    print("Nobody clicked: a program accepts the first suggestions.")
    for number in range(1, 4):
        suggestion = sap.suggest_click(pet, by_hand.masks, physiology=scan.physiology)
        if suggestion is not None:
            by_hand.select(f"lesion_{number:02d}")
            by_hand.click(ijk=suggestion.ijk)
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
    totalsegmentator=organs_from, output=output / own_table,
)  # fmt: skip
summary = sap.summarise_tumours(table)
shown = summary[summary["click"].isin([0, 1, 3, clicks, clicks_at_once])]
columns = ["model", "lesions_in_training", "prompting", "click", "total_clicks", "dsc", "dsc_low", "dsc_high"]
with_lesions = table.loc[table["lesions"] > 0, "patient"].nunique()
print(f"DSC: means over {with_lesions} patients with lesions; intervals: 95 % bootstrap; lesion_dsc: lesions from 3 mL")
shown[columns].round(2)

# %% [markdown]
# Mind the intervals. Who resamples two or three patients often draws one of them each time, so an interval over them
# runs from the worst patient to the best, and holds the true mean far less often than 95 times in 100. Read it as a
# range. Ask for more phantoms, or see `benchmarks/tumours.md` in the repository: its eight hold the mean about nine
# times in ten.
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
differences.round(2).head(6)

# %%
published = sap.published(table=5)
print("published, Table 5: whole tumour burden of AutoPET, DSC after each round (SAM, MedSAM in 2D; the others in 3D)")
published.pivot_table(index="model", columns="click", values="dsc", sort=False).round(2)

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
by_size.round(2)

# %% [markdown]
# Are small lesions hard because they are small? There are reasons: few voxels, blurred edges
# ([partial volume](glossary.md#partial-volume-effect)), a truth that is itself a matter of a voxel. But compare the
# networks. `tiny-organs` never saw a lesion and draws small ones far too large; `tiny-base` minds far less. It saw
# simulated lesions, from the same simulator as those here, and it learned longer. So size alone does not explain the
# slope in the first panel; training does for the larger part. Which of the two would you call zero-shot, and which
# would you rather use?

# %% [markdown]
# ## When it goes wrong
#
# A click can find nothing: in the air beside the patient, for instance. An error would stop a study, and an empty mask
# without a word would pass for a bad network. So the session answers, and says why:

# %%
empty = sap.Session(network, pet)
mask = empty.click(ijk=(0, 0, 0))
print(f"{mask.sum()} voxels. {empty.notice}")


# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. The bound.** Three lesions of 60, 30 and 10 mL. Write `bound(volumes_ml, clicks)`: the best DSC over all lesions
# that any network can have if each click draws one lesion and nothing else.

# %% tags=["solution"]
def bound(volumes_ml: list[float], clicks: int) -> float:
    """The best DSC after some clicks, a lesion each."""
    found = sum(sorted(volumes_ml, reverse=True)[:clicks])
    return 2 * found / (found + sum(volumes_ml))


# %%
sap.check("7.bound", bound)

# %% [markdown]
# **2. Equal clicks.** A scan has 24 lesions in 96 axial slices that hold tumour. How many clicks does *one by one*
# spend on each lesion, at most, if it may spend no more than 2D's N, a click in each of these slices?

# %% tags=["solution"]
my_clicks = 96 // 24

# %%
sap.check("7.equal", my_clicks)

# %% [markdown]
# **3. By hand: four lesions.** In the widget with suggestions, four objects that are lesions (DSC 0.3 or more with
# one). A suggestion is no proof: look before you click, and remove (x) what is none.

# %% tags=["solution"]
for name in by_hand.objects:
    by_hand.remove(name)
for number in range(1, min(count, 10) + 1):
    by_hand.select(f"lesion_{number:02d}")
    click = first_click(instances == number, spacing=pet.spacing)
    for _ in range(3):
        drawn = by_hand.click(ijk=click.ijk, foreground=click.foreground)
        click = sap.next_click(instances == number, drawn, spacing=pet.spacing)
        if click is None:
            break

# %%
sap.check("7.hand", by_hand, instances=instances)

# %% [markdown]
# **4. Change and explain.** In the window above, at voxels of 4 mm: how many mL is one voxel of the answer? And what
# follows for a lesion of 1 mL? Answer with both, such as `(1.5, "a")`.
#
# - a: It is one or two voxels there, and no outline can be right.
# - b: It does not fit into the window.
# - c: It drowns in noise.

# %% tags=["solution"]
my_voxel_ml = (0.512, "a")

# %%
sap.check("7.window", my_voxel_ml)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** 2D wins Table 5 after five rounds. Is 2D better for tumours?
#
# <details><summary>Answer</summary>
#
# It had N, 3N and 5N points: one to five in every slice with tumour, dozens to hundreds. That is many clicks against
# few. At no more clicks the order can be another one.
#
# </details>
#
# **2.** A network is called zero-shot on lesions. What do you ask?
#
# <details><summary>Answer</summary>
#
# What it was trained on. A network that saw simulated lesions is not zero-shot for lesions, even if it never saw a
# real one.
#
# </details>
#
# **3.** Which lesions does a user with three clicks take?
#
# <details><summary>Answer</summary>
#
# The largest: DSC over all lesions counts voxels. A user who cares for the number of lesions would choose others, and
# needs another measure (F1).
#
# </details>

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

# %% [markdown]
# ## What you take home
#
# - Who draws a lesion a click is bounded by the disease, before any network is chosen. Compute the bound first.
# - Compare at equal effort, patient by patient, with an interval. Change one thing at a time: clicks, or windows.
# - "Zero-shot" needs a sentence about the training.
#
# ## Who says what
#
# - **Published:** Table 5, and that scattered tumours are why; N, 3N and 5N; instance-level lesions as future work.
# - **Ours:** one by one, windows that follow, suggestions.
# - **Measured here:** every number that a cell printed but those of Table 5, with networks trained here on phantoms.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, supplement C.3, Fig. 5, Table 5.
# - Gatidis et al., *A whole-body FDG-PET/CT dataset with manually annotated tumor lesions*, Sci Data 9, 2022.
#
# *Lesson 7 of 9; previous: [6 Train and compare](06_training.ipynb); next: [8 Tumour burden](08_tumor_burden.ipynb)*
#
# *Not for clinical use.*
