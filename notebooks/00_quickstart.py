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
# # Quickstart: click an organ, get its mask and its numbers
#
# Positron emission tomography ([PET](glossary.md#pet)) shows where the body takes up a [tracer](glossary.md#tracer);
# with [FDG](glossary.md#fdg), where it burns sugar. To *measure* an organ or a tumour you need its outline. Here you
# will point at an organ and let a network draw the outline.
#
# **You will learn**
#
# - to open a PET scan, and to look at it before computing anything;
# - to turn clicks into a mask, with the mouse and in code; to correct it, and to take a correction back;
# - to judge a mask against the truth, and against the simple threshold that it has to beat;
# - to read SUV, MTV and TLG off a mask, and to save everything so that a colleague gets the same mask again;
# - to do all this on a scan of your own.
#
# **Before you start:** some Python. No knowledge of PET or of neural networks; words of the field are in the
# [glossary](glossary.md).
#
# **Time:** about 1 minute to run on two cores of a laptop, half an hour to read; 1 GB of memory. No GPU, no internet.
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import json
import os
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import seganypet as sap
from seganypet.organs import SEEN_ORGANS
from seganypet.prompting.simulate import first_click, next_click
from seganypet.prompting.thresholds import ThresholdSession

# %% [markdown]
# ## Parameters
#
# All that you may want to change stands in one cell.

# %% tags=["parameters"]
case_folder: str = "../data_samples/phantom_internal_9000"  # one case of ../data_samples/cohort.csv
model: str = "tiny-base"  # name of a network, or path of its weights
organ: str = "liver"  # the organ to click; names are printed below
n_clicks: int = 5  # clicks in all, on that organ
dicom_folder: str = ""  # a PET series of your own; empty: the sample case stands in
dicom_click: list = []  # voxel [i, j, k] to click in your series; empty: its hottest voxel
recorded_clicks: str = "quickstart_clicks.json"  # what the mouse did before you, see "Click"; empty: nothing
real_clicks: str = "acrin042_clicks.json"  # clicks for the section "On a real scan"
output_dir: str = "../out"  # mask, table, journal and pictures go here

# %%
assert n_clicks >= 1, f"n_clicks={n_clicks}: at least one click is needed."
output = Path(output_dir)
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Load, and look
#
# A [NIfTI](glossary.md#nifti) file holds [voxels](glossary.md#voxel) and where they lie, but not their unit. So we say
# it: standardised uptake values ([SUV](glossary.md#suv)) by body weight. One SUV is the uptake that every gram of the
# body would have if the tracer had spread evenly.

# %%
volume = sap.load_volume(Path(case_folder) / "SUV.nii.gz", unit="SUVbw")
print(volume.shape, "voxels of", np.round(volume.spacing, 2).tolist(), "mm")
print(f"SUV from {volume.data.min():.1f} to {volume.data.max():.1f}")

# %% [markdown]
# **Always look first.** A [maximum intensity projection](glossary.md#mip) shows, for each line of sight from front to
# back, the hottest voxel on it. Dark is hot. The patient faces you: their right is on your left.

# %%
_ = sap.show_mip(volume)

# %% [markdown]
# What to notice: the brain uses much sugar, and the kidneys pass the tracer on to the bladder, which is hot for
# that reason alone. Hot does not mean ill.
#
# A projection hides depth. Three slices through one voxel show it.

# %%
_ = sap.show_slices(volume)

# %% [markdown]
# ## The truth
#
# This scan is a [phantom](glossary.md#phantom): a computer drew the body and simulated the scanner. Nobody's data are
# in it, and we know every organ to the voxel. We call that the truth. On patients there is none, only what experts
# drew.

# %%
cohort = sap.Cohort.from_csv(Path(case_folder).parent / "cohort.csv")
case = cohort[Path(case_folder).name]
truths = dict(case.targets(volume))
print("Targets here:", ", ".join(name for name, truth in truths.items() if truth.any()))

# %%
assert organ in truths and truths[organ].any(), f"organ={organ!r} is not in this scan; take a name printed above."
truth = truths[organ]
_ = sap.show_slices(volume, {f"{organ}, truth": truth})

