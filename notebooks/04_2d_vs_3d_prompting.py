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
# # 2D against 3D: clicks slice by slice, or once for all
#
# SAM and MedSAM know pictures, not bodies: to segment a liver they need a click in every slice of it. A 3D network
# needs one. Is that worth a network of its own? Here you click both ways, count what each click buys, and see how an
# evaluation can flatter.
#
# **You will be able to**
#
# - say what happens in each workflow, from your own clicks;
# - count effort honestly: [clicks](glossary.md#click) per slice, clicks per scan, seconds;
# - read a table of DSC by [seen and unseen organs](glossary.md#seen-and-unseen-organ) and by
#   [scanner](glossary.md#internal-and-external-test);
# - see how an evaluation flatters a network without one false number.
#
# **Before you start:** lesson 0. What the network is trained on is lesson 6.
#
# **Time:** about 2 minutes to run on two cores of a laptop, half an hour to read and click; 2 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 4 of 9; previous: [3 Labels and cohorts](03_data_exploration_cohorts.ipynb); next: [5 Doubtful labels and
# CPCL](05_training_doubtful_labels.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

import seganypet as sap
from seganypet.cohort.case import CTCase
from seganypet.lessons.pictures_prompts import best_of_many, effort_curves, window_view
from seganypet.organs import ORGANS
from seganypet.pet import views
from seganypet.pet.registration import apply_transform, register_rigid
from seganypet.prompting.simulate import first_click
from seganypet.prompting.slicewise import SliceSession

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = "../data_samples/cohort.csv"  # a cohort.csv, an AutoPET or an nnU-Net folder; with organ labels
model_2d: str = "tiny-2d"  # or "sam-vit-b", "medsam-vit-b", a folder: downloaded, and slow without a GPU
models_3d: list = ["tiny-base", "tiny"]  # or "sam-med3d-turbo", "seganypet-v1", a path
rules: list = ["band"]  # what a network must beat: thresholds from the same clicks, "random_walker"
organ: str = "liver"  # the organ that is looked at closely
targets: list = ["liver", "spleen", "aorta", "lung_lower_lobe_left"]  # empty: all twelve organs
rounds: int = 3  # rounds of clicks; 5 as in the article
grid_mm: float = 32.0  # distance of the clicks in "Where you click"
processes: int = 1  # cases at the same time
output_dir: str = "../out"  # everything is written here

# %%
sap.check_parameters(globals())
assert rounds >= 1, f"rounds={rounds}: at least 1."
output = Path(output_dir) / "2d_vs_3d"
output.mkdir(parents=True, exist_ok=True)
wanted = list(targets) or list(ORGANS)

# %% [markdown]
# ## Load, and look

# %%
cohort = sap.Cohort.from_path(data)
case = next((one for one in cohort if one.organs), None)
assert case is not None, f"data={data!r}: no case has organ labels; Cohort.with_organs adds them."
pet = case.load_pet()
truths = dict(case.targets(pet, [organ, "spleen"]))
truth = truths[organ]
assert truth.any(), f"organ={organ!r} is not in {case.name}; take another."
network_2d = sap.load_model(model_2d)
networks_3d = {name: sap.load_model(name) for name in models_3d}
network_3d = networks_3d[models_3d[-1]]
axis = [ras_axis for ras_axis, _ in views.ras_axes(pet)].index(2)  # of the array: from feet to head
holding = np.flatnonzero(truth.any(tuple({0, 1, 2} - {axis})))
print(f"{case.name}: {pet.shape} voxels; the {organ} spans {len(holding)} axial slices")
print(f"2D: {network_2d.name}, {network_2d.image_size} x {network_2d.image_size} pixels")
print(f"3D: {network_3d.name}, {network_3d.config.window_size}^3 voxels of {network_3d.config.spacing_mm:g} mm")

