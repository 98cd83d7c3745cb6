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
# # Data exploration: labels and a cohort you can trust
#
# Somebody gives you scans, outlines and a table. The first thing to do with them is not to train, it is to ask whether
# they can be what they claim to be. Here you hunt for mistakes by eye, learn which ones a program finds, mend both,
# and draw labels as the article's annotators did.
#
# **You will be able to**
#
# - find what is wrong with a set of masks, by looking and by numbers, and mend it;
# - say how labels of high and of low quality ([HQ and LQ](glossary.md#hq-and-lq)) differ, and which number suffers;
# - make labels in two steps, as a junior and a senior do;
# - open a [cohort](glossary.md#cohort) (phantoms, or your own AutoPET folder), find everything that is wrong with it
#   in one table, and split it without cheating.
#
# **Before you start:** lesson 2.
#
# **Time:** about 2 minutes to run on two cores of a laptop, 40 minutes to read and click; 2 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 3 of 9; previous: [2 What a mask measures](02_data_exploration_masks.ipynb); next: [4 Clicks in 2D and
# 3D](04_2d_vs_3d_prompting.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

import seganypet as sap
from seganypet.lessons.hunt import WRONG, spoilt_masks
from seganypet.lessons.pictures_pet import annotator
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.prompting.simulate import first_click, next_click

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = ""  # your cohort: an AutoPET or nnU-Net folder, or a cohort.csv; empty: phantoms
organ_labels: str = ""  # a folder of organ label maps that belong to it, such as AutoPET-Organ's
n_phantoms: int = 3  # phantoms that are made, whatever `data` says; at least 3
seed: int = 9000  # of the first phantom
lq_dsc: float = 0.75  # mean DSC of the low-quality labels to the truth, 0.6 to 0.93
real_clicks: str = "acrin042_clicks.json"  # clicks for the section "The same on a patient"
voxels: bool = True  # read every voxel of the cohort when it is checked; False: headers only
output_dir: str = "../out"  # everything is written here

# %%
sap.check_parameters(globals())
assert n_phantoms >= 3, f"n_phantoms={n_phantoms}: at least 3 are needed."
output = Path(output_dir) / "labels"
output.mkdir(parents=True, exist_ok=True)
phantom = sap.make_phantom(seed)
truths = {name: phantom.organs == label for label, name in phantom.organ_names.items()}
by_hand = 82 * 1000 / 209e6  # SUV of 1 Bq/mL in lesson 1's patient

# %% [markdown]
# ## Your hand first: three things are wrong with these masks
#
# Five organs, drawn by somebody, for you to approve. **Three things are wrong.** Turn the projection (drag it), scroll
# through the slices, hide and show objects, read the table of volumes and SUVs. Do not click yet. Which objects would
# you send back, and why?

# %%
network = sap.load_model("tiny")
hunted = sap.Session(network, phantom.pet)
for name, mask in spoilt_masks(truths).items():
    hunted.select(name)
    hunted.start_from(mask)
sap.ClickWidget(hunted, output_dir=output / "hunted")

# %%
_ = sap.show_mip(phantom.pet, hunted.masks)

# %% [markdown]
# Numbers help the eye. What two outlines share, in percent of the one named second; and the volume of each:

# %%
shares = {
    f"{one} / {other}": 100 * (hunted.mask_of(one) & hunted.mask_of(other)).sum() / hunted.mask_of(other).sum()
    for one in hunted.objects for other in hunted.objects if one != other
}  # fmt: skip
print(", ".join(f"{pair} {share:.0f} %" for pair, share in shares.items() if share >= 1) or "nothing is shared")
print(", ".join(f"{name} {mask.sum() * phantom.pet.voxel_volume_ml:.0f} mL" for name, mask in hunted.masks.items()))

# %% [markdown]
# **1. The hunt.** Name all objects that are wrong, in a list such as `["liver"]`. (Two outlines under each other's
# name are both wrong.)

# %% tags=["solution"]
my_suspects = ["kidney_left", "kidney_right", "spleen", "heart"]

# %%
sap.check("3.hunt", my_suspects, wrong=WRONG)

