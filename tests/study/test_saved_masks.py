"""Masks that a study keeps, methods that nobody clicks, and the CT instead of the PET."""

import numpy as np
import pytest
from evaluation_cases import CubeSession, memory_case
from test_interactive import cohort  # noqa: F401  (a fixture)

from seganypet.cohort.case import Case
from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume, load_labels, save_mask, save_volume
from seganypet.study.automatic import CT, PET
from seganypet.study.evaluation import evaluate
from seganypet.study.interactive import evaluate_interactive
from seganypet.study.lesions import analyse_tumours
from seganypet.study.methods import Method, on_ct

OPTIONS = {"targets": ["liver", "spleen"], "progress": False}


def test_the_saved_mask_is_the_one_that_was_scored(tmp_path):
    case, options = memory_case("a/b"), OPTIONS | {"rules": ("SUV>=4",), "save_masks": tmp_path / "masks"}
    table = evaluate([case], CubeSession, 2, output=tmp_path / "t.csv", **options)
    for name, truth in case.targets(case.pet, options["targets"]):
        for model, folder in (("CubeSession", "CubeSession"), ("SUV>=4", "SUV_=4")):
            path = tmp_path / "masks" / "a_b" / folder / f"{name}.nii.gz"
            row = table.set_index(["click", "target", "model"]).loc[(2, name, model)]
            assert dice(load_labels(path, like=case.pet) > 0, truth) == pytest.approx(row["dsc"])


def test_a_mask_that_was_removed_is_made_again(tmp_path, recwarn):
    options = OPTIONS | {"rules": (), "save_masks": tmp_path / "masks", "output": tmp_path / "t.csv"}
    evaluate([memory_case()], CubeSession, 1, **options)
    path = tmp_path / "masks" / "a" / "CubeSession" / "liver.nii.gz"
    path.unlink()
    evaluate([memory_case()], CubeSession, 1, **options)
    assert path.exists() and "masks changed" in str(recwarn[-1].message)


def test_masks_of_the_release_protocol_lie_in_the_scan(tmp_path):
    case = memory_case()
    options = OPTIONS | {"targets": ["liver"], "rules": (), "save_masks": tmp_path}
    evaluate([case], CubeSession, 1, protocol="release", **options)
    mask = load_labels(tmp_path / "a" / "CubeSession" / "liver.nii.gz", like=case.pet) > 0
    assert mask.any() and not mask[12:].any()  # around the liver, at the grid's low end


def test_lesions_and_interactive_keep_theirs(cohort, tmp_path):  # noqa: F811
    analyse_tumours(
        cohort, None, clicks=1, rules=("41% SUVmax",), progress=False, save_masks=tmp_path / "lesions", limit=1
    )
    found = {(path.parent.name, path.name) for path in (tmp_path / "lesions").rglob("*.nii.gz")}
    assert {("SUV_=4", "no click.nii.gz"), ("41% SUVmax", "one by one.nii.gz")} <= found
    evaluate_interactive(
        cohort, None, edition="V", rules=("SUV>=4",), steps=2, progress=False, save_masks=tmp_path / "v", limit=1
    )
    names = sorted(path.name for path in (tmp_path / "v").rglob("iter_*"))
    assert names == [f"iter_{n}{end}" for n in range(3) for end in (".nii.gz", "_scribbles.json")]


# ---- nobody clicks

def test_files_of_totalsegmentator_are_a_method(tmp_path):
    case = memory_case()
    (tmp_path / "a").mkdir()
    found = np.zeros(case.pet.shape, np.uint8)
    found[2:7, 2:7, 2:6] = 1  # four of the liver's five layers
    save_mask(tmp_path / "a" / "liver.nii.gz", found, like=case.pet)
    save_mask(tmp_path / "a" / "spleen.nii.gz", np.zeros_like(found), like=case.pet)
    with pytest.warns(UserWarning):  # the other organs are missing from its output
        table = evaluate([case], None, 2, rules=(), totalsegmentator=tmp_path, **OPTIONS).set_index("target")
    assert table.loc["liver", "dsc"] == pytest.approx(2 * 100 / 225) and table.loc["spleen", "dsc"] == 0
    assert set(table["prompt"]) == {"auto"} and set(table["click"]) == {0} and set(table["modality"]) == {CT}


def test_networks_look_at_the_ct_that_is_laid_over_the_pet():
    from seganypet.prompting.network_session import open_session

    network = Method("net", open_session, object())
    rule = Method("rule", CubeSession, "rule")
    (looking,) = on_ct([network, rule])
    assert (looking.name, looking.modality, network.modality) == ("net on CT", CT, PET)


def test_a_case_without_ct_says_so_in_its_rows(tmp_path):
    source = memory_case()
    save_volume(tmp_path / "pet.nii.gz", Volume(source.pet.data, source.pet.affine, "SUVbw"))
    save_mask(tmp_path / "organs.nii.gz", source.organs, like=source.pet)
    case = Case("a", "a", tmp_path / "pet.nii.gz", "SUVbw", organs=tmp_path / "organs.nii.gz", organ_convention=None)
    with pytest.warns(UserWarning):
        table = evaluate([case], "tiny", 1, rules=(), modalities=[CT], **OPTIONS)
    assert table["error"].str.contains("the cohort names no CT").all() and set(table["model"]) == {"tiny on CT"}


@pytest.mark.parametrize("modalities", [["MR"], []])
def test_an_unknown_modality_is_refused(modalities):
    with pytest.raises(SegAnyPETError, match="expected 'PET' and/or 'registered CT'"):
        evaluate([memory_case()], "tiny", 1, modalities=modalities, **OPTIONS)
