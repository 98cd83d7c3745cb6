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
# # Data: from the scanner to a cohort you can trust
#
# Before a network sees a scan, somebody has turned counts into a number that means something, drawn outlines, and put
# files in a table. Each step can go wrong silently: the picture still looks like a patient, and only the numbers are
# false. Here you will take each step yourself, make its mistake once, and see how to catch it.
#
# **You will learn**
#
# - to compute [SUV](glossary.md#suv) from a [DICOM](glossary.md#dicom) header by hand, and what a wrong unit does;
# - to look at PET: [projections](glossary.md#mip), PET over CT, and what is hot without being ill;
# - what twelve organs and their lesions measure: volumes, uptake, and why small things look cold;
# - how labels of high and of low quality differ, in numbers, and to make both, as the SegAnyPET article's annotators
#   did;
# - to open a [cohort](glossary.md#cohort) (phantoms, or your own AutoPET folder), find everything that is wrong with it
#   in one table, and split it without cheating.
#
# **Before you start:** the quickstart.
#
# **Time:** about 1 minute to run on two cores of a laptop, an hour to read; 2 GB of memory. No GPU, no internet. Words
# are explained in the [glossary](glossary.md).
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import os
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pydicom.dataset import Dataset
from scipy.ndimage import gaussian_filter

import seganypet as sap
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.plots import COLOURS
from seganypet.prompting.simulate import first_click, next_click

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = ""  # your cohort: an AutoPET or nnU-Net folder, or a cohort.csv; empty: phantoms
organ_labels: str = ""  # a folder of organ label maps that belong to it, such as AutoPET-Organ's
case_name: str = ""  # the case of it to look at closely; empty: the first
n_phantoms: int = 6  # phantoms that are made, whatever `data` says; at least 3
seed: int = 9000  # of the first phantom
lq_dsc: float = 0.75  # mean DSC of the low-quality labels to the truth, 0.6 to 0.93
dicom_folder: str = ""  # a PET series; empty: acrin042, where it lies beside the repository
voxels: bool = True  # read every voxel of the cohort when it is checked; False: headers only
output_dir: str = "../out"  # everything is written here

# %%
assert n_phantoms >= 3, f"n_phantoms={n_phantoms}: at least 3 are needed."
output = Path(output_dir) / "data_exploration"
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## From counts to SUV, by hand
#
# A PET scanner counts pairs of photons from decays of the tracer. Corrected (for attenuation, scatter, chance pairs,
# dead time, decay) and calibrated, the counts become an *activity concentration*, in [becquerel](glossary.md#becquerel)
# per millilitre. That number depends on how much was injected, how long ago, and into how large a person. The
# standardised uptake value takes these out:
#
# $$\text{SUV}_\text{bw} = \frac{\text{activity concentration [Bq/mL]} \times \text{weight [g]}}
# {\text{activity left of the dose [Bq]}}$$
#
# If the tracer spread evenly, every gram would hold the same share, and SUV would be 1 everywhere (taking a gram for a
# millilitre). Here is what a header says about it, made up for this lesson. Everything that is needed stands there; the
# names are DICOM's.

# %%
header = Dataset()
header.Modality, header.Units = "PT", "BQML"
header.CorrectedImage, header.DecayCorrection = ["ATTN", "SCAT", "DECY"], "START"
header.PatientWeight, header.PatientSize, header.PatientSex = "82", "1.79", "M"  # kg, m
header.SeriesDate = header.AcquisitionDate = "20240118"
header.SeriesTime = header.AcquisitionTime = "120110"  # 12:01:10
drug = Dataset()
drug.RadiopharmaceuticalStartTime = "110230"  # injected at 11:02:30
drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "303000000", "6586.2"  # Bq at injection; s, of fluorine-18
header.RadiopharmaceuticalInformationSequence = [drug]

# %% [markdown]
# **Predict, then run:** an hour has passed, and the [half-life](glossary.md#half-life) is 110 minutes. After half of a
# half-life 71 % are left. Is it more or less here?

# %%
waited_s = (datetime(2024, 1, 18, 12, 1, 10) - datetime(2024, 1, 18, 11, 2, 30)).total_seconds()
left_bq = 303e6 * 2 ** (-waited_s / 6586.2)
by_hand = 82 * 1000 / left_bq
print(f"{waited_s / 60:.1f} min after the injection {left_bq / 303e6:.1%} of {303e6 / 1e6:.0f} MBq are left")
print(f"SUVbw of 1 Bq/mL, by hand: {by_hand:.4e}")