# %% [markdown]
# **2. By hand: mend them.** In the widget above. Exchanged outlines get their names back; what was swallowed is taken
# away with the eraser or a right click; what is missing is clicked. DSC 0.7 is enough.

# %% tags=["solution"]
left, right, swollen = (hunted.mask_of(name) for name in ("kidney_right", "kidney_left", "spleen"))
for name, mask in (("kidney_left", left), ("kidney_right", right), ("spleen", swollen & ~left)):
    hunted.select(name)
    hunted.start_from(mask)
hunted.remove("heart")
hunted.select("heart")
heart = truths["heart"]
drawn = hunted.click(ijk=first_click(heart, spacing=phantom.pet.spacing).ijk)
for _ in range(5):
    if sap.dice(drawn, heart) < 0.75:
        click = next_click(heart, drawn, spacing=phantom.pet.spacing)
        drawn = hunted.click(ijk=click.ijk, foreground=click.foreground)

# %%
sap.check("3.mended", hunted, truths={name: truths[name] for name in WRONG})

# %% [markdown]
# ## The same on a patient
#
# The series `acrin042` is a patient with a lung tumour, scanned from neck to kidneys, from a public collection of The
# Cancer Imaging Archive. It does not come with this package: the cells run where it lies in `$SEGANYPET_REAL_DATA` or
# `../../shared/data`. Somebody clicked the organs; the network of today drew them. There is no truth, only your eye
# and what is known of anatomy.

# %%
real_folder = Path(os.environ.get("SEGANYPET_REAL_DATA", "../../shared/data")) / "acrin042" / "PET_AC"
has_real_scan = real_folder.is_dir()
if has_real_scan:
    real = sap.load_dicom(real_folder)
    patient = sap.Session(sap.load_model("tiny-base"), real)
    for name, places in json.loads(Path(real_clicks).read_text()).items():
        patient.select(name)
        for i, j, k, foreground in places:
            patient.click(ijk=(i, j, k), foreground=bool(foreground))
    sap.show_mip(real, patient.masks, vmax=10)
else:
    print("Skipped: no folder acrin042/PET_AC; set SEGANYPET_REAL_DATA to the folder that holds acrin042.")

# %% [markdown]
# **Look, then run:** which outlines would you not sign? Ask of each: is it the organ, all of it, and nothing else?
# What should its volume be? Is what is hottest in it its own?

# %%
kidney_ml = (100, 250)
usual_ml = {"liver": (1000, 2200), "spleen": (80, 400), "heart": (250, 800)}
usual_ml |= {"kidney_left": kidney_ml, "kidney_right": kidney_ml}
if has_real_scan:
    for name, mask in patient.masks.items():
        ml, suv = mask.sum() * real.voxel_volume_ml, real.data[mask]
        low, high = usual_ml.get(name, (0, np.inf))
        doubt = "" if low <= ml <= high else f"   not the usual {low} to {high} mL"
        print(f"{name:13s}{ml:6.0f} mL, SUVmean {suv.mean():5.2f}, SUVmax {suv.max():5.2f}{doubt}")
    hottest = np.unravel_index(real.data.argmax(), real.shape)
    owners = [name for name, mask in patient.masks.items() if mask[hottest]]
    print(f"the hottest voxel of all, SUV {real.data.max():.0f}, belongs to {', '.join(owners) or 'none of them'}")

# %% [markdown]
# The scan ends at the kidneys and cuts their lower poles, so theirs are too small by what is missing: that is the
# scan, not the mask. A kidney of a few millilitres is the mask: one click was taken for a spot. A liver with a maximum
# far above its mean holds something that is not liver. **Mend them by mouse** (where the scan is), with what the
# phantom taught you.

# %%
if has_real_scan:
    display(sap.ClickWidget(patient, output_dir=output / "acrin042"))

# %% [markdown]
# ## Good labels, doubtful labels
#
# *Published:* the article's labels come from a model and one junior annotator (LQ); for 100 scans, two senior experts
# checked and refined them (HQ). On a phantom the truth is known, so we can *make* doubtful labels of a chosen quality,
# by imitating how people and programs err (`seganypet.phantom.annotators`; the sizes of errors are our inference).

