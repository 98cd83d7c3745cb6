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
# # Data exploration: what a mask measures
#
# A mask is a means; what people ask for is a number. How large is the lesion, how hot, how much of it is there? The
# answer hangs on the rule that drew the mask, on the blur of the scanner, and on a millimetre of outline. Here you
# move each of them.
#
# **You will be able to**
#
# - say what [SUVmax](glossary.md#suvmax), SUVmean, [SUVpeak](glossary.md#suvpeak), [MTV](glossary.md#mtv) and
#   [TLG](glossary.md#tlg) need, and what spoils each;
# - explain why small things look cold, and why the field's own rule makes small lesions too large;
# - choose and state a threshold;
# - find the organ that is unlike the others.
#
# **Before you start:** lesson 1.
#
# **Time:** about 1 minute to run on two cores of a laptop, half an hour to read and try; 2 GB of memory. No GPU, no
# internet. Words are explained in the [glossary](glossary.md).
#
# *Lesson 2 of 9; previous: [1 Counts to SUV](01_data_exploration_suv.ipynb); next: [3 Labels and
# cohorts](03_data_exploration_cohorts.ipynb)*
#
# *For research and teaching. Not a medical device, not for clinical use.*

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from scipy.ndimage import gaussian_filter

import seganypet as sap
from seganypet.lessons.hands import stand_in
from seganypet.lessons.pictures_pet import hot_ball, outline_shift, threshold_on
from seganypet.organs import ORGANS
from seganypet.pet.plots import COLOURS
from seganypet.prompting.simulate import first_click, next_click

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
data: str = ""  # your cohort, to measure: an AutoPET or nnU-Net folder, or a cohort.csv; empty: phantoms
organ_labels: str = ""  # a folder of organ label maps that belong to it, such as AutoPET-Organ's
case_name: str = ""  # the case of it to look at closely; empty: the first
n_phantoms: int = 4  # phantoms that are made, whatever `data` says
seed: int = 9000  # of the first phantom
recorded_clicks: str = "recorded_clicks.json"  # a hand that stands in where nobody clicks
output_dir: str = "../out"  # everything is written here

# %%
sap.check_parameters(globals())
assert n_phantoms >= 1, f"n_phantoms={n_phantoms}: at least 1 is needed."
output = Path(output_dir) / "masks"
output.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Load, and look

# %% [markdown]
# A phantom with lesions, so that the truth is known. Its largest lesion is the one to measure.

# %%
phantom = sap.make_phantom(seed)
liver = phantom.organs == ORGANS.index("liver") + 1
volumes_ml = np.bincount(phantom.lesions.ravel())[1:] * phantom.pet.voxel_volume_ml
by_volume = volumes_ml.argsort()[::-1]  # the largest first
lesion, another = (phantom.lesions == by_volume[min(rank, len(by_volume) - 1)] + 1 for rank in (0, 3))
lesion_click = first_click(lesion, spacing=phantom.pet.spacing)
print(f"{len(volumes_ml)} lesions of {volumes_ml.min():.1f} to {volumes_ml.max():.1f} mL")
_ = sap.show_slices(phantom.pet, {"largest lesion": lesion}, at_ijk=lesion_click.ijk)

# %% [markdown]
# ## Your hand first: outline a lesion
#
# Click the lesion that the slices above show, with the network's help, until its DSC is 0.7 (brush and eraser are
# allowed). Lesions have no clear edge in PET: where would *you* draw it?

# %%
by_hand = sap.Session(sap.load_model("tiny-base"), phantom.pet)
by_hand.select("lesion")
widget = sap.ClickWidget(by_hand, truth={"lesion": lesion, "another": another}, goal=0.7)
widget.look_at(lesion_click.ijk)
widget

# %%
print(stand_in(by_hand, recorded_clicks, "2") if seed == 9000 or by_hand.objects else "no clicks yet")
masks = {"by hand": by_hand.mask_of("lesion"), "truth": lesion}
masks = {name: mask for name, mask in masks.items() if mask.any()}
measured = sap.quantify(phantom.pet, masks)
measured.pivot_table(index=["quantity", "unit"], columns="object", values="value", sort=False).round(2)

# %% [markdown]
# Which numbers of your mask agree with the truth, and which do not?
#
# ## A threshold instead
#
# **Predict, then drag:** a reading room would take 41 % of the maximum. Is that the best threshold for this lesion?
# What happens a little below it, and why does the curve drop on both sides?

# %%
threshold_on(phantom.pet, lesion_click.ijk, lesion)

# %% [markdown]
# ## Why small things look cold
#
# A scanner blurs: a point becomes a blob of 5 to 7 mm ([FWHM](glossary.md#resolution)). What is not much larger loses
# its heat to its surroundings. Here is a ball of SUV 8 in a background of 1. **Predict, then drag:** make it small.
# What does SUVmax do? And the volume that `41 % of max` finds: smaller or larger than the ball?

# %%
hot_ball()

