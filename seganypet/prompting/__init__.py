"""From prompts to masks.

    prompts      a prompt is a type: click (prompt), scribble, box, lasso (shapes), a mask to start from (initial_mask)
    journal      the journal that repeats prompts
    base         what every session shares: add, objects, undo, redo, saving; a call for each kind of prompt
                 (prompt_calls); its state at one moment (state)
    readings     what an ambiguous first prompt may mean, and the choice of one reading
    network_session   what sessions of networks share; open_session
    session      Session: a 3D network; how a click becomes a mask
    window       the cube that a 3D network sees, sampled from a volume; logits carried back
    slicewise    SliceSession: a 2D network, slice by slice
    slices, slice_prompts, slice_decoding, slice_binding, propagation   the stack of slices; what prompts tell of a
                 slice; predictions; what a point settles; from one slice to the next
    binding_session   what sessions share in which prompts bind
    thresholds, random_walker   sessions without a network; what they share (classical)

    simulate, simulate_shapes   the clicks and other prompts that a user would give, knowing the truth
    suggest      where to look next, not knowing it
    proposal     organs of a whole scan without any prompt
    autopet_clicks   autoPET's click files
    stopwatch    how long somebody worked, without the pauses
"""