# %% [markdown]
# Who is who? `tiny-2d` is a small SAM, trained here on axial slices of phantoms; `tiny-base` saw these phantoms in
# 3D, and others, with more than twice as many clicks; `tiny` is an earlier `tiny-base`, trained on for five organs,
# while a third of its windows rehearsed what that one knew. They stand in for SAM, SAM-Med3D and SegAnyPET, so that
# this lesson runs offline. What they reach says something about the *workflows*; it says nothing about the published
# networks, which you can name in the parameters. **Seen** are the five organs of `tiny` (and of SegAnyPET);
# `tiny-base` and `tiny-2d` were trained on all twelve, in other phantoms.
#
# ## Your hand first: five clicks each way
#
# The same scan twice: slices on the left, 3D on the right. **Give each five clicks** on the organ. On the left a click
# decides the slice, and the network sees that slice alone. Which score is higher? What would a perfect hand need on
# the left?

# %%
by_hand = {"2D": SliceSession(network_2d, pet), "3D": sap.Session(network_3d, pet)}
sides = []
for name, session in by_hand.items():
    session.select(organ)
    widget = sap.ClickWidget(session, truth=truths, goal=0.9)
    sides.append(ipywidgets.VBox([ipywidgets.Label(f"{name}: {session.volume.shape} voxels"), widget]))
ipywidgets.HBox(sides, layout={"flex_flow": "row wrap"})

# %% [markdown]
# Where nobody clicked, a program does: on the left in three slices of the organ, on the right in its deepest voxel.

# %%
chosen = [int(holding[int(share * len(holding))]) for share in (0.33, 0.5, 0.67)]
if not by_hand["2D"].objects:
    for index in chosen:
        only_here = np.zeros_like(truth)
        only_here[(slice(None),) * axis + (index,)] = truth[(slice(None),) * axis + (index,)]
        by_hand["2D"].click(ijk=first_click(only_here, spacing=pet.spacing).ijk)
if not by_hand["3D"].objects:
    by_hand["3D"].click(ijk=first_click(truth, spacing=pet.spacing).ijk)
