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
# point at an organ, and a network draws the outline.
#
# **You will be able to**
#
# - open a PET scan, and look at it before you compute anything;
# - turn clicks into a mask, with the mouse and in code; correct it, and take a correction back;
# - judge a mask against the truth and against a threshold;
# - read SUV, MTV and TLG off a mask, and save all so that a colleague gets the same mask again.
#
# **Before you start:** some Python. No knowledge of PET or of neural networks.
#
# **Time:** about 1 minute to run on two cores of a laptop, half an hour to read and click; 1 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 0 of 9; before it: [how PET works](how_pet_works.md); next: [1 Counts to SUV](01_data_exploration_suv.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

import seganypet as sap
from seganypet.lessons.hands import stand_in
from seganypet.lessons.pictures_pet import grey_scale, threshold_on
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
n_clicks: int = 5  # clicks in all, on that organ, by the program
dicom_folder: str = ""  # a PET series of your own; empty: the sample case stands in
dicom_click: list = []  # voxel [i, j, k] to click in your series; empty: its hottest voxel
recorded_clicks: str = "recorded_clicks.json"  # a hand that stands in where nobody clicks
output_dir: str = "../out"  # mask, table, journal and pictures go here

# %%
sap.check_parameters(globals())
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
# What to notice: the brain uses much sugar, and the kidneys pass the tracer on to the bladder, which is hot for that
# reason alone. Hot does not mean ill.
#
# How dark is dark? **Predict, then drag:** which structures appear when black begins at SUV 2, and which are left at
# 15? Then untick *projection* and go through the slices.

# %%
grey_scale(volume)

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
# the session looks through a fine and a wide window; then the window moves to the middle of what was found, and is
# finer for what is small. There the network clicks in its own mask as long as that grows, and of all answers the one
# with the clearest edge wins; but a hot spot that stands alone comes first. Further clicks there are quick. An organ
# that reaches beyond its window gets more of them.

# %%
network = sap.load_model(model)
session = sap.Session(network, volume)
session.select(organ)
print(f"{network.name}: {network.config.window_size} voxels a side; as trained, {network.config.spacing_mm:g} mm each")

# %% [markdown]
# ## Your hand first
#
# Click on the scan yourself. The line above the pictures keeps your score, the [DSC](glossary.md#dsc): 2 x overlap /
# (mask + truth), 1 is perfect and 0 is no overlap. **Reach 0.9 in as few clicks as you can.**
#
# 1. Scroll with the wheel until you see the organ, and click its middle: the outline appears.
# 2. Where the outline leaves something out, click that. Where it holds too much, use the right button (or choose
#    **− not this**) and click there.
# 3. The curve shows what each click brought. **Undo** takes one back.
#
# The three slices show the same place, the crosshair. The projection turns when you drag it, and a click on it jumps
# to the hottest voxel there. **Uncertainty** shows where the network hesitates. **Save** writes mask, clicks and table
# to the folder `by_hand`.

# %%
by_hand = sap.Session(network, volume)
by_hand.select(organ)
widget = sap.ClickWidget(
    by_hand, ct=case.load_ct() if case.ct else None, output_dir=output / "by_hand", truth=truths, goal=0.9
)
widget

# %%
print(stand_in(by_hand, recorded_clicks, "0") if organ == "liver" or by_hand.objects else f"no clicks on {organ} yet")
print(f"{len(by_hand.clicks_of(organ))} clicks on {organ}: DSC {sap.dice(by_hand.mask_of(organ), truth):.2f}")
_ = sap.show_slices(volume, {"by hand": by_hand.mask_of(organ), "truth": truth}, clicks=by_hand.clicks_of(organ))

# %% [markdown]
# ## The same in code
#
# `session.click(ijk=...)` takes a voxel and returns a mask on the scan's own grid: True inside, False outside.
#
# Here a program clicks. It sees the truth: its first click is the organ's deepest voxel, each later one lies deep
# inside the largest error. A miss gets a positive click ("this too"), a false alarm a negative one ("not this"). **Who
# needs fewer clicks, you or the program?**

# %%
masks, rows = [], []
click = first_click(truth, spacing=volume.spacing)
while click is not None and len(masks) < n_clicks:
    masks.append(session.click(ijk=click.ijk, foreground=click.foreground))
    sign = "+" if click.foreground else "-"
    rows.append({"click": len(masks), "ijk": click.ijk, "sign": sign, "DSC": sap.dice(masks[-1], truth)})
    click = next_click(truth, masks[-1], spacing=volume.spacing)
