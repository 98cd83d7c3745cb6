"""STL files, read back by their format."""

from pathlib import Path

import numpy as np
import pytest
from conftest import oblique
from mask_scene import SHAPE, SPACING_MM, both_hands, organs, ragged

from seganypet.pet.mask_files import save_masks
from seganypet.pet.surfaces import mask_surface_mm
from seganypet.pet.volume import Volume


def volume_of(left_handed: bool = False) -> Volume:
    return Volume(np.zeros(SHAPE), oblique(SPACING_MM, left_handed), "SUVbw", "scan")


def read_stl(path: Path) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Header, normals (n, 3) and corners (n, 3, 3) of a binary STL file."""
    content = path.read_bytes()
    count = int.from_bytes(content[80:84], "little")
    assert len(content) == 84 + 50 * count
    numbers = np.array([np.frombuffer(content, "<f4", 12, 84 + 50 * one) for one in range(count)])
    return content[:80], numbers[:, :3], numbers[:, 3:].reshape(-1, 3, 3)


def enclosed_ml(corners_mm: np.ndarray) -> float:
    """Volume inside a closed surface; negative if its triangles are seen from inside."""
    a, b, c = (corners_mm[:, corner] - corners_mm.reshape(-1, 3).mean(axis=0) for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6000


@both_hands
def test_a_surface_encloses_the_volume_of_its_mask_at_its_place(tmp_path, left_handed):
    volume, mask = volume_of(left_handed), organs()["liver"]
    (path,) = save_masks(tmp_path / "liver.stl", {"liver": mask}, volume)
    header, normals, corners = read_stl(path)
    assert header.startswith(b"SPACE=RAS; liver")
    assert enclosed_ml(corners) == pytest.approx(mask.sum() * volume.voxel_volume_ml, rel=0.03)
    voxels_mm = volume.to_mm(np.argwhere(mask))
    np.testing.assert_allclose(corners.reshape(-1, 3).mean(axis=0), voxels_mm.mean(axis=0), atol=1.5)
    outward = np.einsum("ij,ij->i", normals, corners.mean(axis=1) - voxels_mm.mean(axis=0))
    assert (outward > 0).mean() > 0.99
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


@both_hands
def test_every_edge_of_a_surface_belongs_to_two_triangles(left_handed):
    corners = mask_surface_mm(ragged(2), volume_of(left_handed))  # touches the border of the scan
    points, index = np.unique(np.round(corners.reshape(-1, 3), 4), axis=0, return_inverse=True)
    triangles = index.reshape(-1, 3)
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    forth = {tuple(edge) for edge in edges.tolist()}
    assert {(b, a) for a, b in forth} == forth


def test_several_objects_get_a_file_each(tmp_path):
    written = save_masks(tmp_path / "m.stl", organs(), volume_of())
    assert [path.name for path in written] == ["m_liver.stl", "m_shell.stl", "m_Läsion 1.stl", "m_voxel.stl"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    for path, mask in zip(written, organs().values(), strict=True):
        assert enclosed_ml(read_stl(path)[2]) > 0.1 * mask.sum() * volume_of().voxel_volume_ml
