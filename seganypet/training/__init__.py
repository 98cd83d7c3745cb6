"""How the networks learn.

    config        TrainConfig: the settings of one run, read from YAML, refused where they contradict each other
    loop          train: one visible loop over Lightning Fabric, on a CPU, a GPU or several
    scenes, supervoxels   windows cut from phantoms and cohorts, scenes of random shapes; targets from the image alone
    samples       windows kept on disk, and the samples drawn from them
    clicks        a simulated user for whole batches, on the device
    objective     one batch -> one loss: clicks, DiceCE and CPCL (formulas in `seganypet.losses`)
    validation    which epoch is kept
    bookkeeping   schedule, average of weights, checkpoint, log and lock; tools/train_slices.py uses them too
"""
