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
# # Tumour burden: how much is there, and what does not belong to it?
#
# Oncologists do not ask for DSC, they ask how much tumour there is. Without any click a threshold calls everything hot
# tumour: brain, bladder, heart. With clicks, small lesions come out too large. Here you measure [tumour
# burden](glossary.md#tumour-burden), take healthy organs away, and see how well two measurements agree.
#
# **You will be able to**
#
# - measure MTV and TLG of a patient, and say how far they are off;
# - take healthy organs out of a threshold, and name the price;
# - read [FPV, FNV](glossary.md#fpv-and-fnv) and [F1](glossary.md#detection-f1) beside DSC;
# - draw and read a [Bland-Altman plot](glossary.md#bland-altman-plot).
#
# **Before you start:** lesson 7.
#
# **Time:** about 2 minutes to run on two cores of a laptop, half an hour to read and click; 2 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 8 of 9; previous: [7 One click, many lesions](07_tumor_zero_shot.ipynb); next: [9 Inside the
# network](09_inside_the_network.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

import seganypet as sap
from seganypet.cohort.case import InMemoryCase
from seganypet.cohort.labels import lesion_instances
from seganypet.lessons.pictures_prompts import burden, limits_of_agreement
from seganypet.metrics import lesion_scores
from seganypet.pet.physiology import physiology_from_clicks
from seganypet.pet.plots import COLOURS
from seganypet.prompting.autopet_clicks import simulate_autopet_clicks, write_autopet_clicks
from seganypet.prompting.simulate import first_click
from seganypet.prompting.suggest import background_clicks
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.study.interactive import interactive_scores, interactive_steps
from seganypet.study.tumour_scan import TumourScan

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = ""  # a cohort.csv, an AutoPET or an nnU-Net folder, with lesions; empty: phantoms
phantom_seeds: list = [501, 502]  # of disseminated disease; 10000 and above were trained on
model_3d: str = "tiny-organs"  # or "tiny-base", "seganypet-v1", "seganypet-lesion", a path
others: list = ["tiny-base"]  # more 3D networks for "Real tumours"
clicks: int = 2  # on each lesion
totalsegmentator_dir: str = ""  # TotalSegmentator's output for the cases, for brain and bladder
output_dir: str = "../out"  # everything is written here

# %%
sap.check_parameters(globals())
assert clicks >= 1, f"clicks={clicks}: at least 1."
output = Path(output_dir) / "burden"
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Load, and look

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

# %% [markdown]
# ## Your hand first: what is hot and healthy?
#
# SUV 4 and more, everywhere. **Drag the threshold**, and watch lesions, false alarms and DSC. Then tick *hot organs
# removed* (their outlines are known here).

# %%
burden(pet, truth, scan.physiology)

# %% [markdown]
# Where nobody drew the organs, one click on each can do. **Click what is hot and healthy** in the widget: brain, both
# kidneys, bladder, heart. Each click takes the peak that it lies on, and all around it with at least half its uptake.
# Leave the lesions alone: what do you lose?

# %%
healthy = ThresholdSession(pet, "50% SUVmax")
healthy.select("healthy")
sap.ClickWidget(healthy, intensity_range=(0, 15))

# %%
if not healthy.clicks and scan.physiology is not None:
    print("Nobody clicked: a program does, who knows the organs.")
    not_this = [click.ijk for click in background_clicks(pet, scan.physiology)]
else:
    not_this = [click.ijk for click in healthy.clicks if click.foreground]
clicked_organs = physiology_from_clicks(pet, not_this)
hot = sap.hot_mask(pet, 4.0)
false_ml = np.count_nonzero(hot & ~truth) * pet.voxel_volume_ml
left_ml = np.count_nonzero(hot & ~clicked_organs & ~truth) * pet.voxel_volume_ml
print(f"{len(not_this)} clicks: of {false_ml:.0f} mL of false alarms {left_ml:.0f} mL are left")

# %% [markdown]
# ## The reading room, and what healthy organs do to it
#
# The [false positive volume](glossary.md#fpv-and-fnv) says how much of a mask lies in pieces that touch no lesion; an
# organ that a lesion touches is left out of it, so `false_ml` here counts every voxel outside of lesions. Two
# remedies: know the organs, or click once on each of them.
#
# And is 4 the right number? [PERCIST](glossary.md#percist) asks the patient's own liver: 1.5 times its mean plus 2 of
# its SD, in SUL, is what a lesion's SULpeak must reach to be measured. It was not made to draw contours; used for
# that, it shows what a lower threshold trades. **Predict the order of the rows by false_ml.**