# %% [markdown]
# ## A session: one scan, one network, your clicks
#
# The network looks at a cube of the scan, its [window](glossary.md#window), and turns it into an
# [embedding](glossary.md#embedding). That is the slow part, and it is done once for each window. At your first click
# the session tries windows of several sizes around it; then the window moves to the middle of what was found, and is
# finer for what is small. Further clicks there are quick. An organ that reaches beyond its window gets more of them.

# %%
network = sap.load_model(model)
session = sap.Session(network, volume)
session.select(organ)
print(f"{network.name}: {network.config.window_size} voxels a side; as trained, {network.config.spacing_mm:g} mm each")

# %% [markdown]
# ## Click
#
# Here is the scan to click on, in a session of its own. It opens with clicks that were recorded by hand.
#
# 1. Press **Reset**. Scroll with the wheel until you see the organ, and click its middle: the outline appears.
# 2. Where the outline leaves something out, click that. Where it holds too much, choose **− not this** (or use the
#    right button) and click there.
# 3. Go on until you like it, then press **Save**: mask, clicks and table go to the folder `by_hand`.
#
# The three slices show the same place, the crosshair. The projection turns when you drag it, and a click on it jumps to
# the hottest voxel there. A double click enlarges a picture. What you did is offered again when you come back.

# %%
by_hand = sap.Session(network, volume)
by_hand.select(organ)
widget = sap.ClickWidget(by_hand, ct=case.load_ct() if case.ct else None, output_dir=output / "by_hand")
if recorded_clicks:
    try:
        widget.load_journal(recorded_clicks)
    except sap.SegAnyPETError as error:
        print("Begin without recorded clicks:", error)
widget

# %% [markdown]
# When you have clicked, run the next cell: it compares your mask with the truth. [DSC](glossary.md#dsc), the Dice
# similarity coefficient, counts how much of both the mask and the truth is shared: 1 is perfect, 0 is no overlap.

# %%
by_hand_dsc = sap.dice(by_hand.mask_of(organ), truth)
print(f"{len(by_hand.clicks_of(organ))} clicks by hand on {organ}: DSC {by_hand_dsc:.2f}")

# %% [markdown]
# Three things to try: **uncertainty** shows where the network hesitates, so where would you click next? **PET to CT**
# lays the anatomy under the uptake. And **Add object** begins another organ in the same session.
#
# ## The same in code
#
# `session.click(ijk=...)` takes a voxel and returns a mask on the scan's own grid: True inside, False outside.
#
# A program clicks here in your place, so that the lesson runs by itself and runs the same everywhere. It sees
# the truth: its first click is the organ's deepest voxel, each later one lies deep inside the largest error. A
# miss gets a positive click ("this too"), a false alarm a negative one ("not this").

# %%
masks, rows = [], []
click = first_click(truth, spacing=volume.spacing)
while click is not None and len(masks) < n_clicks:
    masks.append(session.click(ijk=click.ijk, foreground=click.foreground))
    sign = "+" if click.foreground else "-"
    rows.append({"click": len(masks), "ijk": click.ijk, "sign": sign, "DSC": sap.dice(masks[-1], truth)})
    click = next_click(truth, masks[-1], spacing=volume.spacing)
print(f"{organ}, {case.name}, {network.name}")
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %% [markdown]
# Read down the column of DSC. Clicks mostly help, but nothing forces each one to.

# %%
figure, axes = plt.subplots(1, len(masks), figsize=(2.6 * len(masks), 6), layout="constrained", squeeze=False)
for ax, mask, row in zip(axes[0], masks, rows, strict=True):
    sap.show_mip(volume, mask, ax=ax)
    ax.set_title(f"click {row['click']} ({row['sign']}), DSC {row['DSC']:.2f}")

# %% [markdown]
# Now in slices through the last click. A disc is a positive click, a cross a negative one; you see those that
# lie in the slice.

# %%
_ = sap.show_slices(volume, {"mask": session.mask, "truth": truth}, clicks=session.clicks)

# %% [markdown]
# ## "Not this": a negative click
#
# Where does the mask reach beyond the organ? We click the deepest voxel of what is too much.
#
# **Predict, then run:** the click says that one voxel is wrong. Will only that voxel leave the mask, or a
# region? Will the DSC rise? Write it down.

