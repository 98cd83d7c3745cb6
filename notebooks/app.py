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
# # Click an organ or a lesion, get its mask and its numbers
#
# 1. **Open a scan:** a sample, or your own PET: a DICOM folder or ZIP archive (its CT comes along), or a NIfTI in
#    SUVbw. A NIfTI in HU becomes the CT beneath the PET that is open. Choose the network first.
# 2. **Click** the middle of what you want. Click again to correct: "+ this" adds, "− not this" takes away. *Mouse and
#    keys*, below, tells the rest.
# 3. **Download** the mask (NIfTI; of a DICOM scan also SEG and RTSTRUCT), the journal (your prompts), the table (SUV,
#    MTV, TLG) and a report with the buttons below the pictures. Your browser keeps the journal, too, and offers it when
#    you open the same scan again.
#
# *For research and teaching. Not a medical device, not for clinical use.*
#
# <details><summary>Privacy: an upload stays on the machine that runs this app.</summary>
#
# Its file is deleted once it is read, but for the slices of a DICOM PET, which SEG and RTSTRUCT refer to: nobody else
# on that machine can read them, and they go when another scan is opened. What was read goes when the page's kernel
# ends, which closing the page does. What your browser keeps are the places of your prompts and the names of objects,
# no voxels; *Forget it* removes them.
#
# </details>

# %% tags=["parameters"]
cohort: str = "../data_samples/cohort.csv"  # the samples to pick from
case: str = "phantom_internal_9000"  # the one to begin with
limit_mb: float = 200  # largest file that may be uploaded, in MB
output_dir: str = ""  # a folder on this machine for a Save button; empty: the page offers downloads only

# %%
import seganypet as sap
from seganypet.widgets.app import App

app = App(sap.Cohort.from_csv(cohort), limit_mb=limit_mb, output_dir=output_dir or None)
app.open_case(case)
app