# %%
masks = {"SUV>=4": sap.hot_mask(pet, 4.0)}
organs = scan.physiology
if organs is not None:
    masks["SUV>=4, organs cut out"] = masks["SUV>=4"] & ~organs
    masks["SUV>=4, no hot organs"] = sap.without_physiology(pet, masks["SUV>=4"], organs)
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
display(alarms[["dsc", "fpv_ml", "false_ml", "fnv_ml", "f1", "mtv_ml", "true_mtv_ml"]].round(2).head(6))
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
# A click speaks for one peak, and for what hangs on it at half its uptake or more: it can leave half a heart, or take
# a lesion along. PERCIST's lower threshold finds faint lesions (FNV) and more healthy tissue (`false_ml`).
#
# Bowel is left, since the list of hot organs leaves it out: lesions lie in it and around it, and nobody would find
# them again. In the projection it covers the bladder, which may look as if that had stayed.

# %% [markdown]
# ## Burden: MTV and TLG
#
# Oncologists do not ask for DSC, they ask how much tumour there is. Agreement of each lesion's MTV and of its TLG with
# the truth ([Bland-Altman](glossary.md#bland-altman-plot); first: the network, second: the truth), in per cent of the
# mean of both: +100 % is three times as large.

# %%
network = sap.load_model(model_3d)
own_mm = network.config.spacing_mm
fine = {"spacing_mm": min(own_mm, 2.0), "min_spacing_mm": min(own_mm, 1.5)}  # windows for lesions, as in lesson 7
own_table = f"{Path(model_3d).stem}_{clicks}.csv"  # one table for each setting: the same setting is resumed
table = sap.analyse_tumours(
    cases, [model_3d], clicks=clicks, clicks_at_once=1, totalsegmentator=organs_from, output=output / own_table,
    reports=output,
)  # fmt: skip
single = table[(table["prompting"] == "one by one") & (table["lesion"] != "all")]
of_network = single[single["model"] == model_3d]

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
        ax.set(xscale="log", ylabel=f"{model_3d} minus truth, %")
        print(agreement.text)

# %% [markdown]
# The points make a funnel: small lesions scatter more widely than large ones, and most of them are drawn too large.
# One pair of limits cannot describe both ends. And lesions of one patient resemble each other, so the intervals around
# bias and limits, which take every lesion for a witness of its own, are too narrow.
#
# **Drag:** what do limits say with 5 lesions, what with 100? And what does one lesion do that leaks?

# %%
limits_of_agreement()

# %% [markdown]
# Now the sum over a patient:

# %%
sums = table[(table["lesion"] == "all") & table["click"].isin([0, clicks])]
sums = sums[["case", "model", "prompting", "mtv_ml", "true_mtv_ml", "tlg", "true_tlg"]]
sums.round(0).head(6)

# %% [markdown]
# Large lesions carry the burden, but one mask that leaked into an organ can outweigh them all, and DSC of single
# lesions, a mean, hides it. Do errors cancel? Only where their signs differ; for MTV most have one sign here, and add
# up. Where they do cancel, it is luck, not accuracy.

# %% [markdown]
# ## autoPET's interactive protocol
#
# The autoPET IV challenge gives foreground and background clicks *in advance*, in a file, ten of each, and measures
# after 0, 1, ..., 10 of them. Nobody looks at the mask before the next click. We write such a file, read by any
# contestant, and follow the protocol with one object and with one for each lesion. The clicked lesions are drawn by
# chance, so the bound of a perfect network is another one here: it finds those that are clicked. `auc` is the area
# over the ten steps: of DSC at most 10, of volumes in mL times steps. A background click only matters where a mask
# holds it.

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

# %% [markdown]
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
        targets=["lesions"], rules=["41% SUVmax, from hottest"],
    )  # fmt: skip
    rows.append(scores[scores["click"].isin([1, 3, 5])])
    first = first_click(drawn, spacing=sarcoma.spacing)
    answer = sap.Session(network, sarcoma).click(ijk=first.ijk)
    masks = {"drawn by an expert, on MR and CT": drawn, f"{model_3d}, one click": answer}
    axes = sap.show_slices(sarcoma, masks, clicks=[first])
    axes[0].figure.suptitle(folder.name)
if rows:
    display(pd.concat(rows).pivot_table(index=["case", "model"], columns="click", values="dsc").round(2))
else:
    print("Skipped: no folder sts; set SEGANYPET_REAL_DATA to a folder that holds it.")

# %% [markdown]
# Two patients are an anecdote. On eight others, measured in `benchmarks/tumours.md` with sessions as they were then,
# `tiny-organs`, which never saw a lesion, was behind a threshold of 41 % after one click and ahead of it after five,
# with intervals that exclude 0; `tiny-base` could not be told from it either time. What do your rows say? A tumour
# with a cold core is where a threshold must fail and a shape could help.

