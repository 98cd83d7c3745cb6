"""From prompts to masks.

    prompts      a prompt is a type; the journal that repeats prompts
    base         what every session shares: click, add, objects, undo, redo, saving
    network_session   what sessions of networks share; open_session
    session      Session: a 3D network; how a click becomes a mask
    window       the cube that a 3D network sees, sampled from a volume; logits carried back
    slicewise    SliceSession: a 2D network, slice by slice
    thresholds, random_walker   sessions without a network

    simulate     the prompts that a user would give, knowing the truth
    suggest      where to look next, not knowing it
    autopet_clicks   autoPET's click files
    stopwatch    how long somebody worked, without the pauses
"""