# %% [markdown]
# The same for many sizes at once:

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
# ## A millimetre of outline
#
# **Predict, then drag:** move the liver's outline outwards by 2 mm. Which changes most: volume, SUVmean or SUVmax?
# Inwards? Then think of a lesion of 1 cm.

# %%
outline_shift(phantom.pet, liver, "liver")

# %% [markdown]
# The volume pays for each millimetre, and the smaller the thing, the more. The mean hardly minds in an even organ. The
# maximum does not mind at all, until the outline takes in a hot neighbour.
#
# ## Twelve organs
#
# *Published:* the article trains on five organs that are clear in PET and annotates seven more for testing, to see
# whether the network learned organs or clicks. Here are those of a case: volume and uptake. If you gave `data`, this
# is your cohort.

# %%
phantoms = sap.Cohort.from_phantoms(n_phantoms, seed, folder=output / "phantoms")
cohort = sap.Cohort.from_path(data) if data else phantoms
if organ_labels:
    cohort = cohort.with_organs(organ_labels)
case = cohort[case_name] if case_name else next(iter(cohort))
pet = case.load_pet()
organs, organ_names = case.load_organs(pet) if case.organs else (np.zeros(pet.shape, int), {})
table = sap.quantify_case(case, pet)
organ_table = table[table["kind"] == "organ"]
wide = organ_table.pivot_table(index="object", columns="quantity", values="value", sort=False)
columns = ["MTV", "SUVmean", "SUVmax", "SUVpeak"]
wide[columns].rename(columns={"MTV": "volume, mL"}).round(2) if len(wide) else "no organs"

# %% [markdown]
# (Women have no prostate: then there are eleven.) A mean hides how uptake is *distributed*. Each box spans the middle
# half of an organ's voxels, whiskers 5 to 95 %.

# %%
if len(organ_table):
    voxels_of = {name: pet.data[organs == label] for label, name in organ_names.items() if (organs == label).any()}
    _, ax = plt.subplots(figsize=(9, 4.2), layout="constrained")
    ax.boxplot(voxels_of.values(), orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6)
    ax.set_yticks(range(1, len(voxels_of) + 1), voxels_of.keys())
    _ = ax.set(xlabel="SUV, g/mL", title=case.name)

# %% [markdown]
# - The **liver** is large and even, and much alike between healthy people: that is why it serves as a yardstick.
# - A **kidney** is a shell of moderate uptake around a hot pelvis; its mean says little.
# - **Lungs** are mostly air: little tissue, little uptake.
# - A **prostate** touches the bladder; its upper whisker may be the bladder's blur, not the prostate's. Its SUVpeak
#   can even exceed its SUVmax: the ball's centre lies in the mask, but the ball reaches beyond it.

# %% [markdown]
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
    display(compared.loc[compared["case"] == case.name, shown].round(2).head(6))

# %% [markdown]
# A high z is a question, not an answer. A lesion in the organ is one reason; a hot neighbour whose blur reaches into
# the mask (the heart beside the left lung, the bladder above the prostate) is another. Look before you conclude. z
# stays empty where fewer than five others remain; with a hundred cases it becomes a tool.

# %% [markdown]
# ## The rule belongs to the number

# %% [markdown]
# Every lesion of the cohort, once for each connected piece; then the largest, measured as drawn and by two thresholds:

# %%
lesions = measured[measured["kind"] == "lesion"]
if len(lesions):
    size_and_uptake = lesions.pivot_table(index=["case", "object"], columns="quantity", values="value")
    summary = size_and_uptake[["MTV", "SUVmax", "SUVmean", "TLG"]].describe()
    display(summary.loc[["count", "min", "50%", "max"]].rename(index={"50%": "median"}).round(2))

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

# %% [markdown]
# ## When it goes wrong
#
# "SUV 4" means nothing in Bq/mL: a whole scan lies above 4. A library that thresholds whatever number it gets would
# call the patient one tumour. Ours asks for the unit:

# %%
in_becquerel = sap.Volume(phantom.pet.data * 2000.0, phantom.pet.affine, "Bq/mL", source="the same scan in Bq/mL")
try:
    sap.hot_mask(in_becquerel, 4.0)
except sap.SegAnyPETError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# ### Hot enough to be measured? PERCIST
#
# To compare a tumour before and after treatment one must first agree which tumours count. PERCIST asks the patient's
# own liver: a lesion is *measurable* if its SUVpeak is at least 1.5 x mean + 2 SD of a 3 cm ball in the right lobe.
# All of it is in [SUL](glossary.md#sul), SUV by lean body mass instead of weight, because fat takes up little and
# heavy people would otherwise look hot. Lean body mass is estimated from weight, height and sex, so it needs a header.

# %%
reference = sap.liver_reference(phantom.pet, liver, exclude=phantom.lesions > 0)
print(f"liver, 3 cm sphere: SUL {reference.mean:.2f} +- {reference.sd:.2f}; measurable from {reference.threshold:.2f}")
if phantom.lesions.any():
    lesion_names = {label: f"lesion {label}" for label in range(1, phantom.lesions.max() + 1)}
    hot_enough = sap.measurable_lesions(phantom.pet, phantom.lesions, reference, names=lesion_names)
    display(hot_enough[["object", "SULpeak", "threshold", "measurable", "target"]].round(2))

