"""seganypet: promptable segmentation of 3D PET, to learn, run and extend.

    pet         a scan in numbers: volume, DICOM, SUV, quantification
    model       the network
    prompting   from prompts to masks: sessions, simulated users
    phantom     synthetic patients whose truth is known
    cohort      which scans there are, whose, how well drawn
    study       cohorts x methods x prompts -> tables
    training    how the networks learn
    widgets     what is clicked
    lessons     what the notebooks stand on: exercises, sliders

`errors`, `organs`, `regions`, `metrics`, `losses` and `_files` (files that are whole or absent) are shared by all;
`cli` is the command; `configs/` and `weights/` hold data. A wing imports only from those above it in this list.
`import seganypet as sap` offers the names in `__init__.pyi`; each is imported when it is first used.
"""

import os

import lazy_loader

# Threads of PyTorch that wait for work sleep. By default they spin, which takes the cores from every other process: a
# training in the background, a second notebook, a classmate. Read when PyTorch is imported, so it comes first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
