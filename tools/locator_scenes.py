"""Pieces of phantoms as the locator learns from them: bodies turned, stretched, bent, repainted, blurred and cut off.

What a scan shows is drawn anew for each piece: an organ's uptake against the others', resolution, noise, hot masses
where there were none, and where the field of view ends. Left and right are never exchanged.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from seganypet._files import replace_atomically
from seganypet.organs import ORGANS
from seganypet.pet.resampling import resample_to
from seganypet.pet.views import to_ras
from seganypet.pet.volume import Volume
from seganypet.phantom import PhantomCase, make_phantom
from seganypet.phantom.patient import ID, PARTS, TISSUES
from seganypet.regions import bounding_box, widen_box

STORED_MM = 4.0
# Factors by which a tissue's uptake may change, (low, high); others move by 1/1.6 to 1.6.
CONTRASTS = {
    "kidney": (0.7, 2.6), "heart": (0.5, 3.0), "blood": (0.6, 2.2), "fat": (0.7, 3.5), "lung": (0.6, 2.0),
    "bladder": (0.4, 5.0), "brain": (0.5, 2.5), "bowel": (0.5, 3.0), "prostate": (0.6, 4.0),
}  # fmt: skip
# Tissues of one kind change together; those named nowhere change alone.
KINDS = {
    "kidney": ("kidney_left_cortex", "kidney_right_cortex", "kidney_left_pelvis", "kidney_right_pelvis"),
    "heart": ("myocardium",), "blood": ("heart_blood", "aorta", "vessels", "mediastinum"),
    "fat": ("fat", "skin"), "lung": tuple(organ for organ in ORGANS if organ.startswith("lung_")),
    "bladder": ("bladder",), "brain": ("brain_grey", "brain_white", "cerebellum"),
    "bowel": ("small_bowel", "colon", "stomach_wall"), "prostate": ("prostate",),
}  # fmt: skip
LABELS_OF = {**PARTS, "brain": ("brain_grey", "brain_white", "cerebellum")}


@dataclass(frozen=True)
class Bank:
    """Phantoms on 4 mm grids in RAS order, kept as files; each is made when it is first drawn.

    Attributes:
        seeds: Seeds of the phantoms, internal domain.
        folder: Folder of the files.
        labels: Names of the locator's labels, from 1.
        spacing_mm: Voxel size of the pieces.
        size: Voxels of a piece along x, y and z.
    """

    seeds: range
    folder: Path
    labels: tuple[str, ...]
    spacing_mm: float
    size: tuple[int, int, int]

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A piece of a body: SUV, `size` float32, and its labels, `size` uint8."""
        pet, anatomy = self._phantom(int(rng.choice(self.seeds)))
        table = label_table(self.labels)
        at = self._positions(table[anatomy], rng)
        suv = ndimage.map_coordinates(pet, at, order=1, cval=0.0)
        tissue = ndimage.map_coordinates(anatomy, at, order=0, cval=0)
        suv *= self._repainting(tissue, rng)
        _add_masses(suv, tissue > 0, self.spacing_mm, rng)
        suv = _imaged(suv, tissue == 0, rng)
        labels = table[tissue]
        _end_field_of_view(suv, labels, rng)
        return suv, labels

    def _phantom(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """SUV, as smooth as voxels of the locator's size are, float32, and tissues, uint8, on a 4 mm grid."""
        path = self.folder / f"phantom_{seed}.npz"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            arrays = _on_stored_grid(make_phantom(seed, "internal"), self.spacing_mm)
            with replace_atomically(path) as temporary:
                np.savez(temporary, **arrays)
        with np.load(path) as file:
            return file["pet"].astype(np.float32), file["anatomy"]

    def _positions(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Where each voxel of a piece lies in a phantom, in the phantom's voxels, (3, X, Y, Z)."""
        if rng.random() < 0.8:
            present = np.flatnonzero(np.bincount(labels[::2, ::2, ::2].ravel(), minlength=len(self.labels) + 1))
            inside = np.argwhere(labels[::2, ::2, ::2] == rng.choice(present[present > 0])) * 2
            centre = inside[rng.integers(len(inside))] + rng.normal(0, 15, 3)
        else:
            centre = rng.uniform(0, labels.shape)
        # Across the body a piece holds it nearly whole, as the scan that is looked at does.
        middle = np.array(labels.shape) / 2
        centre[:2] = middle[:2] + np.clip(centre[:2] - middle[:2], (-10, -5), (10, 5))
        angles = rng.uniform(-1, 1, 3) * np.deg2rad(10)
        turn = _rotation(angles) * (rng.uniform(0.85, 1.18) * rng.uniform(0.93, 1.07, 3))
        grid = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in self.size], indexing="ij"))
        at = np.tensordot(turn, grid, 1) * (self.spacing_mm / STORED_MM)
        bend = rng.normal(0, rng.uniform(0, 10) / STORED_MM, (3, 5, 5, 5))
        at += np.stack([_smooth(part, self.size) for part in bend])
        return (at + centre[:, None, None, None]).astype(np.float32)

    def _repainting(self, tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Factor of the uptake in each voxel, float32."""
        factor = {name: np.exp(rng.uniform(-0.47, 0.47)) for name in TISSUES}
        for kind, names in KINDS.items():
            low, high = np.log(CONTRASTS[kind])
            common = np.exp(rng.uniform(low, high))
            for name in names:
                factor[name] = common * np.exp(rng.normal(0, 0.08))
        table = np.array([factor[name] for name in TISSUES], np.float32) * np.exp(rng.normal(0.1, 0.2))
        return ndimage.gaussian_filter(table[tissue], rng.uniform(0.25, 0.6))


def label_table(labels: tuple[str, ...]) -> np.ndarray:
    """Label of the locator for each value of an anatomy map, uint8."""
    table = np.zeros(256, np.uint8)
    for label, name in enumerate(labels, start=1):
        for part in LABELS_OF.get(name, (name,)):
            table[ID[part]] = label
    return table


def _on_stored_grid(case: PhantomCase, spacing_mm: float) -> dict[str, np.ndarray]:
    pet = Volume(to_ras(case.pet.data, case.pet), _ras_affine(case.pet), "SUVbw")
    shape = np.ceil(np.array(pet.shape) * pet.spacing / STORED_MM).astype(int)
    affine = np.diag([STORED_MM] * 3 + [1.0])
    affine[:3, 3] = pet.affine[:3, 3]
    like = Volume(np.zeros(shape, np.float32), affine, "SUVbw")
    sigma = np.sqrt(max((spacing_mm / STORED_MM) ** 2 - 1, 0) / (8 * np.log(2)))
    image = ndimage.gaussian_filter(resample_to(pet, like).data, sigma)
    steps = STORED_MM / np.array(pet.spacing)
    anatomy = ndimage.affine_transform(to_ras(case.anatomy, case.pet), steps, output_shape=tuple(shape), order=0)
    across, front, _ = widen_box(bounding_box(anatomy > 0), (6, 6, 0), anatomy.shape)
    return {"pet": image[across, front].astype(np.float16), "anatomy": anatomy[across, front]}


def _ras_affine(volume: Volume) -> np.ndarray:
    turned = nib.orientations.inv_ornt_aff(nib.orientations.io_orientation(volume.affine), volume.shape)
    return volume.affine @ turned


def _rotation(angles: np.ndarray) -> np.ndarray:
    (a, b, c), (x, y, z) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, a, -x], [0, x, a]])
    about_y = np.array([[b, 0, y], [0, 1, 0], [-y, 0, b]])
    about_z = np.array([[c, -z, 0], [z, c, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def _smooth(field: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """A coarse field, stretched smoothly to a finer grid."""
    for axis, n in enumerate(size):
        knots = np.linspace(0, field.shape[axis] - 1, n)
        low = np.minimum(knots.astype(int), field.shape[axis] - 2)
        part = knots - low
        part = (part * part * (3 - 2 * part)).reshape([-1 if other == axis else 1 for other in range(3)])
        field = np.take(field, low, axis) * (1 - part) + np.take(field, low + 1, axis) * part
    return field


def _add_masses(suv: np.ndarray, body: np.ndarray, spacing_mm: float, rng: np.random.Generator) -> None:
    """Up to four hot masses somewhere in the body, in place; a third of the large ones is cold inside."""
    inside = np.argwhere(body)
    if not len(inside):
        return
    for _ in range(int(rng.choice(5, p=(0.55, 0.2, 0.1, 0.1, 0.05)))):
        centre = inside[rng.integers(len(inside))]
        radius_mm = np.exp(rng.uniform(np.log(6), np.log(40)))
        radii = radius_mm * np.exp(rng.normal(0, 0.25, 3)) / spacing_mm
        box = tuple(slice(max(int(c - 1.6 * r), 0), int(c + 1.6 * r) + 2) for c, r in zip(centre, radii, strict=True))
        grid = np.ogrid[tuple(slice(part.start, min(part.stop, n)) for part, n in zip(box, suv.shape, strict=True))]
        level = np.sqrt(sum(((x - c) / r) ** 2 for x, c, r in zip(grid, centre, radii, strict=True)))
        soft = 1 / (1 + np.exp((level - 1) * radius_mm / 3.0))
        if radius_mm > 20 and rng.random() < 0.33:
            soft = soft * (1 - 0.8 / (1 + np.exp((level - 0.6) * radius_mm / 4.0)))
        suv[box] = np.maximum(suv[box], soft * np.exp(rng.uniform(np.log(2.5), np.log(35))) * body[box])


def _imaged(suv: np.ndarray, air: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another resolution, further noise, and in half of all pieces air that is exactly 0."""
    if rng.random() < 0.5:
        suv = ndimage.gaussian_filter(suv, rng.uniform(0.15, 0.6))
    noise = ndimage.gaussian_filter(rng.standard_normal(suv.shape, np.float32), rng.uniform(0, 0.8))
    noise *= rng.uniform(0, 0.22) / noise.std()
    suv = np.maximum(suv + noise * np.power(np.maximum(suv, 0), np.float32(rng.uniform(0.5, 1.0))), 0)
    if rng.random() < 0.5:
        suv[ndimage.binary_erosion(air, iterations=2) | (suv < 0.03)] = 0
    return suv


def _end_field_of_view(suv: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """In some pieces the scan ends: above, below, or at the sides; in place."""
    for axis, chance in ((2, 0.25), (0, 0.06), (1, 0.03)):
        for end in (0, 1):
            if rng.random() < chance:
                n = suv.shape[axis]
                cut = int(rng.uniform(0.02, 0.5 if axis == 2 else 0.15) * n)
                part = [slice(None)] * 3
                part[axis] = slice(0, cut) if end == 0 else slice(n - cut, n)
                suv[tuple(part)] = 0
                labels[tuple(part)] = 0
