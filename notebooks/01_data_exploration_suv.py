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
# # Data exploration: from counts to SUV
#
# Before a network sees a scan, somebody has turned counts into a number that means something. Each step can go wrong
# silently: the picture still looks like a patient, and only the numbers are false. Here you take each step yourself,
# make its mistake once, and see how to catch it.
#
# **You will be able to**
#
# - compute [SUV](glossary.md#suv) from a [DICOM](glossary.md#dicom) header by hand;
# - say what a wrong unit, a wrong clock or a forgotten decay does to it, and how one notices;
# - look at PET: projections, PET over CT, and what is hot without being ill;
# - say when [SUL](glossary.md#sul) is wanted instead.
#
# **Before you start:** lesson 0, and [how PET works](how_pet_works.md).
#
# **Time:** about 1 minute to run on two cores of a laptop, half an hour to read and try; 1 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 1 of 9; previous: [0 Quickstart](00_quickstart.ipynb); next: [2 What a mask
# measures](02_data_exploration_masks.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
import os
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

import seganypet as sap
from seganypet.lessons.pictures_pet import grey_scale, lean_mass, suv_calculator
from seganypet.organs import ORGANS
from seganypet.prompting.thresholds import ThresholdSession

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
seed: int = 9000  # of the phantom
dicom_folder: str = ""  # a PET series of your own; empty: acrin042, where it lies beside the repository
output_dir: str = "../out"  # everything is written here

# %%
sap.check_parameters(globals())
output = Path(output_dir) / "data_exploration"
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Your hand first: what becomes of an SUV
#
# A scanner measures kilobecquerel per millilitre. Drag dose, weight and delay, and watch the SUV of one voxel. Then
# choose a slip of whoever typed them. **Predict before each:** higher or lower? Which slip would you notice in a
# liver?

# %%
suv_calculator()

# %% [markdown]
# ## From counts to SUV, by hand
#
# A PET scanner counts pairs of photons from decays of the tracer. Corrected (for attenuation, scatter, chance pairs,
# dead time, decay) and calibrated, the counts become an *activity concentration*, in
# [becquerel](glossary.md#becquerel)
# per millilitre. That number depends on how much was injected, how long ago, and into how large a person. The
# standardised uptake value takes these out:
#
# $$\text{SUV}_\text{bw} = \frac{\text{activity concentration [Bq/mL]} \times \text{weight [g]}}
# {\text{activity left of the dose [Bq]}}$$
#
# If the tracer spread evenly, every gram would hold the same share, and SUV would be 1 everywhere (taking a gram for a
# millilitre). Here is what a header says about it, made up for this lesson. Everything that is needed stands there;
# the names are DICOM's.

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
# How could one notice? By knowing what a number *should* be: a mean SUV of the liver in the thousands is nobody's. The
# check of a cohort in lesson 3 does just that.

# %% [markdown]
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
# [slope](glossary.md#rescale-slope) of each slice gets stripes instead of a patient. And look at the time: most
# centres wait about an hour, and tumours go on filling after that. Compare SUVs only of scans that waited alike.

# %%
if has_series:
    sap.show_mip(real)

# %% [markdown]
# ## Look

# %% [markdown]
# A [maximum intensity projection](glossary.md#mip) from four sides. A hot spot that seems to lie in an organ from the
# front may lie behind it: turn before you name it.

# %%
sap.view3d(phantom.pet)

# %% [markdown]
# What to notice, in nearly every FDG-PET: the **brain** burns sugar all the time. The **kidneys** filter the tracer
# and the **bladder** collects it. The **heart** is hot in some people and cold in others, depending on what they ate.
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
# Where black begins decides what you see. **Drag:** from which SUV on is the brain black, and when does the liver
# vanish?

# %%
grey_scale(phantom.pet)

# %% [markdown]
# Where does it lie? PET alone says little about anatomy; the CT of the same session says more.

# %%
_ = sap.show_fused(phantom.pet, phantom.ct, at_ijk=sap.first_click(liver, spacing=phantom.pet.spacing).ijk)

# %%
if has_series and (series.parent / "CT").is_dir():
    _ = sap.show_fused(real, sap.load_dicom(series.parent / "CT"))