# %%
before = session.mask
too_much = before & ~truth
not_this = first_click(too_much if too_much.any() else before, spacing=volume.spacing)
after = session.click(ijk=not_this.ijk, foreground=False)
print(f"voxels that left: {(before & ~after).sum()}, that came: {(after & ~before).sum()}")
print(f"DSC {sap.dice(before, truth):.3f} -> {sap.dice(after, truth):.3f}")

# %% [markdown]
# A click *binds*: its voxel ends on the side that you said, whatever the network thinks. The network also reads it as
# a hint about the *object*, and what looks alike around it goes along, so a whole neighbourhood can change. In the
# middle of a real leak that is what you want. At a border that was nearly right, it may do harm.
#
# ## Undo
#
# Undo brings the session back exactly, not nearly.

# %%
session.undo()
assert np.array_equal(session.mask, before)
print(f"{len(session.clicks)} clicks again, and the mask of before, voxel for voxel")

# %% [markdown]
# ## A mistake to make once
#
# Scans have two kinds of coordinates: voxels (i, j, k) count from the array's corner, millimetres (x, y, z)
# from the scanner's origin. Mix them up, and you click another place. Here millimetres are given as voxels.

# %%
click_mm = volume.to_mm(session.clicks[0].ijk).round(1)
try:
    session.click(ijk=click_mm)
except sap.SegAnyPETError as error:
    print(type(error).__name__, "-", error)

# %% [markdown]
# The session refused, said what arrived, and stayed as it was. With the frame in its name the same place is
# welcome, and lands on the very voxel:

# %%
click_ijk = tuple(np.rint(volume.to_ijk(click_mm)).astype(int).tolist())
print(f"mm {click_mm.tolist()} is voxel {click_ijk}; the first click was on {session.clicks[0].ijk}")

# %% [markdown]
# ## From mask to numbers
#
# | | what it is |
# |---|---|
# | [SUVmax](glossary.md#suvmax) | the hottest voxel; easy, but noisy |
# | SUVmean | mean over the mask |
# | [SUVpeak](glossary.md#suvpeak) | hottest mean over a ball of one millilitre; steadier than SUVmax |
# | [MTV](glossary.md#mtv) | metabolic tumour volume: how large the mask is (for an organ, simply its volume) |
# | TLG | total lesion glycolysis: MTV times SUVmean |

# %%
table = sap.quantify(volume, {organ: session.mask, "truth": truth})
print(table.pivot_table(index=["quantity", "unit"], columns="object", values="value", sort=False).round(2).to_string())

# %% [markdown]
# Compare mask and truth. SUVmean forgives a crooked outline; SUVmax and SUVpeak depend on a single hot spot, so
# they jump if the mask takes in a bit of a hot neighbour. And volume? **Predict:** if two volumes agree within one
# percent, do the outlines agree?

# %%
leak_ml = (session.mask & ~truth).sum() * volume.voxel_volume_ml
miss_ml = (truth & ~session.mask).sum() * volume.voxel_volume_ml
difference = session.mask.sum() / truth.sum() - 1
print(f"volumes differ by {difference:+.1%}, but {leak_ml:.0f} mL of the mask leak out and {miss_ml:.0f} mL are missed")

# %% [markdown]
# Leaks and misses cancel in a volume. [DSC](glossary.md#dsc) counts both: it is 2 x overlap / (mask + truth).
#
# Each row carries its definition, so that a number in a paper can be traced:

# %%
for row in table.drop_duplicates("quantity").itertuples():
    print(f"{row.quantity:8s} {row.definition}")

# %% [markdown]
# ## Save, and repeat
#
# The mask has the grid and [affine](glossary.md#affine) of the file that you loaded, so every viewer lays one over the
# other. The journal holds each click, which network drew the mask, and which scan it was.

# %%
session.save(output / "mask.nii.gz")
session.save_journal(output / "clicks.json")
table.to_csv(output / "table.csv", index=False)

# %%
again = sap.Session.replay(network, volume, output / "clicks.json")
assert np.array_equal(again.mask_of(organ), session.mask)
print(f"replayed {len(again.clicks)} clicks: the identical mask of {again.mask_of(organ).sum()} voxels")

