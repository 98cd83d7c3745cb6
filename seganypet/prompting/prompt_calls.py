"""Each kind of prompt as a call, in voxels or in millimetres."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from seganypet.pet.volume import Volume
from seganypet.prompting.prompt import voxels_on
from seganypet.prompting.prompts import InitialMask, Lasso, Prompt, Scribble, click_at
from seganypet.prompting.shapes import box_on


class PromptCalls(ABC):
    """The calls of a session that give a prompt; `add` does the rest.

    Attributes:
        volume: The volume that is segmented.
    """

    volume: Volume

    @abstractmethod
    def add(self, prompt: Prompt) -> np.ndarray:
        """Give a prompt and get the new mask of the active object, bool, shape of the volume."""

    @abstractmethod
    def check_accepts(self, kind: str | type) -> None:
        """Raise ClickError unless the session takes prompts of a kind."""

    def click(
        self, ijk: Sequence[int] | None = None, mm: Sequence[float] | None = None, foreground: bool = True
    ) -> np.ndarray:
        """Click once and get the new mask of the active object.

        Args:
            ijk: Voxel that is clicked; or
            mm: Position in RAS+ millimetres.
            foreground: False: "this does not belong to the object".

        Returns:
            Mask on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: Not one position, or outside the volume; a first click that is not foreground. The session is
                then as it was before.
        """
        return self.add(click_at(self.volume, ijk, mm, foreground))

    def scribble(
        self, points_ijk: Sequence[Sequence[int]] | None = None, foreground: bool = True, *,
        points_mm: Sequence[Sequence[float]] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draw a line; every voxel on it counts as if it were clicked. Returns and errors as `click`.

        Args:
            points_ijk: Voxels, (n, 3), joined by straight lines; or
            points_mm: Positions in RAS+ millimetres, moved to the nearest voxels.
            foreground: False: "these voxels do not belong to the object".
        """
        return self.add(Scribble(voxels_on(self.volume, "scribble", points_ijk, points_mm), foreground))

    def box(
        self, low_ijk: Sequence[int] | None = None, high_ijk: Sequence[int] | None = None, foreground: bool = True, *,
        corners_mm: Sequence[Sequence[float]] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draw a box, in a slice if it is one voxel thick, else in space. Returns and errors as `click`.

        Args:
            low_ijk, high_ijk: Corners with the lowest and the highest indices, both inside; or
            corners_mm: Two opposite corners in RAS+ millimetres, (2, 3), moved to the nearest voxels. The box runs
                along the axes of the grid, also of an oblique one.
            foreground: True: nothing of the object lies outside, in the slice or in space. False: nothing of it lies
                inside.
        """
        return self.add(box_on(self.volume, low_ijk, high_ijk, corners_mm, foreground))

    def lasso(
        self, path_ijk: Sequence[Sequence[int]] | None = None, foreground: bool = True, *,
        path_mm: Sequence[Sequence[float]] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Draw a closed contour in one slice. Returns and errors as `click`.

        Args:
            path_ijk: Voxels of one slice, (n, 3), joined by straight lines, the last to the first; or
            path_mm: Positions in RAS+ millimetres, moved to the nearest voxels.
            foreground: True: in this slice nothing of the object lies outside. False: nothing of it lies inside.
        """
        return self.add(Lasso(voxels_on(self.volume, "lasso", path_ijk, path_mm), foreground))

    def start_from(self, mask: np.ndarray | str | os.PathLike) -> np.ndarray:
        """Start the active object anew from an existing mask; prompts on it before no longer count.

        Args:
            mask: Bool, or integers with one label besides 0, shape of the volume; or the path of a NIfTI file with
                such a mask on the volume's grid.

        Returns:
            Mask of the active object, bool, shape (I, J, K): what the method makes of that start.

        Raises:
            ClickError: Another shape, nothing in it, or several labels; or this session starts from no mask.
            VolumeError: The file cannot be read, or lies on another grid.
        """
        self.check_accepts(InitialMask.kind)
        return self.add(InitialMask.of(mask, self.volume))
