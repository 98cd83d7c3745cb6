"""The mask of a row of a table, drawn again from the row's prompts."""

import numpy as np
import pytest
import torch
from evaluation_cases import CubeSession, memory_case

from seganypet.cohort.case import InMemoryCase
from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import save_model
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.pet.volume import load_labels
from seganypet.study.evaluation import evaluate
from seganypet.study.paper_tables import read_results
from seganypet.study.protocol import ClickProtocol
from seganypet.study.redraw import redraw_mask

OPTIONS = {"targets": ["liver", "spleen"], "progress": False, "rules": ()}


def weights(path, seed):
    torch.manual_seed(seed)
    config = ModelConfig(window_size=32, spacing_mm=8.0, encoder_dim=48, encoder_depth=1, prompt_dim=48)
    save_model(path, Sam3D(config), "small")
    return path


@pytest.mark.parametrize("how", [
    {}, {"protocol": "release"}, {"prompt": "scribble"}, {"prompt": "box", "correction": "scribble"},
    {"first": "random", "then": "random_error", "seed": 7},
])  # fmt: skip
def test_every_row_gives_its_mask_back_whatever_the_prompts(how, tmp_path):
    case, model = memory_case(), "SUV>=4" if "prompt" in how else CubeSession
    evaluate([case], model, 3, output=tmp_path / "t.csv", save_masks=tmp_path / "masks", **OPTIONS, **how)
    for row in read_results(tmp_path / "t.csv").to_dict("records"):
        mask = redraw_mask(row, [case], model)
        assert mask.dtype == bool and mask.shape == case.pet.shape and mask.any() == (row["dsc"] > 0)
        if row["click"] == 3:
            saved = tmp_path / "masks" / "a" / row["model"].replace(">", "_") / f"{row['target']}.nii.gz"
            np.testing.assert_array_equal(mask, load_labels(saved, like=case.pet) > 0)


def test_other_weights_are_refused_unless_asked_for_and_precision_is_the_rows(tmp_path):
    case, mine, other = memory_case(), weights(tmp_path / "a.safetensors", 0), weights(tmp_path / "b.safetensors", 1)
    table = evaluate([case], {"net": mine}, 2, device="cpu", precision="float32", **OPTIONS)
    row = table.iloc[1]
    mask = redraw_mask(row, [case], mine, device="cpu")
    with pytest.raises(SegAnyPETError, match="click 2: was made with weights .*, the model has .*other_weights=True"):
        redraw_mask(row, [case], other, device="cpu")
    redraw_mask(row, [case], other, device="cpu", other_weights=True)
    assert redraw_mask(row, [case], mine, device="cpu", precision="bfloat16").shape == mask.shape
    row = row.copy()
    row["dsc"] = 0.9
    with pytest.raises(SegAnyPETError, match="the table has DSC 0.9000 after a prompt at .*, today it is"):
        redraw_mask(row, [case], mine, device="cpu")


def test_a_row_whose_labels_were_corrected_since_is_refused():
    case = memory_case()
    row = evaluate([case], CubeSession, 1, **OPTIONS).iloc[0]
    organs = case.organs.copy()
    organs[2:4] = 0  # a smaller liver
    corrected = InMemoryCase(case.name, case.patient, case.pet, organs, case.lesions)
    with pytest.raises(SegAnyPETError, match="case a, liver, CubeSession, click 1: the table has DSC .*have changed"):
        redraw_mask(row, [corrected], CubeSession)


def test_rows_without_a_mask_to_redraw_say_why():
    case = memory_case()
    row = evaluate([case], CubeSession, 1, **OPTIONS).iloc[0].to_dict()
    with pytest.raises(SegAnyPETError, match="the cohort has no case 'a'"):
        redraw_mask(row, [memory_case("b")], CubeSession)
    for change, message in (
        ({"dsc": float("nan"), "error": "OSError: gone"}, "it failed: OSError: gone"),
        ({"dsc": None}, "it has no dsc"), ({"click": 0}, "takes no prompts"),
        ({"protocol": "deepest"}, "protocol='deepest'; expected one as in the tables"),
    ):  # fmt: skip
        with pytest.raises(SegAnyPETError, match=message):
            redraw_mask(row | change, [case], CubeSession)


@pytest.mark.parametrize("protocol", [
    ClickProtocol(3), ClickProtocol(3, "release", seed=4), ClickProtocol(2, prompt="mask"),
    ClickProtocol(2, prompt="scribble", correction="click"), ClickProtocol(2, first="random"),
])  # fmt: skip
def test_a_protocol_is_read_back_from_its_label(protocol):
    again = ClickProtocol.from_label(protocol.label, protocol.clicks, protocol.seed)
    assert again == protocol