# %% [markdown]
# The CT was taken in one breath, the PET over many. On a real scan they do not fit near the diaphragm: a band above
# the liver belongs to the lung on one and to the liver on the other, and no software error is to blame.

# %% [markdown]
# ## By weight, or by lean weight?
#
# Fat takes up little FDG, so in a heavy person the same liver has a higher SUVbw. SUL divides by lean body mass
# instead, which is estimated from weight, height and sex, by one of several formulas. **Drag the weight:** where do
# two formulas part, and which one turns downwards?

# %%
lean_mass()

# %% [markdown]
# For usual people the two formulas agree. James's turns downwards for very heavy ones, whose SUL it then makes too
# small, and in the end none at all: write down which formula you used.

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. SUV by hand.** A patient of 64 kg got 250 MBq of FDG (half-life 6586.2 s), and the images refer to 75 minutes
# later. A voxel holds 9,000 Bq/mL. Its SUVbw?

# %% tags=["solution"]
my_suv = 9000 * 64_000 / (250e6 * 2 ** (-75 * 60 / 6586.2))

# %%
sap.check("1.suv", my_suv)

# %% [markdown]
# **2. Change and explain.** The clock of the injection room is one hour late: the header says that the dose was given
# an hour later than it was. By what factor are all SUVs wrong (wrong / right)? And which sentence explains it? Answer
# with both, such as `(1.5, "a")`; the slider above has this slip.
#
# - a: The scan seems to follow sooner, more of the dose seems to be left, and SUV divides by it.
# - b: The dose itself is wrong.
# - c: Only late slices are wrong, and the picture shows a step.

# %% tags=["solution"]
my_factor = (2 ** (-3600 / 6586.2), "a")

# %%
sap.check("1.clock", my_factor)

# %% [markdown]
# **3. By hand: is this SUV?** Click the liver of the phantom (no network here: voxels about as hot as the clicked one
# are taken), until its DSC is 0.6 or more. Then read its mean in the table: is it what a liver has?

# %%
reader = ThresholdSession(phantom.pet, "band")
reader.select("liver")
sap.ClickWidget(reader, truth={"liver": liver}, goal=0.6)

# %% tags=["solution"]
_ = reader.click(ijk=sap.first_click(liver, spacing=phantom.pet.spacing).ijk)

# %%
sap.check("1.liver", reader, truth=liver)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** A NIfTI file opens, and the liver has a mean of 4,800. What happened?
#
# <details><summary>Answer</summary>
#
# It holds Bq/mL, and somebody read it as SUV. A NIfTI file does not say its unit; the number itself is the only hint.
#
# </details>
#
# **2.** Two scans of one patient, 55 and 90 minutes after injection. A tumour's SUV rose by a fifth. Is it progress of
# the disease?
#
# <details><summary>Answer</summary>
#
# Not shown. Tumours go on filling after an hour, so a longer wait alone raises SUV. Compare scans that waited alike.
#
# </details>
#
# **3.** Why does a library refuse a dose of 303 Bq, instead of taking it for MBq?
#
# <details><summary>Answer</summary>
#
# Because a guess that is right in a hundred cases is wrong in one, silently. An error costs a minute, a false SUV a
# treatment.
#
# </details>

# %% [markdown]
# ## What you take home
#
# - An SUV is worth what its header says. No header, no SUV: ask for the unit.
# - Know what a number should be: liver 2 to 3, bladder anything.
# - Hot does not mean ill.
#
# ## Who says what
#
# - **Published:** SUV, SUL and both formulas of lean body mass.
# - **Made up:** the header of this lesson.
# - **Measured here:** every number that a cell printed.
#
# ## Sources
#
# - DICOM PS3.3, C.8.9: the PET modules.
# - Janmahasatian et al., *Quantification of lean bodyweight*, Clin Pharmacokinet 44, 2005; James 1976.
# - Boellaard et al., *FDG PET/CT: EANM procedure guidelines*, EJNMMI 42, 2015.
# - ACRIN-NSCLC-FDG-PET, The Cancer Imaging Archive, doi:10.7937/tcia.2019.30ilqfcl. The real series.
#
# *Lesson 1 of 9; previous: [0 Quickstart](00_quickstart.ipynb); next: [2 What a mask
# measures](02_data_exploration_masks.ipynb)*
#
# *Not for clinical use.*