for name, session in by_hand.items():
    clicks = session.clicks_of(organ)
    print(f"{name}: {len(clicks)} clicks on {organ}, DSC {sap.dice(session.mask_of(organ), truth):.2f}")
    masks = {f"{name}, {len(clicks)} clicks": session.mask_of(organ), "truth": truth}
    sap.show_slices(pet, masks, clicks=clicks, at_ijk=clicks[len(clicks) // 2].ijk)

# %% [markdown]
# Look at the coronal and sagittal slices. In 2D there are thin lines, one for each click: what was not clicked is
# empty, and lines elsewhere are false alarms in the same slices.
#
# ## What the 3D network sees
#
# **Drag:** make the voxels finer. What leaves the window? Move it: which part of the organ can no longer be found? How
# large is a voxel of the answer?

# %%
config = network_3d.config
window_view(pet, first_click(truth, spacing=pet.spacing).ijk, config.window_size, config.logits_size)

# %% [markdown]
# ## Count the effort
#
# *Published*: 2D methods got N, 3N and 5N points, where N is the number of slices that hold the organ: 1, 3 and 5 in
# *each* of these slices. 3D methods got 1, 3 and 5 in all. `evaluate` does both, with every method's own errors
# clicked. It also tells the 2D method which slices hold the organ, which nobody tells the 3D method: an oracle, in
# favour of 2D.
#
# **Predict, then run:** which wins after the last round, and on which organs?

# %%
results = sap.evaluate(
    cohort, [model_2d, *models_3d], clicks=rounds, targets=wanted, rules=rules, processes=processes,
    output=output / f"results_{'_'.join(targets) or 'all'}_{rounds}.csv",
)  # fmt: skip
results["scanner"] = results["case"].str.extract("(internal|external)", expand=False).fillna("this cohort")
shown = [number for number in (1, 3, 5) if number <= rounds]
at = results[results["click"].isin(shown) & results["dsc"].notna()]
by_organ = at.pivot_table(index=["seen", "target"], columns=["model", "click"], values="dsc", sort=False)
print(f"DSC after {shown} rounds; 2D: so many clicks in each slice; mean of up to {results['case'].nunique()} cases")
by_organ.round(2)

# %% [markdown]
# The means that count, with 95 % [bootstrap intervals](glossary.md#bootstrap-interval) over patients, never mixing
# seen and unseen organs. (Over two patients an interval is only an illustration; over one there is none.)

# %%
for scanner, rows in results.groupby("scanner", sort=False):
    summary = sap.summarise(rows, clicks=shown)
    print(scanner)
    shown_columns = ["model", "group", "prompt", "patients", "dsc", "dsc_low", "dsc_high"]
    display(summary[shown_columns].round(2))

# %% [markdown]
# ### The same clicks, the same seconds
#
# Rounds are not clicks. Here is DSC against seconds: the model's own (measured), and yours for each click. **Drag your
# seconds per click from 1 to 15.** Which curve moves, and what is the best within one minute?

# %%
curve = sap.effort(results)
effort_curves(curve)

# %% [markdown]
# Rounds flatter whoever clicks in every slice; clicks do not. Where slices are ahead even so, look at the organ: is it
# thin, or long, so that a 3D window holds only a part of it? And a false alarm in a slice without the organ costs 2D
# nothing, because the oracle leaves these slices empty.

# %% [markdown]
# ## Where you click
#
# One organ, one network, one click: how much depends on the place? We click all over one coronal slice, through the
# organ's deepest voxel. Each dot is a click, coloured by the DSC of the mask that follows, in 3D.

# %%
deepest = views.ijk_to_ras(first_click(truth, spacing=pet.spacing).ijk, pet)
in_plane = views.to_ras(truth, pet)[:, deepest[1], :]
steps = [max(1, round(grid_mm / views.ras_spacing(pet)[axis])) for axis in (0, 2)]
dots_ras = [(i, deepest[1], k) for i, k in np.argwhere(in_plane).tolist() if i % steps[0] == k % steps[1] == 0]
assert dots_ras, f"grid_mm={grid_mm:g} is too coarse for the {organ}: take less."
probe, scores = sap.Session(network_3d, pet), []
for place in dots_ras:
    probe.reset()
    scores.append(sap.dice(probe.click(ijk=views.ras_to_ijk(place, pet)), truth))
print(f"{len(scores)} places: DSC from {min(scores):.2f} to {max(scores):.2f}, median {np.median(scores):.2f}")

# %%
_, ax = plt.subplots(figsize=(6.5, 5.5), layout="constrained")
aside, (axial, sagittal) = plt.subplots(1, 2)  # of the three views only the coronal one is wanted
sap.show_slices(pet, {"truth": truth}, at_ijk=views.ras_to_ijk(deepest, pet), axes=(axial, ax, sagittal))
plt.close(aside)
across_mm, up_mm = ((np.array(dots_ras)[:, axis] + 0.5) * views.ras_spacing(pet)[axis] for axis in (0, 2))
dots = ax.scatter(across_mm, up_mm, c=scores, cmap="viridis", vmin=0, vmax=1, edgecolor="black", s=45)
ax.set(xlim=(across_mm.max() + 60, across_mm.min() - 60), ylim=(up_mm.min() - 60, up_mm.max() + 60))
_ = ax.figure.colorbar(dots, ax=ax, label="DSC after one click here", shrink=0.7)

# %% [markdown]
# The protocol of this lesson clicks the deepest voxel first. A hurried user does not, and a result that holds only for
# the best place is worth less than it looks.

# %% [markdown]
# ## How to flatter a network
#
# *From the releases:* their evaluation cuts a window around the **true** organ, clicks at random in it, measures
# inside the window only, and, in its older form, reports the **best** DSC over the clicks so far. Nothing of that is
# false, and a user gets none of it: nobody knows the truth's centre beforehand, a leak beyond the window is there all
# the same, and who stops at the best click needs to see the truth. The same network, the same cases, and clicks drawn
# at random in the same way; only what is told differs:

# %% [markdown]
# **Drag, before you run the cell below:** a made-up network whose clicks do not help at all. How good is it said to be
# after 10 clicks, if the best one counts?

# %%
best_of_many()

# %%
some = [name for name in ("liver", "spleen", "aorta") if name in wanted] or wanted[:1]
common = {"clicks": rounds, "targets": some, "first": "random", "then": "random_error", "rules": ()}
both = pd.concat([
    sap.evaluate(cohort, models_3d[-1], protocol=protocol, **common).assign(told=protocol)
    for protocol in ("whole_volume", "release")
])  # fmt: skip
comparison = both[both["click"].isin(shown)].pivot_table(index="target", columns=["click", "told"], values="dsc")
comparison.round(2)

# %% [markdown]
# Where it does not flatter, look at the organ: ours opens further windows along a long one, and the release's does
# not.
#
# ## When it goes wrong
#
# A network is trained on one unit. Hounsfield units of a CT look like numbers, too, and a network that took them would
# answer something. Ours refuses:

# %%
with_ct = [one for one in cohort if one.ct and one.organs]
if with_ct:
    try:
        sap.Session(network_3d, with_ct[0].load_ct()).click(ijk=(10, 10, 10))
    except sap.SegAnyPETError as error:
        print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## Optional: why not the CT?
#
# *Published* (Table 3): the CT was registered to the PET, and then segmented. One network for both, SAM-Med3D-turbo,
# did better on the PET than on the CT. First, then, the CT must lie on the PET. On one scanner it does, but for
# breathing; from elsewhere it must be registered. We move a CT by a known amount and ask for it back; then the same 2D
# network is clicked on the PET and on the CT laid over it. (TotalSegmentator on the CT is a method without clicks:
# `seganypet evaluate --totalsegmentator`.)

# %%
if with_ct:
    ct = with_ct[0].load_ct()
    shift_mm = np.array([8.0, -12.0, 15.0])
    away = np.eye(4)
    away[:3, 3] = shift_mm
    displaced = sap.Volume(ct.data, away @ ct.affine, "HU", source="the CT, displaced")
    found = register_rigid(displaced, with_ct[0].load_pet())
    middle = np.append(ct.to_mm((np.array(ct.shape) - 1) / 2), 1)
    print(f"moved by {shift_mm.tolist()} mm; found {np.round((found @ middle - middle)[:3], 1).tolist()} mm")
    _ = sap.show_fused(with_ct[0].load_pet(), apply_transform(displaced, found))
else:
    print("Skipped: no case of this cohort has a CT and organs.")

# %%
rows = []
for modality, cases in (("PET", with_ct[:1]), ("registered CT", [CTCase(one, register=True) for one in with_ct[:1]])):
    if cases:
        table = sap.evaluate(cases, model_2d, clicks=rounds, targets=some, rules=())
        by_prompt = table[table["click"].isin(shown)].groupby("prompt", sort=False)["dsc"].mean()
        rows += [(model_2d, modality, prompt, dsc) for prompt, dsc in by_prompt.items()]
pd.DataFrame(rows, columns=["model", "modality", "prompt", "dsc"]).round(2)

# %% [markdown]
# ## What was published, beside what you measured

# %%
table2 = sap.published(table=2)
published = table2.pivot_table(index=["seen", "model", "prompt"], values="dsc", sort=False)
print("published, Table 2: AutoPET-Organ, another hospital than the training's; mean over organs")
display(published.unstack("prompt").round(2))
print("\npublished, Table 3: mean over organs")
display(sap.published(table=3)[["model", "modality", "prompt", "dsc"]])

# %% [markdown]
# Read the published rows of *unseen* organs: there SegAnyPET falls behind SAM-Med3D, the network that it started from.
# The supplement says so, and offers a reason: five categories against 245, some of these organs among them. Does the
# same happen here, between the networks of `models_3d`? And on the other scanner?

# %%
last = results[(results["click"] == rounds) & results["model"].isin(models_3d)]
print(f"mean DSC after {rounds} clicks")
last.pivot_table(index=["scanner", "model"], columns="seen", values="dsc", sort=False).round(2)

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. Count clicks.** A kidney spans 34 slices. How many clicks does the prompt 5N cost, and how many times as many as
# the five points of a 3D method? Answer with both numbers, such as `(10, 2)`.

# %% tags=["solution"]
my_count = (5 * 34, 34)

# %%
sap.check("4.clicks", my_count)

# %% [markdown]
# **2. Equal effort.** From `curve`: what is the highest DSC that `model_3d` reached on `group` with at most two
# clicks?

# %%
model_3d, group = models_3d[-1], curve["group"].iloc[-1]
print(f"model_3d = {model_3d!r}, group = {group!r}")
curve.loc[curve["group"] == group, ["model", "prompt", "total_clicks", "dsc"]].round(2)

# %% tags=["solution"]
affordable = curve[(curve["model"] == model_3d) & (curve["group"] == group) & (curve["total_clicks"] <= 2)]
my_best = affordable["dsc"].max()

# %%
sap.check("4.equal", my_best, curve=curve, model=model_3d, group=group)


# %% [markdown]
# **3. An honest best.** Write `best_so_far(dsc)`, which turns the DSCs after clicks 1, 2, 3, ... into what an
# evaluation reports that takes the best.

# %% tags=["solution"]
def best_so_far(dsc: list[float]) -> list[float]:
    """The best DSC up to each click."""
    return np.maximum.accumulate(dsc).tolist()


# %%
sap.check("4.best", best_so_far)

# %% [markdown]
# **4. By hand: both ways.** In the two widgets above, **Add object** `spleen`: bring it to DSC 0.6 on the right, and
# give it at least one click on the left.

# %%
spleen = truths["spleen"]

# %% tags=["solution"]
for session in by_hand.values():
    session.select("spleen")
    drawn = session.click(ijk=first_click(spleen, spacing=pet.spacing).ijk)
for _ in range(5):
    if sap.dice(drawn, spleen) < 0.65:
        click = sap.next_click(spleen, drawn, spacing=pet.spacing)
        drawn = by_hand["3D"].click(ijk=click.ijk, foreground=click.foreground)

# %%
sap.check("4.hand", by_hand, truth=spleen, name="spleen")

# %% [markdown]
# **5. Change and explain.** Seconds per click go from 2 to 15. Whose last point moves by more seconds? (The axis is
# logarithmic: read its numbers.)
#
# - a: The 3D network's, because its window is large.
# - b: The 2D network's, because each of its rounds takes many clicks.
# - c: Both move by the same number of seconds.

# %% tags=["solution"]
my_sentence = "b"

# %%
sap.check("4.seconds", my_sentence)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** A table says: SAM 0.93 with 5N points, a 3D network 0.90 with 5. Who won?
#
# <details><summary>Answer</summary>
#
# Nobody yet: 5N can be hundreds of clicks. Ask for the same clicks, or the same seconds.
#
# </details>
#
# **2.** Why must the mean over seen and unseen organs not be one number?
#
# <details><summary>Answer</summary>
#
# It depends on how many of each were put in. On unseen organs SegAnyPET falls behind the network that it started from;
# one mean hides that.
#
# </details>
#
# **3.** The 2D user is told which slices hold the organ. Does it matter?
#
# <details><summary>Answer</summary>
#
# Yes, an oracle in favour of 2D: false alarms in other slices are never counted, and nobody searches for the ends of
# the organ.
#
# </details>

# %% [markdown]
# ## On AutoPET-Organ, with released weights
#
# The full table of the supplement, resumable, on your GPU or overnight (weights are downloaded once, under their
# owners' licences):
#
# ```
# seganypet evaluate cohort.csv --models sam-vit-b medsam-vit-b sam-med3d seganypet-v1 --clicks 5 --no-rules \
#     --targets liver kidney_left kidney_right heart spleen aorta \
#     prostate lung_lower_lobe_left lung_lower_lobe_right lung_upper_lobe_left \
#     lung_upper_lobe_right lung_middle_lobe_right --output table2.csv
# ```

# %% [markdown]
# ## What you take home
#
# - Count clicks, not rounds; and say what an oracle was told.
# - Never average seen and unseen targets.
# - Ask of every table: DSC of what, where, after which click?
#
# ## Who says what
#
# - **Published:** Tables 2 and 3; N, 3N and 5N; that unseen organs on unseen data are where SegAnyPET is weaker.
# - **From the releases:** the flattering protocol.
# - **Assumed:** seconds for a click.
# - **Measured here:** every number that a cell printed, with networks trained here on phantoms.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, supplement B.3, C.1, C.2, Fig. 4, Tables 2 and 3.
# - Kirillov et al., *Segment Anything*, arXiv:2304.02643. Ma et al., *Segment anything in medical images*, Nat Commun
#   15, 2024. Wang et al., *SAM-Med3D*, arXiv:2310.15161.
# - Mattes et al., *PET-CT image registration in the chest using free-form deformations*, IEEE TMI 22, 2003.
#
# *Lesson 4 of 9; previous: [3 Labels and cohorts](03_data_exploration_cohorts.ipynb); next: [5 Doubtful labels and
# CPCL](05_training_doubtful_labels.ipynb)*
#
# *Not for clinical use.*
