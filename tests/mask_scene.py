"""Masks and the DICOM series they belong to, on grids as awkward as scanners make them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import oblique
from make_dicom import write_series
from pydicom.dataset import Dataset
from scipy import ndimage

from seganypet.metrics import dice
from seganypet.pet.dicom import load_dicom
from seganypet.pet.volume import Volume

SHAPE = (30, 26, 14)
SPACING_MM = (4.07, 3.2, 2.5)
STUDY_UID, FRAME_UID = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"

# Right- and left-handed, and both tilted about two axes.
both_hands = pytest.mark.parametrize("left_handed", [False, True], ids=["right-handed", "left-handed"])


def series(
    folder: Path, left_handed: bool = False, shape: tuple[int, int, int] = SHAPE, frame: str = FRAME_UID
) -> Volume:
    """A PET series on an oblique, anisotropic grid, written and loaded."""

    def identify(header: Dataset, k: int) -> None:
        header.StudyInstanceUID, header.FrameOfReferenceUID = STUDY_UID, frame
        header.InstanceNumber = k + 1

    stored = np.random.default_rng(0).integers(0, 1000, shape)
    write_series(folder, stored, oblique(SPACING_MM, left_handed), change=identify)
    return load_dicom(folder)


def ragged(seed: int, shape: tuple[int, int, int] = SHAPE, level: float = 0.02) -> np.ndarray:
    """A mask with holes, islands in holes, pieces that touch at corners only, and voxels on the border."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return ndimage.gaussian_filter(noise, 1.2) > level


def organs(shape: tuple[int, int, int] = SHAPE) -> dict[str, np.ndarray]:
    """Two objects that overlap, one with a hole, a single voxel, and a name beyond ASCII."""
    i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
    ball = ((i - 12) / 9) ** 2 + ((j - 12) / 8) ** 2 + ((k - 6) / 5) ** 2
    voxel = np.zeros(shape, bool)
    voxel[3, 22, 9] = True
    return {
        "liver": ball < 1,
        "shell": (ball < 0.9) & (ball > 0.25),
        "Läsion 1": ragged(4, shape, 0.1),
        "voxel": voxel,
    }


def assert_same(masks: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same objects in the same order, voxel by voxel."""
    assert list(masks) == list(expected)
    for name, mask in expected.items():
        assert masks[name].dtype == bool
        assert np.array_equal(masks[name], mask), f"{name}: DSC {dice(masks[name], mask):.3f}"