# %% [markdown]
# **Predict, then drag:** who draws worst at the same severity? And which of the three numbers suffers from whom?

# %%
annotator(phantom)

# %% [markdown]
# A whole set of labels, made so that their mean DSC is what you ask for:

# %%
doubted = sap.low_quality_labels(phantom, lq_dsc, seed=0, organs=SEEN_ORGANS)
rows = []
for organ in SEEN_ORGANS:
    truth, label = (array == ORGANS.index(organ) + 1 for array in (phantom.organs, doubted.labels))
    numbers = sap.quantify(phantom.pet, {"truth": truth, "doubtful": label})
    numbers = numbers.pivot_table(index="object", columns="quantity", values="value")
    change = 100 * (numbers.loc["doubtful"] / numbers.loc["truth"] - 1)
    change = change[["MTV", "SUVmean", "SUVmax"]].add_suffix(", %")
    rows.append({"organ": organ, "DSC": sap.dice(label, truth), **change})
pd.DataFrame(rows).round(2)

# %% [markdown]
# Labels of similar DSC can leave a mean nearly as it was and ruin a maximum, or the other way round: a missed hot spot
# costs SUVmax, a leak into something cool costs the mean. So before you ask "how good is the mask?", ask "for which
# number?".

# %% [markdown]
# ### Make labels yourself: the workflow of Fig. 1
#
# *Published:* a model proposes, a junior corrects, a senior refines. `sap.Annotation` is that workflow: it goes
# through a cohort case by case, saves every click, counts minutes and clicks, and writes masks with their quality into
# a new cohort table. The junior's proposal here comes from the network `tiny`, from one click inside each of five
# organs.

# %%
phantoms = sap.Cohort.from_phantoms(n_phantoms, seed, folder=output / "phantoms")
cohort = sap.Cohort.from_path(data) if data else phantoms
if organ_labels:
    cohort = cohort.with_organs(organ_labels)
print(f"{len(cohort)} cases, {len({one.patient for one in cohort})} patients")
one_case = sap.Cohort([next(iter(phantoms))])
name = next(iter(one_case)).name
junior = sap.Annotation(one_case, network, output / "junior", annotator="J. Junior", targets=SEEN_ORGANS)
junior_session = junior.reopen(name)
print("proposed by", junior.proposal)

# %% [markdown]
# Now you are the junior. Pick an organ in the row of buttons, look where the outline is wrong, and click. When you
# like it, run on (or press **Done, next case**).

# %%
sap.AnnotationWidget(junior)

# %% [markdown]
# The senior opens the junior's clicks and goes on from there. A program clicks in the senior's place, so that the
# lesson runs by itself: for each organ, three clicks in what is most wrong. It sees the truth, which no senior does.
# Your clicks as junior are kept when you run this again; the program's, as senior, begin anew.

# %%
if junior.session is not None:
    junior.finish()
shutil.rmtree(output / "senior", ignore_errors=True)
senior = sap.Annotation(one_case, network, output / "senior", annotator="S. Senior", targets=SEEN_ORGANS,
                        refine=output / "junior")  # fmt: skip
session = senior.reopen(name)
known = dict(next(iter(one_case)).targets(session.volume, SEEN_ORGANS))
rows = []
for organ, truth in known.items():
    session.select(organ)
    before = sap.dice(session.mask_of(organ), truth)
    for _ in range(3):
        click = next_click(truth, session.mask_of(organ), spacing=session.volume.spacing)
        session.click(ijk=click.ijk, foreground=click.foreground)
    rows.append({"organ": organ, "junior": before, "senior": sap.dice(session.mask_of(organ), truth)})
senior.finish()
pd.DataFrame(rows).round(3)

# %%
for annotation in (junior, senior):
    took = pd.read_csv(annotation.folder / "annotations.csv")
    display(took[["annotator", "quality", "clicks", "proposed_clicks", "started_from"]])

# %% [markdown]
# `senior/cohort.csv` is a cohort like any other, quality HQ, ready to train on. What did a good label cost, in clicks?
#
# ## A cohort you can trust
#
# Somebody gives you a table. The first thing to do with it is not to train, it is to read every file and ask whether
# it can be what the table says. `report` does: facts of each case, and every problem in one table.

