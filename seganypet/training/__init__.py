"""How the networks learn.

    config, config_rules   TrainConfig: the settings of one run, read from YAML; what cannot be
    loop          train: one visible loop over Lightning Fabric, on a CPU, a GPU or several
    scans         phantoms, cohorts and scenes of random shapes, kept on disk as training reads them
    windows, augment   where a window lies and what is cut there; other images of the same window
    samples       the windows and targets that training draws
    scenes, supervoxels   random shapes; targets from the image alone
    clicks        a simulated user for whole batches, on the device: clicks, masks to start from
    objective     one batch -> one loss: clicks, readings, DiceCE and CPCL (formulas in `seganypet.losses`)
    validation    which epoch is kept
    bookkeeping, checks   schedule, average of weights, checkpoint, log and lock; what a cohort lacks
"""
