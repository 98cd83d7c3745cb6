"""Cohorts: scans, their patients, and their labels with their quality.

    labels       conventions of label maps, names with numbers; the targets in a label map, one by one
    tracers      which tracer names and headers tell
    case         one scan and its labels
    table, cohort   the CSV of a cohort; Cohort from CSV, AutoPET and nnU-Net folders, phantoms
    autopet, nnunet, files   those two layouts; what is missing in them
    dicom_studies, dicom_choice   whose DICOM files lie in a tree; which series of a study make a case
    inspection, label_checks   the contents of a case's files, and their problems
    totalsegmentator, samples   organs from TotalSegmentator's files; public scans to fetch
    annotation, progress   annotation case by case: proposed, corrected, saved at every click
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["samples"])