# %% [markdown]
# ## A page for each case

# %% [markdown]
# The measurement above also wrote one self-contained page for each case: the projection, the lesions, their table,
# every click, and which versions made it. Open it in a browser; nothing in it asks any host.

# %%
for page in sorted(output.glob("*.html")):
    print(page, f"{page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# ## When it goes wrong
#
# Take the organs away with a list that knows no bladder, and the bladder is tumour. A list that is empty is refused,
# not read as "no organs are hot":

# %%
try:
    sap.physiological_mask(np.zeros(pet.shape, int), {}, ["bladder"])
except sap.SegAnyPETError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. False alarms.** `components` holds, for each connected piece that a threshold found: its volume in mL, and how
# many of its voxels lie in a true lesion. Compute the false positive volume as autoPET does.

# %%
components = pd.DataFrame({"volume_ml": [12.0, 230.0, 3.5, 1400.0, 8.0], "voxels_in_lesions": [90, 0, 1, 0, 40]})
components

# %% tags=["solution"]
my_fpv_ml = components.loc[components["voxels_in_lesions"] == 0, "volume_ml"].sum()

# %%
sap.check("8.fpv", my_fpv_ml)

# %% [markdown]
# **2. Percent of what?** A network draws 30 mL where 10 mL are true. What is the difference, in percent, on a
# Bland-Altman plot?

# %% tags=["solution"]
my_percent = 100 * (30 - 10) / ((30 + 10) / 2)

# %%
sap.check("8.percent", my_percent)

# %% [markdown]
# **3. By hand: healthy organs.** In the widget above, click healthy organs until less than 60 % of the false alarms
# are left. Spare the tumour: at most three tenths of it may go with them.

# %% tags=["solution"]
for click in background_clicks(pet, scan.physiology) if scan.physiology is not None else []:
    healthy.click(ijk=click.ijk)

# %%
sap.check("8.hand", healthy, pet=pet, truth=truth)

# %% [markdown]
# **4. Change and explain.** Drag the threshold at the top from 4 to 2.5, hot organs removed. What happens?
#
# - a: More lesions are touched, and nothing else changes.
# - b: No more lesions are touched, only false volume grows.
# - c: More lesions are touched, and more volume that is no lesion comes with them.

# %% tags=["solution"]
my_sentence = "c"

# %%
sap.check("8.threshold", my_sentence)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** A method has an FPV of nearly 0 and an MTV of twice the truth. How?
#
# <details><summary>Answer</summary>
#
# Its false volume hangs on lesions: a leak that touches a lesion does not count as FPV. Read MTV beside it.
#
# </details>
#
# **2.** A node lies against the full bladder. What does removing physiology do to it?
#
# <details><summary>Answer</summary>
#
# If it has a peak of its own, it stays; if the bladder's blur drowns it, it is lost. FNV before and after shows the
# price.
#
# </details>
#
# **3.** Two readers' MTVs correlate with 0.98. Do they agree?
#
# <details><summary>Answer</summary>
#
# Perhaps not: one may always measure twice as much. Bland and Altman's bias shows it, a correlation does not.
#
# </details>

# %% [markdown]
# ## What you take home
#
# - FPV, FNV and F1 say what DSC hides, and hide what DSC shows. Burden is what the clinic asks for.
# - Healthy organs are the larger half of a threshold's error. Say how you removed them.
# - Limits of agreement need points of one kind: look before you quote them.
#
# ## Who says what
#
# - **Published:** the protocol of autoPET IV; PERCIST; 41 %.
# - **Ours:** that a voxel goes with its peak.
# - **Measured here:** every number that a cell printed but those of the exercise on false alarms, with networks
#   trained here on phantoms.
#
# ## Sources
#
# - Gatidis et al., *A whole-body FDG-PET/CT dataset with manually annotated tumor lesions*, Sci Data 9, 2022; autoPET
#   IV, autopet-iv.grand-challenge.org.
# - Bland and Altman, *Measuring agreement in method comparison studies*, Stat Methods Med Res 8, 1999.
# - Wahl et al., *From RECIST to PERCIST*, J Nucl Med 50, 2009. Boellaard et al., *FDG PET/CT: EANM procedure
#   guidelines*, EJNMMI 42, 2015.
# - Vallières et al., soft-tissue sarcoma, The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2015.7GO2GSKS.
#
# *Lesson 8 of 9; previous: [7 One click, many lesions](07_tumor_zero_shot.ipynb); next: [9 Inside the
# network](09_inside_the_network.ipynb)*
#
# *Not for clinical use.*
