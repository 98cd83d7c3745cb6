import numpy as np
import pytest
from conftest import oblique

from seganypet.cohort.case import Case, CTCase
from seganypet.errors import CohortError
from seganypet.pet.volume import Volume, save_mask, save_volume
from seganypet.study.evaluation import evaluate

SHAPE = (20, 22, 24)


@pytest.fixture
def case(tmp_path):
    """A PET of noise on an oblique grid; a CT on a finer one of its own, in which the liver is the only soft tissue."""
    pet = Volume(np.random.default_rng(0).gamma(2, 0.5, SHAPE), oblique((4.07, 4.07, 3.0), left_handed=True), "SUVbw")
    organs = np.zeros(SHAPE, np.uint8)
    organs[6:14, 6:14, 6:14] = 1
    middle_mm = pet.to_mm((9.5, 9.5, 9.5))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = middle_mm - 75
    places = np.stack(np.meshgrid(*[np.arange(101)] * 3, indexing="ij"), -1) @ affine[:3, :3] + affine[:3, 3]
    in_pet = pet.to_ijk(places)
    inside = ((in_pet > 5.5) & (in_pet < 13.5)).all(-1)
    save_volume(tmp_path / "pet.nii.gz", pet)
    save_volume(tmp_path / "ct.nii.gz", Volume(np.where(inside, 60.0, -1000.0), affine, "HU"))
    save_mask(tmp_path / "organs.nii.gz", organs, like=pet)
    return Case("a", "p", tmp_path / "pet.nii.gz", "SUVbw", ct=tmp_path / "ct.nii.gz",
                organs=tmp_path / "organs.nii.gz", organ_convention="seganypet")  # fmt: skip


def test_the_ct_lies_on_the_pets_grid_with_its_targets(case):
    on_ct, pet = CTCase(case), case.load_pet()
    ct = on_ct.load_pet()
    assert ct.unit == "HU" and ct.shape == pet.shape and np.array_equal(ct.affine, pet.affine)
    (name, liver), *_ = on_ct.targets(ct, ["liver"])
    assert name == "liver" and ct.data[liver].mean() > -200 and ct.data[~liver].mean() < -900


class SoftTissue:
    """A session that finds all soft tissue, wherever one clicks."""

    def __init__(self, volume: Volume):
        self.volume = volume

    def reset(self) -> None:
        """Nothing is remembered."""

    def click(self, ijk, foreground=True) -> np.ndarray:
        return (self.volume.data > -200) & (self.volume.data < 200)


def test_a_ct_is_evaluated_as_a_case(case):
    # The same rule on the same case: on the CT it finds the liver, on a PET it takes everything.
    dsc = [evaluate([one], SoftTissue, 1, targets=["liver"], rules=(), progress=False)["dsc"].item()
           for one in (CTCase(case), case)]  # fmt: skip
    assert dsc[0] > 0.9 > 0.3 > dsc[1]


def test_a_case_without_a_ct_says_so(case, tmp_path):
    with pytest.raises(CohortError, match="names no CT"):
        CTCase(Case("a", "p", case.pet, "SUVbw")).load_pet()