# %% [markdown]
# ## Does it beat a threshold?
#
# Reading rooms have drawn outlines by threshold for decades: start at the click and take all connected voxels
# that are hot enough. A network that cannot beat that is not worth its weights. Three rules get the *same
# clicks*:
#
# - `41% SUVmax`: voxels above 41 % of the local maximum, made for hot lesions;
# - `SUV>=2.5`: voxels above SUV 2.5;
# - `band`: voxels about as hot as the clicked one, made for organs.
#
# **Predict, then run:** which rule suits this organ? Is the network better after the first click? After the
# last?

# %%
labels = {"case": case.name, "target": organ}
steps = [{**labels, "model": network.name, "click": row["click"], "dsc": row["DSC"]} for row in rows]
for rule in ("41% SUVmax", "SUV>=2.5", "band"):
    threshold = ThresholdSession(volume, rule)
    for number, click in enumerate(session.clicks, 1):
        mask = threshold.click(ijk=click.ijk, foreground=click.foreground)
        steps.append({**labels, "model": rule, "click": number, "dsc": sap.dice(mask, truth)})
comparison = pd.DataFrame(steps)
print(comparison.pivot_table(index="click", columns="model", values="dsc", sort=False).round(3).to_string())

# %%
_ = sap.plot_dsc(comparison)

# %% [markdown]
# A rule can also grow nothing: where the clicked voxel lies below its threshold, there is nothing to start
# from.
#
# One organ of one scan proves nothing; it shows how to ask. The clicks were also chosen on the *network's*
# errors, which favours the network. `sap.evaluate` asks the question fairly: over a cohort, with each method's
# own errors clicked.
#
# And a phantom is kind to `band`: its organs are evenly filled, a patient's are not.
#
# ## Organs without a click
#
# *Published:* in the article's Fig. 1 a model proposes organs and people correct them. *Ours, for that figure says no
# more:* a coarse look at the whole body says where organs are, then a network is prompted there. Each organ comes with
# the DSC to expect, which was calibrated on phantoms: on a patient it may promise too much.
#
# **Predict, then run:** the network has never met this patient. Which organ will it draw worst? And will it know?

# %%
proposal = sap.propose(volume)
found = pd.DataFrame([
    {"organ": name, "expected DSC": proposal.confidence[name], "DSC": sap.dice(mask, truths[name])}
    for name, mask in proposal.masks.items() if name in truths
])  # fmt: skip
print(found.round(2).to_string(index=False))
print("said to be not in view:", ", ".join(proposal.not_in_view) or "nothing")

# %%
_ = sap.show_mip(volume, proposal.masks)

# %% [markdown]
# A proposal is where somebody begins to correct, never a truth. Here the program corrects the organ that came out worst
# of the five that this network learned: the session starts from the proposal, and two clicks go where it is wrong.

# %%
learned = found[found["organ"].isin(SEEN_ORGANS)]
worst = learned.loc[learned["DSC"].idxmin(), "organ"] if len(learned) else organ
corrected = sap.Session(sap.load_model("tiny-base"), volume)
corrected.select(worst)
mask = corrected.start_from(proposal.masks.get(worst, masks[-1]))
print(f"{worst}: proposed, DSC {sap.dice(mask, truths[worst]):.2f}")
for _ in range(2):
    click = next_click(truths[worst], mask, spacing=volume.spacing)
    if click is not None:
        mask = corrected.click(ijk=click.ijk, foreground=click.foreground)
        print(f"clicked {'this too' if click.foreground else 'not this'}: DSC {sap.dice(mask, truths[worst]):.2f}")

# %% [markdown]
# Now you: in the widget above, **Add object**, and do better in as few clicks.
#
# ## What was published, beside what you just measured

# %%
published = sap.published(table=2).query("target == @organ and model in ['SegAnyPET', 'SAM-Med3D']")
print(f"published: {organ}, the external test on AutoPET-Organ (100 scans), DSC after 1, 3 and 5 points")
print(published.pivot(index="model", columns="click", values="dsc").round(3).to_string())
print(f"\nmeasured here: {organ}, one phantom, {network.name}")
print(pd.DataFrame(rows)[["click", "DSC"]].round(3).to_string(index=False))