pd.DataFrame(rows).round(3)

# %% [markdown]
# Read down the column of DSC. Clicks mostly help, but nothing forces each one to.

# %%
figure, axes = plt.subplots(1, len(masks), figsize=(2.6 * len(masks), 6), layout="constrained", squeeze=False)
for ax, mask, row in zip(axes[0], masks, rows, strict=True):
    sap.show_mip(volume, mask, ax=ax)
    ax.set_title(f"click {row['click']} ({row['sign']}), DSC {row['DSC']:.2f}")

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
# Scans have two kinds of coordinates: voxels (i, j, k) count from the array's corner, millimetres (x, y, z) from the
# scanner's origin. Mix them up, and you click another place. Here millimetres are given as voxels.

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
masks_to_measure = {"by hand": by_hand.mask_of(organ), "program": session.mask, "truth": truth}
table = sap.quantify(volume, {name: mask for name, mask in masks_to_measure.items() if mask.any()})
table.pivot_table(index=["quantity", "unit"], columns="object", values="value", sort=False).round(2)

# %% [markdown]
# Compare mask and truth. SUVmean forgives a crooked outline; SUVmax and SUVpeak depend on a single hot spot, so they
# jump if the mask takes in a bit of a hot neighbour. And volume? **Predict:** if two volumes agree within one percent,
# do the outlines agree?

# %%
leak_ml = (session.mask & ~truth).sum() * volume.voxel_volume_ml
miss_ml = (truth & ~session.mask).sum() * volume.voxel_volume_ml
difference = session.mask.sum() / truth.sum() - 1
print(f"volumes differ by {difference:+.1%}, but {leak_ml:.0f} mL of the mask leak out and {miss_ml:.0f} mL are missed")

# %% [markdown]
# Leaks and misses cancel in a volume. DSC counts both. And each row of the table carries its `definition`, so that a
# number in a paper can be traced.

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
# Reading rooms have drawn outlines by threshold for decades: start at the click and take all connected voxels that are
# hot enough. A network that cannot beat that is not worth its weights. **Drag the threshold:** where does the outline
# leak, where does it fall to pieces, and how good is the best of all?

# %%
threshold_on(volume, session.clicks[0].ijk, truth)

# %% [markdown]
# Three rules get the *same clicks* as the program gave the network: `41% SUVmax`, voxels above 41 % of the local
# maximum, made for hot lesions; `SUV>=2.5`; and `band`, voxels about as hot as the clicked one, made for organs. Your
# own curve is drawn beside them.

# %%
labels = {"case": case.name, "target": organ}
steps = [{**labels, "model": network.name, "click": row["click"], "dsc": row["DSC"]} for row in rows]
for rule in ("41% SUVmax", "SUV>=2.5", "band"):
    threshold = ThresholdSession(volume, rule)
    for number, click in enumerate(session.clicks, 1):
        mask = threshold.click(ijk=click.ijk, foreground=click.foreground)
        steps.append({**labels, "model": rule, "click": number, "dsc": sap.dice(mask, truth)})
yours = enumerate(widget.score.get("curve", []), 1) if by_hand.active == organ else ()
steps += [{**labels, "model": "by hand", "click": number, "dsc": dsc} for number, dsc in yours]
_ = sap.plot_dsc(pd.DataFrame(steps))

# %% [markdown]
# One organ of one scan proves nothing; it shows how to ask. The program's clicks were chosen on the *network's*
# errors, which favours the network; `sap.evaluate` (lesson 4) clicks each method's own errors. And a phantom is kind
# to `band`: its organs are evenly filled, a patient's are not.
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
display(found.round(2))
print("said to be not in view:", ", ".join(proposal.not_in_view) or "nothing")

# %% [markdown]
# A proposal is where somebody begins to correct, never a truth. Here the program corrects the organ that came out
# worst of the five that `tiny` learned, which draws proposals: the session starts from the proposal, and two clicks go
# where it is wrong.

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
# Now you: in the widget above, **Add object**, give it that name, and do better in as few clicks.

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. Volume by hand.** How many millilitres is the program's mask? Use `session.mask` and `volume.spacing` (in mm).

# %% tags=["solution"]
my_volume_ml = session.mask_of(organ).sum() * np.prod(volume.spacing) / 1000

# %%
sap.check("0.volume", my_volume_ml, mask=session.mask_of(organ), volume=volume)