# %%
factor = sap.suv_factor([header])
print(f"by the library:            {factor.suv_per_stored_unit:.4e}")
print(factor.how)
assert np.isclose(by_hand, factor.suv_per_stored_unit)

# %% [markdown]
# The last line is what makes SUV hard. DecayCorrection "START" says that the scanner has corrected all slices back to
# *one moment*; each vendor says in its own way which one. The line means: here it is the series time. `suv_factor`
# knows the ways of the vendors, and refuses where a header leaves it open.
#
# ### Three mistakes to make once
#
# **Forget the decay.** Everything looks right, and is too low by what has decayed.

# %%
without_decay = 82 * 1000 / 303e6
print(f"SUV without decay: {without_decay / by_hand - 1:+.0%}")

# %% [markdown]
# **Type the dose in MBq.** The tag's unit is Bq. The library does not guess; it refuses:

# %%
drug.RadionuclideTotalDose = "303"
try:
    sap.suv_factor([header])
except sap.SegAnyPETError as error:
    print(type(error).__name__, "-", error)
drug.RadionuclideTotalDose = "303000000"

# %% [markdown]
# **Lose the header.** A NIfTI file keeps voxels and grid, but no unit, weight or dose. We save a phantom as becquerel
# per millilitre, and open it with the wrong word. No error: nothing in the file contradicts us.

# %%
phantom = sap.make_phantom(seed)
activity = sap.Volume(phantom.pet.data / by_hand, phantom.pet.affine, "Bq/mL")
sap.save_volume(output / "activity.nii.gz", activity)
mistaken = sap.load_volume(output / "activity.nii.gz", unit="SUVbw")  # the mistake
liver = phantom.organs == ORGANS.index("liver") + 1
print(f"mean 'SUV' of the liver: {mistaken.data[liver].mean():.0f}, in truth {phantom.pet.data[liver].mean():.2f}")

# %% [markdown]
# How could one notice? By knowing what a number *should* be: a mean SUV of the liver in the thousands is nobody's.
# Below, the check of a cohort does just that.
#
# ### A real header
#
# The series `acrin042` (public, from The Cancer Imaging Archive) is not part of this package; where it lies in
# `$SEGANYPET_REAL_DATA` or `../../shared/data`, or where you name a series of your own in `dicom_folder`, the same
# computation runs on it.

# %%
beside = Path(os.environ.get("SEGANYPET_REAL_DATA", "../../shared/data")) / "acrin042"
series = Path(dicom_folder) if dicom_folder else beside / "PET_AC"
has_series = series.is_dir()
if has_series:
    real = sap.load_dicom(series)
    facts = real.metadata
    print(f"sex {facts['sex']}, {facts['weight_kg']} kg, {facts['height_m'] or float('nan'):.2f} m")
    if facts["dose_bq"]:
        print(f"{facts['dose_bq'] / 1e6:.0f} MBq, {facts['decay_s'] / 60:.0f} min before the images' moment")
        real_by_hand = facts["weight_kg"] * 1000 / (facts["dose_bq"] * 2 ** (-facts["decay_s"] / facts["half_life_s"]))
        print(f"by hand {real_by_hand:.4e}, by the library {facts['suv_per_stored_unit']:.4e} ({facts['how']})")
    slopes = facts["rescale_slope_range"]
    print(f"largest SUV {real.data.max():.2f}; slopes of its slices from {slopes[0]:.3f} to {slopes[1]:.3f}")
else:
    print("Skipped: no folder acrin042/PET_AC; set SEGANYPET_REAL_DATA, or dicom_folder to a series of your own.")

# %% [markdown]
# For `acrin042`, look at the slopes: each slice has its own scale. Whoever reads the stored numbers and forgets the
# [slope](glossary.md#rescale-slope) of each slice gets stripes instead of a patient. And look at the time: most centres
# wait about an hour, and tumours go on filling after that. Compare SUVs only of scans that waited alike.

# %%
if has_series:
    sap.show_mip(real)

# %% [markdown]
# ## Look
#
# We make `n_phantoms` patients, with seeds from `seed` on; they are files, laid out like AutoPET's. If you gave `data`,
# that is the *cohort* of the next sections. Where a lesson needs the truth, it goes back to `phantom`, the first
# patient.

