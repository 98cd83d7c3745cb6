"""Small cases, and sessions whose masks are known, for tests of evaluation; importable by other processes."""

import os
import time
from pathlib import Path

import numpy as np
from conftest import oblique

from seganypet.cohort.case import InMemoryCase
from seganypet.pet.views import VIEWS, ras_axes
from seganypet.pet.volume import Volume

SHAPE = (26, 24, 20)
TIMES = ["seconds", "model_seconds"]


def memory_case(name: str = "a", patient: str | None = None) -> InMemoryCase:
    """A liver of 5 x 5 x 5 voxels, a spleen of 9 x 5 x 5, a prostate, and two lesions; on an oblique grid."""
    organs, lesions = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    organs[2:7, 2:7, 2:7], organs[12:21, 2:7, 2:7], organs[2:5, 14:17, 10:13] = 1, 5, 7
    lesions[15:18, 14:17, 3:6] = lesions[15:18, 14:17, 12:15] = 1
    data = 1 + 4.0 * (organs == 1) + 2 * (organs == 5) + 3 * lesions
    pet = Volume(data.astype(np.float32), oblique(spacing=(4.07, 4.07, 3.0), left_handed=True), "SUVbw", source=name)
    return InMemoryCase(name, patient or name, pet, organs, lesions)


class CubeSession:
    """Knows cubes only: 5 x 5 x 5 voxels around each click, set or cleared."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.reset()

    def reset(self) -> None:
        self.mask = np.zeros(self.volume.shape, bool)

    def click(self, ijk, foreground: bool = True) -> np.ndarray:
        self.mask = self.mask.copy()
        self.mask[tuple(slice(max(index - 2, 0), index + 3) for index in ijk)] = foreground
        return self.mask


class SquareSession(CubeSession):
    """Knows squares of 3 x 3 pixels in the slices that are clicked; keeps all clicks that it was given."""

    axis = "axial"

    def reset(self) -> None:
        super().reset()
        self.given = []

    def click_slices(self, clicks) -> np.ndarray:
        through = [axis for axis, _ in ras_axes(self.volume)].index(VIEWS[self.axis].through)
        self.mask = self.mask.copy()
        for click in clicks:
            square = [slice(max(index - 1, 0), index + 2) for index in click.ijk]
            square[through] = slice(click.ijk[through], click.ijk[through] + 1)
            self.mask[tuple(square)] = click.foreground
        self.given.append(list(clicks))
        return self.mask


class SlowCubeSession(CubeSession):
    """Takes its time, and says in a file that it was clicked; see `SLOW_LOG`."""

    def click(self, ijk, foreground: bool = True) -> np.ndarray:
        time.sleep(0.01)
        with Path(os.environ["SLOW_LOG"]).open("a") as log:
            log.write("click\n")
        return super().click(ijk, foreground)


class BrokenCase(InMemoryCase):
    """Cannot be read while the file that it is named after exists."""

    def load_pet(self) -> Volume:
        if Path(self.patient).exists():
            raise OSError("disk gone,\nor\nso")
        return super().load_pet()


class DeadlyCase(InMemoryCase):
    """Takes the process with it, as one does that needs more memory than there is."""

    def load_pet(self) -> Volume:
        os.kill(os.getpid(), 9)
