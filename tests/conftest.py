"""What tests share: real data where present, and grids as awkward as scanners make them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from browser import BrowserContext, Chromium

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of public real scans; tests that need it are skipped, with the reason, where it is absent."""
    named = os.environ.get("SEGANYPET_REAL_DATA")
    if named:
        assert Path(named).is_dir(), f"SEGANYPET_REAL_DATA={named} is not a folder"
        return Path(named)
    beside = REPOSITORY.parent / "shared" / "data"
    if not beside.is_dir():
        pytest.skip(f"no real scans at {beside}; set SEGANYPET_REAL_DATA to a folder that holds them")
    return beside


@pytest.fixture(scope="module")
def chromium() -> Iterator["Chromium"]:
    """A browser for a module of browser tests; `browser.PICTURES` is there for what it shows."""
    from browser import PICTURES, Chromium

    browser = Chromium()
    PICTURES.mkdir(parents=True, exist_ok=True)
    yield browser
    browser.close()


@pytest.fixture
def context(chromium: "Chromium") -> Iterator["BrowserContext"]:
    """Somebody's browser, whose pages threw nothing."""
    context = chromium.context(height=900)
    context.set_default_timeout(20_000)
    yield context
    context.close()
    assert chromium.errors == []


@pytest.fixture
def oblique_affine() -> np.ndarray:
    """A left-handed, oblique, anisotropic grid: 4.07 x 4.07 x 3 mm, tilted 20 and 10 degrees."""
    return oblique(spacing=(4.07, 4.07, 3.0), left_handed=True)


def oblique(spacing: tuple[float, float, float], left_handed: bool = False) -> np.ndarray:
    """Affine of a grid that is rotated about two axes and shifted."""
    a, b = np.deg2rad(20), np.deg2rad(10)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    if left_handed:
        affine[:3, 0] *= -1
    affine[:3, 3] = (-80.5, 33.25, -410.0)
    return affine