# %%
phantoms = sap.Cohort.from_phantoms(n_phantoms, seed, folder=output / "phantoms", progress=False)
cohort = sap.Cohort.from_path(data) if data else phantoms
if organ_labels:
    cohort = cohort.with_organs(organ_labels)
case = cohort[case_name] if case_name else next(iter(cohort))
pet = case.load_pet()
print(f"{len(cohort)} cases, {len({one.patient for one in cohort})} patients; looking at {case.name}")

# %% [markdown]
# A [maximum intensity projection](glossary.md#mip) from four sides. A hot spot that seems to lie in an organ from the
# front may lie behind it: turn before you name it.

# %%
sap.view3d(pet)

# %% [markdown]
# What to notice, in nearly every FDG-PET: the **brain** burns sugar all the time. The **kidneys** filter the tracer and
# the **bladder** collects it. The **heart** is hot in some people and cold in others, depending on what they ate.
# Bowel, muscle and brown fat can light up. All that is [physiological uptake](glossary.md#physiological-uptake). A
# lesion is what is hot *for where it lies*. On the phantom we know which is which:

# %%
tissue_of = {name: label for label, name in phantom.anatomy_names.items()}
parts_of = {"brain": ("brain_grey", "brain_white", "cerebellum"), "bladder": ("bladder",)}
hot_places = {name: np.isin(phantom.anatomy, [tissue_of[part] for part in parts]) for name, parts in parts_of.items()}
hot_places |= {name: phantom.organs == ORGANS.index(name) + 1 for name in ("heart", "kidney_left", "kidney_right")}
hot_places["lesions"] = phantom.lesions > 0
_ = sap.show_mip(phantom.pet, {name: mask for name, mask in hot_places.items() if mask.any()})

# %% [markdown]
# Where does it lie? PET alone says little about anatomy; the CT of the same session says more.

# %%
organs, organ_names = case.load_organs(pet) if case.organs else (np.zeros(pet.shape, int), {})
at_ijk = tuple(int(np.median(index)) for index in np.nonzero(organs == 1)) if (organs == 1).any() else None
if case.ct:
    _ = sap.show_fused(pet, case.load_ct(), at_ijk=at_ijk)

# %%
if has_series and (series.parent / "CT").is_dir():
    _ = sap.show_fused(real, sap.load_dicom(series.parent / "CT"))

# %% [markdown]
# The CT was taken in one breath, the PET over many. On a real scan they do not fit near the diaphragm: a band above the
# liver belongs to the lung on one and to the liver on the other, and no software error is to blame.
#
# ## Twelve organs
#
# *Published:* the article trains on five organs that are clear in PET and annotates seven more for testing, to see
# whether the network learned organs or clicks. Here are all of a case: volume and uptake.

# %%
table = sap.quantify_case(case, pet)
organ_table = table[table["kind"] == "organ"]
if len(organ_table):
    wide = organ_table.pivot_table(index="object", columns="quantity", values="value", sort=False)
    print(wide[["MTV", "SUVmean", "SUVmax", "SUVpeak"]].rename(columns={"MTV": "volume, mL"}).round(2).to_string())

# %% [markdown]
# (Women have no prostate: then there are eleven.) A mean hides how uptake is *distributed*. Each box spans the middle
# half of an organ's voxels, whiskers 5 to 95 %.

# %%
if len(organ_table):
    voxels_of = {name: pet.data[organs == label] for label, name in organ_names.items() if (organs == label).any()}
    _, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
    ax.boxplot(voxels_of.values(), orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6)
    ax.set_yticks(range(1, len(voxels_of) + 1), voxels_of.keys())
    _ = ax.set(xlabel=f"{case.pet_unit}", title=case.name)

# %% [markdown]
# - The **liver** is large and even, and much alike between healthy people: that is why it serves as a yardstick.
# - A **kidney** is a shell of moderate uptake around a hot pelvis; its mean says little.
# - **Lungs** are mostly air: little tissue, little uptake.
# - A **prostate** touches the bladder; its upper whisker may be the bladder's blur, not the prostate's. Its SUVpeak can
#   even exceed its SUVmax: the ball's centre lies in the mask, but the ball reaches beyond it.
#
# ### What organ masks are for
#
# *Published:* the supplement names comparing SUVmax between organs and patients as the purpose. A kidney with four
# times the liver's uptake is usual, a spleen with four times is not. So: measure all cases, and ask where each organ
# stands among the same organ of the others. The columns: the organ's SUVmax; its ratio to the same case's liver; the
# median of the other cases; the percentage of them that lie below; a [robust z](glossary.md#robust-z); and, for paired
# organs, left against right.