# %%
report = cohort.report(voxels=voxels, progress=bool(data))
columns = ["case", "shape", "spacing_mm", "orientation", "pet_p99", "pet_max", "organs", "lesions"]
display(report.cases[[column for column in columns if column in report.cases]].head(6))
print(f"{len(report.problems)} problems")
if len(report.problems):
    display(report.problems["problem"].value_counts().to_frame())

# %% [markdown]
# Orientation `LAS`, say, means that the first axis runs to the patient's Left, the second to the front (Anterior), the
# third to the head (Superior). Scanners and converters differ. This package reads all of them; a program that assumes
# one of them will exchange left and right.
#
# **Now a cohort with mistakes in it.** We take sound phantoms and break four things that really happen:

# %%
a, b, c = list(phantoms)[:3]
broken = output / "broken"
broken.mkdir(exist_ok=True)
sound = a.load_pet()
sap.save_volume(broken / "a_activity.nii.gz", sap.Volume(sound.data / by_hand, sound.affine, "Bq/mL"))
exchanged = b.load_organs(b.load_pet())[0]
left, right = (ORGANS.index(f"kidney_{side}") + 1 for side in ("left", "right"))
kidneys = np.isin(exchanged, (left, right))
exchanged[kidneys] = left + right - exchanged[kidneys]
sap.save_mask(broken / "b_organs.nii.gz", exchanged, like=b.load_pet())
suspects = [
    replace(a, name="unit", patient="A", pet=broken / "a_activity.nii.gz", split="train"),
    replace(b, name="kidneys", patient="B", organs=broken / "b_organs.nii.gz", split="train"),
    replace(c, name="other_labels", patient="C", lesions=b.lesions, split="train"),
    replace(c, name="again", patient="C2", split="test"),
]
problems = sap.Cohort(suspects, "broken cohort").validate(progress=False)
for row in problems.itertuples():
    print(f"{row.severity:8s}{row.case:14s}{row.problem:12s} {row.message.replace(str(output), '...')}\n")

# %% [markdown]
# Nothing was raised: you get all of it at once. The exchanged kidneys are a *warning*: a rare kidney crosses over, or
# the affine is mirrored and the labels are right, so somebody has to look. The others are *errors*. The last one is
# the mistake that makes results too good: one scan under two names, trained on and tested on.
#
# ### Split by patient
#
# One patient may have several scans. If one is trained on and another tested on, the test measures memory. So splits
# are over patients, and this package refuses a table that breaks the rule:

# %%
first_visit = replace(a, name="first visit", patient="A", split="train")
second_visit = replace(b, name="second visit", patient="A", split="test")
try:
    sap.Cohort([first_visit, second_visit], "two visits")
except sap.SegAnyPETError as error:
    print(type(error).__name__, "-", error)
split = phantoms.split_by_patient(seed=0, fractions={"train": 0.5, "test": 0.5})
print({one.name: one.split for one in split})

# %% [markdown]
# ## The article's data beside yours

# %%
display(sap.published(table=1).drop(columns="source"))
pd.Series({
    "cases": len(cohort), "patients": len({one.patient for one in cohort}),
    "with organs": sum(one.organs is not None for one in cohort),
    "with lesions": int((report.cases.get("lesions", pd.Series(dtype=float)) > 0).sum()),
    "HQ": sum(one.quality == "HQ" for one in cohort), "LQ": sum(one.quality == "LQ" for one in cohort),
}, name="the cohort at hand").to_frame()  # fmt: skip

# %% [markdown]
# What the table does not say: PETS-5k is private, from one hospital. AutoPET is public; AutoPET-Organ is 100 of its
# scans with organs drawn. A phantom is neither: it has the voxels of the former (or, with `domain="external"`, of the
# latter), published volumes and uptakes, and shapes simpler than anatomy.

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# (The first two were above.)

# %% [markdown]
# **3. Mend the broken cohort.** Make a list `mended` of cases from `suspects`, changed by `replace(...)`, so that
# nothing is left for `validate` to find. Keep as many different scans as possible, each with its organs and its own
# lesions.