# %% [markdown]
# Do not subtract one from the other. Who says what:
#
# - **Published:** the two rows above, from the article's table on AutoPET-Organ, as `sap.published` reads it. Nothing
#   of them was run here.
# - **Reconstructed:** the arithmetic of the network, after the published code; tests hold it against reference
#   values, block by block.
# - **Trained here:** `tiny-base`, on random shapes and phantoms only. It stands for SAM-Med3D, the generalist that
#   SegAnyPET started from, so that lessons run offline. It is *not* the published weights, nor a copy of them.
# - **Measured here:** every other number on this page, on your machine, just now.
#
# ## Your turn
#
# Each exercise ends with a check that tells you what may be wrong. This edition holds the solutions: cover them
# first.
#
# **1. Volume by hand.** How many millilitres is the mask? Use `session.mask` and `volume.spacing` (in mm).

# %% tags=["solution"]
my_volume_ml = session.mask_of(organ).sum() * np.prod(volume.spacing) / 1000

# %%
mtv_ml = table.query("object == @organ and quantity == 'MTV'")["value"].item()
assert not np.isclose(my_volume_ml, 1000 * mtv_ml, rtol=1e-3), "Hint: these are mm3; 1 mL is 1000 mm3."
assert not np.isclose(my_volume_ml, session.mask_of(organ).sum()), "Hint: you counted voxels; how large is one?"
assert np.isclose(my_volume_ml, mtv_ml, rtol=1e-3), f"Hint: voxels x size of one; the table says {mtv_ml:.1f} mL."
print(f"Right: {my_volume_ml:.1f} mL")

# %% [markdown]
# **2. Where is it hottest?** Find the hottest voxel *inside the mask*, and give its place in millimetres.

# %% tags=["solution"]
inside = np.where(session.mask_of(organ), volume.data, -np.inf)
my_hottest_mm = volume.to_mm(np.unravel_index(inside.argmax(), volume.shape))

# %%
found = tuple(np.rint(volume.to_ijk(my_hottest_mm)).astype(int))
assert volume.contains_ijk(found), "Hint: outside the scan. Did you give voxels? volume.to_mm(ijk) converts."
assert session.mask_of(organ)[found], "Hint: outside the mask. Hide the rest with np.where(mask, data, -np.inf)."
assert np.isclose(volume.data[found], volume.data[session.mask_of(organ)].max()), "Hint: hotter voxels exist. argmax?"
print(f"Right: SUV {volume.data[found]:.2f} at {np.round(my_hottest_mm, 1).tolist()} mm")

# %% [markdown]
# **3. A second object.** Segment the left kidney in the same session, under its own name. Use as many clicks as
# you need.

# %% tags=["solution"]
session.select("kidney_left")
_ = session.click(ijk=first_click(truths["kidney_left"], spacing=volume.spacing).ijk)

# %%
assert "kidney_left" in session.objects, "Hint: session.select('kidney_left') first, then click."
my_dsc = sap.dice(session.mask_of("kidney_left"), truths["kidney_left"])
assert my_dsc > 0.4, f"Hint: DSC {my_dsc:.2f}. Did you click the patient's left, which is on your right?"
print(f"Right: DSC {my_dsc:.2f}; objects in this session: {', '.join(session.objects)}")

# %%
_ = sap.show_mip(volume, session.masks)

# %% [markdown]
# ## Bring your own scan
#
# Ten lines from a DICOM folder to a CSV. `load_dicom` sorts the slices, applies each slice's own scale, and computes
# SUV from dose, weight and times in the headers; if one of these is missing it names the tag and stops, rather than
# guess. Set `dicom_folder` and run this cell again. Without `dicom_click` it clicks the hottest voxel, which tends
# to be bladder, heart or brain: look at the picture, find your target, and give its voxel.