# %%
own_table = f"quantities_{len(cohort)}.csv" if data else f"quantities_of_phantoms_{seed}.csv"
measured = sap.quantify_cohort(cohort, output=output / own_table, progress=bool(data))
compared = sap.compare_suvmax(measured[measured["kind"] == "organ"]) if (measured["kind"] == "organ").any() else None
if compared is not None:
    shown = ["object", "value", "ratio_to_liver", "reference_median", "percentile", "robust_z", "asymmetry_percent"]
    print(f"SUVmax of {case.name} among the others")
    print(compared.loc[compared["case"] == case.name, shown].round(2).to_string(index=False))

# %% [markdown]
# A high z is a question, not an answer. A lesion in the organ is one reason; a hot neighbour whose blur reaches into
# the mask (the heart beside the left lung, the bladder above the prostate) is another. Look before you conclude. With a
# handful of cases a percentile is coarse, and z stays empty where fewer than five others remain; with a hundred it
# becomes a tool.
#
# ## Lesions: how large, how hot
#
# Every lesion of the cohort, once for each connected piece:

# %%
lesions = measured[measured["kind"] == "lesion"]
if len(lesions):
    size_and_uptake = lesions.pivot_table(index=["case", "object"], columns="quantity", values="value")
    summary = size_and_uptake[["MTV", "SUVmax", "SUVmean", "TLG"]].describe()
    print(summary.loc[["count", "min", "50%", "max"]].rename(index={"50%": "median"}).round(2).to_string())

# %%
if len(lesions):
    _, ax = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for (name, rows), colour in zip(size_and_uptake.groupby("case"), COLOURS * len(cohort), strict=False):
        ax.scatter(rows["MTV"], rows["SUVmax"], label=name, color=colour, edgecolor="black", linewidth=0.4)
    ax.set(xscale="log", xlabel="volume, mL", ylabel="SUVmax", title="every lesion of the cohort")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(fontsize="x-small")

# %% [markdown]
# ### Why small things look cold
#
# A scanner blurs: a point becomes a blob of 5 to 7 mm ([FWHM](glossary.md#resolution)). What is not much larger loses
# its heat to its surroundings. (In the picture above you cannot see it: the phantoms' lesions are drawn so that their
# SUVmax *in the image* follows published tables.) So let us watch it happen, on balls of the same true SUV.

# %%
diameters_mm = np.array([8, 10, 13, 17, 22, 28, 37])
true_suv, background, fwhm_mm = 8.0, 1.0, 6.0
axis_mm = np.arange(-30, 31)
from_centre_mm = np.sqrt(sum(axis**2 for axis in np.meshgrid(axis_mm, axis_mm, axis_mm, indexing="ij")))
peaks, volumes = [], {"SUV of at least 4": [], "41 % of the SUVmax": []}
for diameter in diameters_mm:
    ball = np.where(from_centre_mm < diameter / 2, true_suv, background)
    seen = gaussian_filter(ball, fwhm_mm / 2.355)
    peaks.append(seen.max() / true_suv)
    for volume, limit in zip(volumes.values(), (4.0, 0.41 * seen.max()), strict=True):
        volume.append((seen >= limit).sum() / (ball == true_suv).sum())

# %%
_, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
ax.plot(diameters_mm, peaks, "o-", color=COLOURS[0], label="SUVmax")
for (rule, volume), colour, marker in zip(volumes.items(), COLOURS[1:], "s^", strict=False):
    ax.plot(diameters_mm, volume, marker + "--", color=colour, label=f"volume with {rule}")
ax.axhline(1, color="black", linewidth=0.8)
ax.set(xlabel="diameter, mm", ylabel="measured / true", ylim=(0, None), title=f"what a blur of {fwhm_mm:g} mm leaves")
_ = ax.legend()

# %% [markdown]
# That is the [partial-volume effect](glossary.md#partial-volume-effect). A fixed threshold loses small lesions: what
# crosses it is no longer the lesion that is there. A fraction of the SUVmax does the reverse. As the maximum sinks, so
# does the limit, until it lies in the blur around: **by the field's own rule small lesions are too large.** From 2 cm
# on one is about right and the other 15 % too large.
#
# How large is a lesion, then? It depends on the rule. The same masks, measured as drawn and by two thresholds:

# %%
if len(lesions):
    largest = lesions.loc[lesions["quantity"] == "MTV"].sort_values("value").iloc[-1]
    there = cohort[largest["case"]]
    for rule in (None, "41% SUVmax", "SUV>=4"):
        by_rule = sap.quantify_case(there, threshold=rule)
        mtv = by_rule.query("object == @largest.object and quantity == 'MTV'").iloc[0]
        print(f"{largest['case']} {largest['object']}: {mtv['value']:7.2f} mL   {mtv['definition']}")

# %% [markdown]
# Write the rule beside every MTV that you report. The column `definition` does.
#
# ### Hot enough to be measured? PERCIST
#
# To compare a tumour before and after treatment one must first agree which tumours count. PERCIST asks the patient's
# own liver: a lesion is *measurable* if its SUVpeak is at least 1.5 x mean + 2 SD of a 3 cm ball in the right lobe. All
# of it is in [SUL](glossary.md#sul), SUV by lean body mass instead of weight, because fat takes up little and heavy
# people would otherwise look hot. Lean body mass is estimated from weight, height and sex, so it needs a header.

# %%
sul = sap.quantify(phantom.pet, {"liver": liver}, sul=("janmahasatian", "james"))
person = phantom.pet.metadata
print(f"{person['weight_kg']:.0f} kg, {person['height_m']:.2f} m, {person['sex']}")
for row in sul[sul["quantity"].str.contains("mean")].itertuples():
    print(f"{row.quantity:22s}{row.value:6.3f} {row.unit}")
for kg in (70, 110, 150, 190):
    lean = [sap.lean_body_mass(kg, 1.70, "M", formula) for formula in ("janmahasatian", "james")]
    print(f"a man of 1.70 m and {kg} kg: lean {lean[0]:.0f} kg by Janmahasatian, {lean[1]:.0f} kg by James")

# %% [markdown]
# For usual people the two formulas agree. James's turns downwards for very heavy ones, whose SUL it then makes too
# small: write down which formula you used.

# %%
reference = sap.liver_reference(phantom.pet, liver, exclude=phantom.lesions > 0)
print(f"liver, 3 cm sphere: SUL {reference.mean:.2f} +- {reference.sd:.2f}; measurable from {reference.threshold:.2f}")
if phantom.lesions.any():
    lesion_names = {label: f"lesion {label}" for label in range(1, phantom.lesions.max() + 1)}
    hot_enough = sap.measurable_lesions(phantom.pet, phantom.lesions, reference, names=lesion_names)
    print(hot_enough[["object", "SULpeak", "threshold", "measurable", "target"]].round(2).to_string(index=False))

# %% [markdown]
# `target` is the hottest of the measurable ones, the one that PERCIST follows. These are lesions as they were drawn;
# where two touch, the tables above count one connected piece.

# %% [markdown]
# ## Good labels, doubtful labels
#
# *Published:* the article's labels come from a model and one junior annotator (LQ); for 100 scans, two senior experts
# checked and refined them (HQ). On a phantom the truth is known, so we can *make* doubtful labels of a chosen quality,
# by imitating how people and programs err (`seganypet.phantom.annotators`; the sizes of errors are our inference).

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
print("change of each quantity by the doubtful label")
print(pd.DataFrame(rows).round(2).to_string(index=False))

# %%
shown = {
    f"{organ}, {word}": label_map == ORGANS.index(organ) + 1
    for organ in ("liver", "heart")
    for word, label_map in (("truth", phantom.organs), ("doubtful", doubted.labels))
}
_ = sap.show_slices(phantom.pet, shown, at_ijk=first_click(liver, spacing=phantom.pet.spacing).ijk)

# %% [markdown]
# Labels of similar DSC can leave a mean nearly as it was and ruin a maximum, or the other way round: a missed hot spot
# costs SUVmax, a leak into something cool costs the mean. So before you ask "how good is the mask?", ask "for which
# number?".
#
# ### Bland and Altman: do two sets of masks measure the same?
#
# A correlation would hide a bias. Plot, for each organ, the difference of the two measurements against their mean: the
# line in the middle is the bias, and 95 % of differences are expected between the outer two, if they are spread like a
# bell. Here the difference is truth minus label (`first - second`), in percent of their mean. (Organs of one patient
# are not independent, so the grey bands, confidence intervals, are narrower than they should be: `by_patient=True`
# averages first.)