# %% tags=["solution"]
unit, sides, labels_of_b, again = suspects
mended = [
    replace(unit, pet_unit="Bq/mL"),
    replace(sides, organs=b.organs),
    replace(labels_of_b, lesions=c.lesions),
]

# %%
sap.check("3.mend", mended, suspects=suspects)

# %% [markdown]
# **4. A suspicious spleen.** In which case of `phantoms` is the spleen's SUVmax highest in relation to the same case's
# liver's SUVmax? Give the case's name. `measured` has all you need.

# %%
measured = sap.quantify_cohort(phantoms, progress=False)
measured[["case", "object", "quantity", "value"]].head(3)

# %% tags=["solution"]
maxima = measured.query("quantity == 'SUVmax'").pivot_table(index="case", columns="object", values="value")
my_case = (maxima["spleen"] / maxima["liver"]).idxmax()

# %%
sap.check("3.spleen", my_case, measured=measured)

# %% [markdown]
# **5. Change and explain.** Set `lq_dsc` to 0.6 and run again, or drag the severity above. Which sentence holds?
#
# - a: All labels of one DSC change the mean, the maximum and the volume alike.
# - b: A label with a high DSC is good for every number.
# - c: Labels of one DSC can harm different numbers, depending on the kind of error.

# %% tags=["solution"]
my_sentence = "c"

# %%
sap.check("3.quality", my_sentence)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** One scan lies under two names, in training and in test. Which number is false?
#
# <details><summary>Answer</summary>
#
# The test result: it measures memory. Every training number looks as it should, which is why a check of the files has
# to find it.
#
# </details>
#
# **2.** A program warns that left and right kidney are exchanged. Is it an error?
#
# <details><summary>Answer</summary>
#
# It is a question. The labels may be exchanged, or the affine mirrored, or the patient has a rare anatomy. Somebody
# has to look.
#
# </details>
#
# **3.** Why are splits made over patients, not over scans?
#
# <details><summary>Answer</summary>
#
# Two scans of one person resemble each other. If one is trained on and the other tested on, the test is no test.
#
# </details>

# %% [markdown]
# ## Your own AutoPET
#
# Download FDG-PET-CT-Lesions (NIfTI edition) or an autoPET challenge folder, then run this lesson again with
# `data="/path/to/it"`; AutoPET-Organ's labels go into `organ_labels`. Begin with `voxels=False`, which takes less than
# a minute for 1,014 studies on a local disk; the full check reads every voxel, seconds for each study. Then keep the
# table:
#
# ```python
# cohort = sap.Cohort.from_path("/path/to/FDG-PET-CT-Lesions")
# cohort = cohort.with_organs("/path/to/AutoPET-Organ")   # the cases that it has
# cohort.report(voxels=False).problems
# cohort.split_by_patient(0, {"train": 0.8, "test": 0.2}).to_csv("cohort.csv")
# ```
#
# A file of organ labels does not say which number is which organ, and AutoPET-Organ is reported to use two orders. The
# package detects which one a file follows, and says so in a warning; write it into `organ_convention` when you have
# looked.

# %% [markdown]
# ## What you take home
#
# - Look at every mask you did not draw; ask of each: the organ, all of it, nothing else?
# - Doubtful labels are not one kind of wrong. Ask which number suffers.
# - Check a cohort before you believe anything that comes out of it, and split by patient.
#
# ## Who says what
#
# - **Published:** Table 1; how labels of the two qualities were made.
# - **Reconstructed:** sizes of the annotators' errors; AutoPET-Organ's two label orders, as users report them.
# - **Measured here:** every number that a cell printed.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, and its supplement (A: data and annotation, Fig. 1, Table
#   1).
# - Gatidis et al., *A whole-body FDG-PET/CT Dataset with manually annotated Tumor Lesions*, Scientific Data 9, 2022.
# - ACRIN-NSCLC-FDG-PET, The Cancer Imaging Archive, doi:10.7937/tcia.2019.30ilqfcl. The patient.
#
# *Lesson 3 of 9; previous: [2 What a mask measures](02_data_exploration_masks.ipynb); next: [4 Clicks in 2D and
# 3D](04_2d_vs_3d_prompting.ipynb)*
#
# *Not for clinical use.*
