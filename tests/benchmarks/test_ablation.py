"""The ablation compares what it says: arms that differ in one thing, and intervals over patients and seeds together."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.ablation import STUDIES, run_config, summarise

STRATEGIES = STUDIES["strategies"]


def results(dsc_of) -> pd.DataFrame:
    """A table of eight patients; `dsc_of(arm, patient, seed)`."""
    runs = [("tiny-base", 0), *((arm, seed) for arm in STRATEGIES.arms for seed in STRATEGIES.seeds)]
    rows = [
        {"arm": arm, "training_seed": seed, "domain": "internal", "patient": f"p{patient}", "target": "liver",
         "seen": True, "click": click, "dsc": dsc_of(arm, patient, seed)}
        for arm, seed in runs for patient in range(8) for click in range(1, 6)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_arms_share_everything_but_what_they_are_named_after():
    finetune = asdict(run_config(STRATEGIES, "finetune", 0))
    for arm, changes in STRATEGIES.arms.items():
        config = asdict(run_config(STRATEGIES, arm, 0))
        different = {key for key in config if config[key] != finetune[key]}
        assert different <= {"name", *changes}, arm
        assert config["validation"]["phantoms"] == 0, "an arm that chooses its epoch sees what others do not"
    assert run_config(STRATEGIES, "cpcl", 0).lq_weight is None
    assert finetune["data"]["hq"] >= 8 and finetune["data"]["lq"] >= 200 and len(STRATEGIES.seeds) >= 3


def test_networks_differ_in_the_changes_from_the_released_form_alone():
    study = STUDIES["networks"]
    whole = run_config(study, "whole", 0)
    for arm, changes in study.arms.items():
        config = run_config(study, arm, 0)
        assert replace(config, name=whole.name, model=whole.model) == whole
        assert {key: asdict(config.model)[key] for key in changes.get("model", {})} == changes.get("model", {})


def test_a_constant_difference_has_an_interval_of_no_width_however_much_patients_differ():
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(0.4, 0.8, (8, 3))
    table = summarise(STRATEGIES, results(lambda arm, p, s: difficulty[p, s] + 0.1 * (arm == "cpcl")), draws=200)
    cpcl = table[(table["arm"] == "cpcl") & (table["click"] == 3)].iloc[0]
    for name in ("minus_finetune", "minus_low", "minus_high"):
        assert cpcl[name] == pytest.approx(0.1)
    assert cpcl["dsc"] == pytest.approx(difficulty.mean() + 0.1)
    assert cpcl["dsc_low"] < cpcl["dsc"] < cpcl["dsc_high"]
    organs = summarise(STRATEGIES, results(lambda arm, p, s: difficulty[p, s]), draws=20, organs=True)
    assert set(organs["targets"]) == {"liver"} and set(table["targets"]) == {"seen"}
    assert set(table["click"]) == {1, 3, 5} and set(table["arm"]) == {"tiny-base", *STRATEGIES.arms}


def test_one_lucky_seed_widens_the_interval():
    lucky = summarise(STRATEGIES, results(lambda arm, p, s: 0.6 + 0.3 * (arm == "cpcl" and s == 0)), draws=500)
    row = lucky[(lucky["arm"] == "cpcl") & (lucky["click"] == 1)].iloc[0]
    assert row["minus_finetune"] == pytest.approx(0.1)
    assert row["minus_low"] == pytest.approx(0.0) and row["minus_high"] > 0.19