# %%
tables = {"truth": [], "doubtful": []}
for number in range(seed, seed + 3):
    patient = sap.make_phantom(number)
    drawn = sap.low_quality_labels(patient, lq_dsc, seed=0, organs=SEEN_ORGANS)
    for name, label_map in (("truth", patient.organs), ("doubtful", drawn.labels)):
        one = sap.quantify(patient.pet, label_map, names=patient.organ_names)
        tables[name].append(one[one["object"].isin(SEEN_ORGANS)].assign(case=f"phantom {number}"))
truth_table, doubtful_table = (pd.concat(tables[name], ignore_index=True) for name in ("truth", "doubtful"))

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
for ax, quantity in zip(axes, ("SUVmean", "MTV"), strict=True):
    agreement = sap.bland_altman(truth_table, doubtful_table, quantity=quantity, relative=True)
    sap.plot_bland_altman(agreement, ax=ax)
    ax.set_title(quantity)
    print(agreement.text)

# %% [markdown]
# A point at 200 % is an organ that the annotator forgot: its volume is zero. It has no mean, so the left plot leaves it
# out and says so. Such a point is no bell: look at the points before you quote limits. Even without it, a volume
# suffers more than a mean.
#
# ### Make labels yourself: the workflow of Fig. 1
#
# *Published:* a model proposes, a junior corrects, a senior refines. `sap.Annotation` is that workflow: it goes through
# a cohort case by case, saves every click, counts minutes and clicks, and writes masks with their quality into a new
# cohort table. The junior's proposal here comes from the network `tiny`, from one click inside each of five organs.

# %%
network = sap.load_model("tiny")
one_case = sap.Cohort([next(iter(phantoms))])
name = next(iter(one_case)).name
junior = sap.Annotation(one_case, network, output / "junior", annotator="J. Junior", targets=SEEN_ORGANS)
junior_session = junior.reopen(name)
print("proposed by", junior.proposal)

# %% [markdown]
# Now you are the junior. Pick an organ in the row of buttons, look where the outline is wrong, and click. When you like
# it, run on (or press **Done, next case**).

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
truths = dict(next(iter(one_case)).targets(session.volume, SEEN_ORGANS))
rows = []
for organ, truth in truths.items():
    session.select(organ)
    before = sap.dice(session.mask_of(organ), truth)
    for _ in range(3):
        click = next_click(truth, session.mask_of(organ), spacing=session.volume.spacing)
        session.click(ijk=click.ijk, foreground=click.foreground)
    rows.append({"organ": organ, "junior": before, "senior": sap.dice(session.mask_of(organ), truth)})
senior.finish()
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %%
for annotation in (junior, senior):
    took = pd.read_csv(annotation.folder / "annotations.csv")
    print(took[["annotator", "quality", "clicks", "proposed_clicks", "started_from"]].to_string(index=False))

# %% [markdown]
# `senior/cohort.csv` is a cohort like any other, quality HQ, ready to train on. What did a good label cost, in clicks?
#
# ## A cohort you can trust
#
# Somebody gives you a table. The first thing to do with it is not to train, it is to read every file and ask whether it
# can be what the table says. `report` does: facts of each case, and every problem in one table.

# %%
report = cohort.report(voxels=voxels, progress=bool(data))
columns = ["case", "shape", "spacing_mm", "field_of_view_mm", "orientation", "pet_p99", "pet_max", "organs", "lesions"]
print(report.cases[[column for column in columns if column in report.cases]].to_string(index=False))
print(f"\n{len(report.problems)} problems")
if len(report.problems):
    print(report.problems["problem"].value_counts().to_string())

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
# the affine is mirrored and the labels are right, so somebody has to look. The others are *errors*. The last one is the
# mistake that makes results too good: one scan under two names, trained on and tested on.
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
print(pd.Series({one.name: one.split for one in split}, name="split").value_counts().to_string())

# %% [markdown]
# ## The article's data beside yours

# %%
print(sap.published(table=1).drop(columns="source").to_string(index=False))
here = pd.Series({
    "cases": len(cohort), "patients": len({one.patient for one in cohort}),
    "with organs": sum(one.organs is not None for one in cohort),
    "with lesions": int((report.cases.get("lesions", pd.Series(dtype=float)) > 0).sum()),
    "HQ": sum(one.quality == "HQ" for one in cohort), "LQ": sum(one.quality == "LQ" for one in cohort),
})  # fmt: skip
print("\nthe cohort at hand\n" + here.to_string())

