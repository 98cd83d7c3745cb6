"""From prompts to masks.

    prompts      a prompt is a type, a click the first one; the journal that repeats them
    base, networks   what all sessions share: objects, undo, saving; what those of networks share, and open_session
    window, session     the cube that a 3D network sees; Session, which embeds once and decodes at every click
    slicewise    SliceSession: a 2D network, slice by slice
    thresholds, random_walker   sessions that need no network
    simulate, suggest   the clicks that a user would make, given the truth; where to click next, without it
    autopet_clicks, stopwatch   autoPET's click files; how long somebody worked
"""