# %% [markdown]
# **2. Where is it hottest?** Find the hottest voxel *inside the mask*, and give its place in millimetres.

# %% tags=["solution"]
inside = np.where(session.mask_of(organ), volume.data, -np.inf)
my_hottest_mm = volume.to_mm(np.unravel_index(inside.argmax(), volume.shape))

# %%
sap.check("0.hottest", my_hottest_mm, mask=session.mask_of(organ), volume=volume)

# %% [markdown]
# **3. By hand: a second object.** In the widget above, **Add object**, name it `kidney_left`, and click it until its
# DSC is 0.6 or more. (In code: `by_hand.select("kidney_left")` and `by_hand.click(ijk=...)`.)

# %% tags=["solution"]
kidney = truths["kidney_left"]
by_hand.select("kidney_left")
drawn = by_hand.click(ijk=first_click(kidney, spacing=volume.spacing).ijk)
for _ in range(4):
    if sap.dice(drawn, kidney) < 0.75:
        click = next_click(kidney, drawn, spacing=volume.spacing)
        drawn = by_hand.click(ijk=click.ijk, foreground=click.foreground)

# %%
sap.check("0.kidney", by_hand, truth=truths["kidney_left"])

# %% [markdown]
# **4. Change and explain.** Drag the threshold above from one end to the other. Which sentence says what you see?
#
# - a: The higher the threshold, the better the outline.
# - b: There is a best threshold in between, and it is not perfect.
# - c: The lower the threshold, the better the outline.
# - d: A good threshold reproduces the truth.

# %% tags=["solution"]
my_sentence = "b"

# %%
sap.check("0.threshold", my_sentence)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** The projection shows a dark spot in the middle of the liver. Is it in the liver?
#
# <details><summary>Answer</summary>
#
# Not necessarily. A projection shows the hottest voxel on each line of sight: the spot may lie in front of the liver
# or behind it, in the kidney for instance. Turn the projection, or look at the slices.
#
# </details>
#
# **2.** Two masks have the same volume and the same SUVmean. Are they the same?
#
# <details><summary>Answer</summary>
#
# No. One may leak where the other misses; volumes and means hide it. DSC, or a look at both outlines, tells.
#
# </details>
#
# **3.** Why does one negative click remove more than one voxel?
#
# <details><summary>Answer</summary>
#
# The click binds its own voxel, and the network reads it as a hint about the object: what looks alike around it goes
# along.
#
# </details>

# %% [markdown]
# ## Bring your own scan
#
# `load_dicom` sorts the slices, applies each slice's own scale, and computes SUV from dose, weight and times in the
# headers; if one of these is missing it names the tag and stops, rather than guess. Set `dicom_folder` among the
# parameters, run that cell and this one again. Without `dicom_click` it clicks the hottest voxel, which tends to be
# bladder, heart or brain: look at the picture, find your target, and give its voxel. Look at the picture before you
# believe the table.

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
own_table[["object", "quantity", "value", "unit"]].round(2)

# %% [markdown]
# ## What you take home
#
# - Look first; say the unit; name the frame of a coordinate.
# - One embedding, many clicks; undo is exact; a journal makes a mask repeatable.
# - A mask is worth what it adds to a threshold, and a number is worth what its definition says.
#
# ## Who says what
#
# - **Reconstructed:** the arithmetic of the network, after the published code; tests hold it against reference values,
# block by block. - **Trained here:** `tiny-base`, on random shapes and phantoms only (`tiny`, too, and what finds
# organs). It stands for SAM-Med3D, the generalist that SegAnyPET started from, so that lessons run offline. It is
# *not* the published weights, nor a copy of them.
# - **Measured here:** every number on this page, on your machine, just now.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET: Universal Promptable Segmentation from Positron Emission Tomography Images*, ICCV 2025,
#   arXiv:2502.14351. Method and targets.
# - Wang et al., *SAM-Med3D*, arXiv:2310.15161. The network.
# - Boellaard et al., *FDG PET/CT: EANM procedure guidelines for tumour imaging: version 2.0*, Eur J Nucl Med Mol
#   Imaging 42, 2015. SUV and the 41 % threshold.
# - Wahl et al., *From RECIST to PERCIST*, J Nucl Med 50, 2009. SUVpeak.
# - `data_samples/README.md`. How the phantoms were made.
#
# *Lesson 0 of 9; before it: [how PET works](how_pet_works.md); next: [1 Counts to SUV](01_data_exploration_suv.ipynb)*
#
# *Not for clinical use.*