# %% [markdown]
# What the table does not say: PETS-5k is private, from one hospital. AutoPET is public; the supplement names several
# scanners for it, the publishers of the data one, in another hospital, for these FDG scans. AutoPET-Organ is 100 of
# them with organs drawn. A phantom is neither: it has the voxels of the former (or, with `domain="external"`, of the
# latter), published volumes and uptakes, and shapes simpler than anatomy.
#
# ## Your turn
#
# Each exercise ends with a check that tells you what may be wrong. This edition holds the solutions: cover them first.
#
# **1. SUV by hand.** A patient of 64 kg got 250 MBq of FDG (half-life 6586.2 s), and the images refer to 75 minutes
# later. A voxel holds 9,000 Bq/mL. Its SUVbw?

# %% tags=["solution"]
my_suv = 9000 * 64_000 / (250e6 * 2 ** (-75 * 60 / 6586.2))

# %%
undecayed = 9000 * 64_000 / 250e6
right_suv = undecayed * 2 ** (75 * 60 / 6586.2)
assert isinstance(my_suv, int | float | np.number), "Hint: one number, such as my_suv = 4.2."
assert not np.isclose(my_suv, undecayed * 2 ** (75 / 6586.2), rtol=2e-3), "Hint: 75 minutes are how many seconds?"
assert not np.isclose(my_suv, undecayed, rtol=3e-3), "Hint: how much of the 250 MBq is left after 75 minutes?"
assert not np.isclose(1000 * my_suv, right_suv, rtol=1e-2), "Hint: weight in grams."
assert not np.isclose(my_suv, 1e6 * right_suv, rtol=1e-2), "Hint: the dose in becquerel; 1 MBq is a million."
assert not np.isclose(my_suv, undecayed * np.exp(75 * 60 / 6586.2), rtol=1e-2), "Hint: 2^(-t / half-life), not e^."
assert not np.isclose(my_suv, undecayed**2 / right_suv, rtol=1e-2), "Hint: less activity left, higher SUV."
assert np.isclose(my_suv, right_suv, rtol=3e-3), "Hint: Bq/mL x g / (Bq at injection x 2^(-t / half-life))."
print(f"Right: SUV {my_suv:.2f}")

# %% [markdown]
# **2. Metabolic volume by hand.** Of everything labelled liver in `phantom`, how many millilitres have at least 41 % of
# the liver's SUVmax? Use `phantom.pet.data`, `liver` and `phantom.pet.spacing` (mm).

# %% tags=["solution"]
hot = liver & (phantom.pet.data >= 0.41 * phantom.pet.data[liver].max())
my_mtv_ml = hot.sum() * np.prod(phantom.pet.spacing) / 1000

# %%
right = sap.quantify(phantom.pet, {"liver": liver}, threshold="41% SUVmax")
right_ml = right.query("quantity == 'MTV'")["value"].item()
whole_ml = liver.sum() * phantom.pet.voxel_volume_ml
everywhere = (phantom.pet.data >= 0.41 * phantom.pet.data[liver].max()).sum() * phantom.pet.voxel_volume_ml
of_all = (liver & (phantom.pet.data >= 0.41 * phantom.pet.data.max())).sum() * phantom.pet.voxel_volume_ml
assert isinstance(my_mtv_ml, int | float | np.number), "Hint: one number, in mL."
assert not np.isclose(my_mtv_ml, whole_ml, rtol=5e-3), "Hint: (nearly) all of the liver; 41 % of which number?"
assert not np.isclose(my_mtv_ml, everywhere, rtol=1e-3), "Hint: hot voxels outside the liver do not count."
assert not np.isclose(my_mtv_ml, of_all, rtol=1e-3), "Hint: of the liver's own maximum, not of the whole scan's."
assert not np.isclose(my_mtv_ml, 0.41 * whole_ml, rtol=1e-3), "Hint: the threshold is on SUV, not on the volume."
assert not np.isclose(my_mtv_ml, 1000 * right_ml, rtol=1e-3), "Hint: these are mm3."
assert not np.isclose(1000 * my_mtv_ml, right_ml, rtol=1e-3), "Hint: these are litres."
assert np.isclose(my_mtv_ml, right_ml, rtol=1e-3), "Hint: count voxels of the liver with SUV >= 0.41 x its SUVmax."
print(f"Right: {my_mtv_ml:.1f} of {whole_ml:.1f} mL")

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
is_list = isinstance(mended, list) and mended and all(isinstance(one, sap.Case) for one in mended)
assert is_list, "Hint: a list of cases, [replace(suspects[0], ...), ...]."
left_over = sap.Cohort(mended, "mended").validate(progress=False)
assert left_over.empty, f"Hint: still wrong:\n{left_over[['case', 'part', 'problem']].to_string(index=False)}"
assert len({one.load_pet().fingerprint() for one in mended}) == 3, "Hint: three different scans can be kept."
assert all(one.organs and one.lesions for one in mended), "Hint: mend labels, do not drop them."
assert {one.name for one in mended} <= {one.name for one in suspects}, "Hint: replace(...) the suspects themselves."
print("Right: the cohort is sound.")

