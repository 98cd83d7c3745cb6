"""From prompts to masks.

    prompts      a click, and the journal that repeats it
    base         what every session shares: objects, undo, redo, saving
    window, session     the cube that a 3D network sees; Session, which embeds once and decodes at every click
    slicewise    SliceSession: a 2D network, slice by slice
    thresholds, random_walker   what needs no network
    simulate, suggest   the clicks that a user would make, given the truth; the next place to look, without it
    autopet_clicks, stopwatch   autoPET's click files; how long somebody worked
"""
