"""Which scans there are, whose they are, and how well they are drawn.

    labels       what the numbers of a label map mean; its targets, one by one
    case         one scan and what is drawn on it
    table, cohort   the CSV of a cohort; Cohort from CSV, AutoPET and nnU-Net folders, phantoms
    inspection   what a case's files hold, and what is wrong with them
    totalsegmentator, samples   organs from its files; public scans to fetch
    annotation, progress   case after case: proposed, corrected, saved at every click
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["samples"])