# %% [markdown]
# `target` is the hottest of the measurable ones, the one that PERCIST follows. These are lesions as they were drawn;
# where two touch, the tables above count one connected piece.

# %% [markdown]
# ## Your turn
#
# Each exercise ends with a check. A wrong answer gets a hint, the next one a plainer hint. This edition holds the
# solutions: cover them first.

# %% [markdown]
# **1. Metabolic volume by hand.** Of everything labelled liver in `phantom`, how many millilitres have at least 41 %
# of the liver's SUVmax? Use `phantom.pet.data`, `liver` and `phantom.pet.spacing` (mm).

# %% tags=["solution"]
hot = liver & (phantom.pet.data >= 0.41 * phantom.pet.data[liver].max())
my_mtv_ml = hot.sum() * np.prod(phantom.pet.spacing) / 1000

# %%
sap.check("2.mtv", my_mtv_ml, pet=phantom.pet, liver=liver)

# %% [markdown]
# **2. TLG by hand.** Total lesion glycolysis of `lesion`, the mask of the largest lesion, in g.

# %% tags=["solution"]
my_tlg = phantom.pet.data[lesion].mean() * lesion.sum() * np.prod(phantom.pet.spacing) / 1000

# %%
sap.check("2.tlg", my_tlg, pet=phantom.pet, mask=lesion)

# %% [markdown]
# **3. Change and explain.** In the ball above: diameter 10 mm, blur 8 mm, no noise, `41 % of max`. How many times the
# true volume is found? And why? Answer with both, such as `(0.8, "a")`.
#
# - a: Noise lifts the maximum, so fewer voxels reach 41 % of it.
# - b: The ball has become larger.
# - c: The maximum sinks, and the threshold with it, into the blur around the ball.
# - d: The voxels are too large for the ball.

# %% tags=["solution"]
my_times = (3.25, "c")

# %%
sap.check("2.blur", my_times)

# %% [markdown]
# **4. By hand: another lesion.** In the widget above, **Add object**, name it `another`, and outline the fourth
# largest lesion, around the voxel that the next cell names, to a DSC of 0.6 or more.

# %%
another_click = first_click(another, spacing=phantom.pet.spacing)
print(f"{another.sum() * phantom.pet.voxel_volume_ml:.1f} mL around voxel {another_click.ijk}")

# %% tags=["solution"]
by_hand.select("another")
click = another_click
for _ in range(6):
    drawn = by_hand.click(ijk=click.ijk, foreground=click.foreground)
    click = next_click(another, drawn, spacing=phantom.pet.spacing)
    if sap.dice(drawn, another) > 0.65 or click is None:
        break

# %%
sap.check("2.lesion", by_hand, truth=another)

# %% [markdown]
# ## Quiz
#
# Answer aloud before you open an answer.
#
# **1.** A lesion of 8 mm was SUVmax 5 before treatment and is 3 after it, and it has shrunk. Did it cool down?
#
# <details><summary>Answer</summary>
#
# Perhaps only shrunk: below two or three times the blur, what shrinks looks colder at the same uptake.
#
# </details>
#
# **2.** Which of SUVmax, SUVmean and volume would you use if outlines come from many hands?
#
# <details><summary>Answer</summary>
#
# SUVmax, or better SUVpeak: they do not mind where exactly the outline runs, unless it takes in a hot neighbour. A
# volume minds most.
#
# </details>
#
# **3.** Two studies report MTVs that differ by a third. Do the patients differ?
#
# <details><summary>Answer</summary>
#
# First ask for the rules. SUV 4, 41 % and an outline by hand can differ by more than that on one lesion.
#
# </details>

# %% [markdown]
# ## What you take home
#
# - A number needs its rule: which mask, which threshold, which formula.
# - Blur makes small things cold, and thresholds relative to the maximum make them large.
# - Ask which number suffers, before you ask how good the mask is.
#
# ## Who says what
#
# - **Published:** SUVpeak, SUL and PERCIST's rule; that comparing SUVmax between organs and patients is what organ
#   masks are for.
# - **Measured here:** every number that a cell printed. The phantoms' lesions are drawn so that their SUVmax *in the
#   image* follows published tables.
#
# ## Sources
#
# - Zhang et al., *SegAnyPET*, ICCV 2025, arXiv:2502.14351, supplement.
# - Wahl et al., *From RECIST to PERCIST*, J Nucl Med 50, 2009. Measurability.
# - Boellaard et al., *FDG PET/CT: EANM procedure guidelines*, EJNMMI 42, 2015. The 41 % threshold.
#
# *Lesson 2 of 9; previous: [1 Counts to SUV](01_data_exploration_suv.ipynb); next: [3 Labels and
# cohorts](03_data_exploration_cohorts.ipynb)*
#
# *Not for clinical use.*
