"""What `seganypet.training.loop` is made of.

    config.py       TrainConfig: one run, read from YAML
    scenes.py       windows cut from phantoms and cohorts, and scenes of random shapes
    supervoxels.py  pseudo-targets from the image alone
    samples.py      windows kept on disk, and the samples that are drawn from them
    clicks.py       a simulated user, in batches, on the device
    objective.py    one batch -> one loss: the dialogue of clicks, and CPCL
    validation.py   which epoch is kept
"""
