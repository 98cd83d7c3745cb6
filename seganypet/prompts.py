"""Clicks, and the journal that remembers them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Click:
    """One point prompt.

    Attributes:
        ijk: Voxel of the volume that was clicked.
        foreground: True: "this belongs to the object"; False: "this does not".
    """

    ijk: tuple[int, int, int]
    foreground: bool = True