# %% [markdown]
# **4. A suspicious spleen.** In which case of `phantoms` is the spleen's SUVmax highest in relation to the same case's
# liver's SUVmax? Give the case's name. `measured_phantoms` has all you need.

# %%
measured_phantoms = sap.quantify_cohort(phantoms, progress=False)
print(measured_phantoms[["case", "object", "quantity", "value"]].head(3).to_string(index=False))

# %% tags=["solution"]
maxima = measured_phantoms.query("quantity == 'SUVmax'").pivot_table(index="case", columns="object", values="value")
my_case = (maxima["spleen"] / maxima["liver"]).idxmax()

# %%
by_case = measured_phantoms.query("quantity == 'SUVmax'").set_index(["case", "object"])["value"].unstack()
ratios = by_case["spleen"] / by_case["liver"]
assert isinstance(my_case, str) and my_case in ratios.index, f"Hint: one name, of {', '.join(ratios.index)}."
assert my_case == ratios.idxmax(), "Hint: by SUVmax; divide each case's spleen by the same case's liver."
print(f"Right: {my_case}, spleen at {ratios.max():.2f} times its liver")

# %% [markdown]
# What makes it so hot? Look at its hottest voxel, with the truth drawn around it.

# %%
spleen_to_liver = measured_phantoms.query("quantity == 'SUVmax'").set_index(["case", "object"])["value"].unstack()
suspicious = phantoms[(spleen_to_liver["spleen"] / spleen_to_liver["liver"]).idxmax()]
suspicious_pet = suspicious.load_pet()
spleen = suspicious.load_organs(suspicious_pet)[0] == ORGANS.index("spleen") + 1
hottest_ijk = np.unravel_index(np.where(spleen, suspicious_pet.data, 0).argmax(), spleen.shape)
around = {"spleen": spleen, "lesions": suspicious.load_lesions(suspicious_pet) > 0}
_ = sap.show_slices(suspicious_pet, {name: mask for name, mask in around.items() if mask.any()}, at_ijk=hottest_ijk)

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
#
# ## Who says what
#
# - **Published:** Table 1; how labels of the two qualities were made; SUV, SUL, SUVpeak and PERCIST's rule.
# - **Reconstructed:** sizes of the annotators' errors; AutoPET-Organ's two label orders, as users report them.
# - **Measured here:** every number that a cell printed.
#
# ## What you take home
#
# - An SUV is worth what its header says. No header, no SUV: ask for the unit.
# - A number needs its rule: which mask, which threshold, which formula.
# - Doubtful labels are not one kind of wrong. Ask which number suffers.
# - Check a cohort before you believe anything that comes out of it, and split by patient.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET: Universal Promptable Segmentation from Positron Emission Tomography Images*, ICCV 2025,
#   arXiv:2502.14351, and its supplement (A: data and annotation, Fig. 1, Table 1).
# - Gatidis et al., *A whole-body FDG-PET/CT Dataset with manually annotated Tumor Lesions*, Scientific Data 9, 2022.
# - DICOM PS3.3, C.8.9: the PET modules.
# - Wahl et al., *From RECIST to PERCIST*, J Nucl Med 50, 2009. Measurability.
# - Janmahasatian et al., *Quantification of lean bodyweight*, Clin Pharmacokinet 44, 2005; James 1976.
# - Bland and Altman, *Measuring agreement in method comparison studies*, Stat Methods Med Res 8, 1999.
# - ACRIN-NSCLC-FDG-PET, The Cancer Imaging Archive, doi:10.7937/tcia.2019.30ilqfcl. The real series.
#
# *Not for clinical use.*
