"""Colours of objects: at least 20 that people with any colour vision can tell apart, next ones far apart."""

from seganypet.pet.views import COLOURS

# Okabe and Ito's as in all figures, then what of Paul Tol's "muted" and "high contrast" differs from them and itself.
OBJECT_COLOURS = (
    *COLOURS, "#882255", "#DDAA33", "#332288", "#44AA99", "#BB5566", "#F0E442", "#117733", "#AA4499", "#004488",
    "#999933", "#EE99AA", "#6699CC", "#661100", "#994455", "#AAFF32",
)  # fmt: skip