# %%
own_volume = sap.load_dicom(dicom_folder) if dicom_folder else volume  # NIfTI: sap.load_volume(path, unit="SUVbw")
hottest_ijk = np.unravel_index(own_volume.data.argmax(), own_volume.shape)
own_session = sap.Session(network, own_volume)
own_session.select("own object")
own_session.click(ijk=dicom_click or hottest_ijk)
own_table = sap.quantify(own_volume, own_session.masks)
own_table.to_csv(output / "own_table.csv", index=False)
own_session.save(output / "own_mask.nii.gz")
sap.show_slices(own_volume, own_session.masks, clicks=own_session.clicks)
print(own_table[["object", "quantity", "value", "unit"]].round(2).to_string(index=False))

# %% [markdown]
# Look at the picture before you believe the table. If the outline is wrong, click again:
# `own_session.click(...)`.
#
# ## On a real scan
#
# Phantoms are easy. The series `acrin042` is a patient with a lung tumour, scanned from neck to kidneys, from a
# public collection of The Cancer Imaging Archive. It does not come with this package: the cells below run where
# it lies in `$SEGANYPET_REAL_DATA` or `../../shared/data`, and where its clicks have been written down. These
# clicks were placed on the pictures and corrected, some in several tries, until the masks looked right and hardly
# overlapped. There is no truth here: only your eye, and what is known of anatomy.

# %%
real_folder = Path(os.environ.get("SEGANYPET_REAL_DATA", "../../shared/data")) / "acrin042" / "PET_AC"
clicks_by_organ = json.loads(Path(real_clicks).read_text())
has_real_scan = bool(clicks_by_organ) and real_folder.is_dir()
if not clicks_by_organ:
    print(f"Skipped: {real_clicks} holds no clicks yet.")
elif not has_real_scan:
    print("Skipped: no folder acrin042/PET_AC; set SEGANYPET_REAL_DATA to the folder that holds acrin042.")

# %%
if has_real_scan:
    real_volume = sap.load_dicom(real_folder)
    real_session = sap.Session(network, real_volume)
    for name, places in clicks_by_organ.items():
        real_session.select(name)
        for i, j, k, foreground in places:
            real_session.click(ijk=(i, j, k), foreground=bool(foreground))
        print(f"clicks on {name}: {len(real_session.clicks)}")
    real_session.save(output / "acrin042_mask.nii.gz")
    real_session.save_journal(output / "acrin042_clicks.json")

# %%
if has_real_scan:
    sap.show_mip(real_volume, real_session.masks)

# %%
if has_real_scan:
    real_table = sap.quantify(real_volume, real_session.masks)
    real_table.to_csv(output / "acrin042_table.csv", index=False)
    print(real_table.pivot_table(index="object", columns="quantity", values="value", sort=False).round(2).to_string())

# %% [markdown]
# Is a volume plausible? The scan ends at the kidneys and cuts their lower poles, so theirs are too small by
# what is missing.
#
# Two organs cannot own the same voxel. How much of the smaller one do two masks share, in percent?

# %%
if has_real_scan:
    overlap = {
        f"{one} / {other}": 100 * (a & b).sum() / max(1, min(a.sum(), b.sum()))
        for (one, a), (other, b) in combinations(real_session.masks.items(), 2)
    }
    print(pd.Series(overlap, name="shared, %").round(2).to_string())

# %% [markdown]
# ## What you take home
#
# - Look first; say the unit; name the frame of a coordinate.
# - One embedding, many clicks; undo is exact; a journal makes a mask repeatable.
# - A mask is worth what it adds to a threshold, and a number is worth what its definition says.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET: Universal Promptable Segmentation from Positron Emission Tomography Images*, ICCV
#   2025, arXiv:2502.14351. Method, targets, and the published figures above.
# - Wang et al., *SAM-Med3D*, arXiv:2310.15161. The network.
# - Boellaard et al., *FDG PET/CT: EANM procedure guidelines for tumour imaging: version 2.0*, Eur J Nucl Med
#   Mol Imaging 42, 2015. SUV and the 41 % threshold.
# - Wahl et al., *From RECIST to PERCIST*, J Nucl Med 50, 2009. SUVpeak.
# - ACRIN-NSCLC-FDG-PET, The Cancer Imaging Archive, doi:10.7937/tcia.2019.30ilqfcl. The real scan.
# - `data_samples/README.md`. How the phantoms were made.
#
# *Not for clinical use.*
