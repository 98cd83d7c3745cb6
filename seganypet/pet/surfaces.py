"""Outlines of masks as closed surfaces: STL files in RAS+ millimetres."""

from pathlib import Path

import numpy as np

from seganypet.pet.volume import Volume
from seganypet.regions import bounding_box

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def mask_surface_mm(mask: np.ndarray, like: Volume) -> np.ndarray:
    """The closed surface of a mask, halfway between its voxels and their neighbours.

    Args:
        mask: Bool, shape of `like`, not empty.
        like: Volume with the grid of the mask.

    Returns:
        Corners of triangles, shape (triangles, 3, 3), RAS+ mm, counter-clockwise if seen from outside.

    Source: marching cubes at the level 0.5 (skimage).
    """
    from skimage.measure import marching_cubes

    box = bounding_box(mask)
    padded = np.pad(mask[box], 1).astype(np.float32)  # what touches the border of the scan is closed there
    corners_ijk, faces, _, _ = marching_cubes(padded, 0.5, gradient_direction="ascent")
    corners_mm = like.to_mm(corners_ijk - 1 + [part.start for part in box])[faces]
    # A left-handed grid turns every triangle over.
    return corners_mm if np.linalg.det(like.affine[:3, :3]) > 0 else corners_mm[:, ::-1]


def write_stl(path: Path, mask: np.ndarray, like: Volume, name: str) -> None:
    """Write the surface of one object as binary STL; "SPACE=RAS" in its header is what 3D Slicer looks for."""
    corners = mask_surface_mm(mask, like)
    triangles = np.zeros(len(corners), _TRIANGLE)
    triangles["corners"] = corners
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    triangles["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    header = f"SPACE=RAS; {name}".encode("ascii", "replace")[:80].ljust(80)
    with path.open("wb") as file:
        file.write(header + np.uint32(len(triangles)).tobytes() + triangles.tobytes())
