"""A config is read strictly: what cannot be trained is refused in words, and old keys name the new ones."""

import pytest
from conftest import REPOSITORY
from train_slices import RECIPES

from seganypet.errors import SegAnyPETError
from seganypet.training.config import REMOVED, RENAMED, TrainConfig, load_config

CONFIGS = REPOSITORY / "seganypet" / "configs"


@pytest.fixture
def read(tmp_path):
    """Read a config from text."""

    def read(text: str, *overrides: str) -> TrainConfig:
        (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
        return load_config(tmp_path / "config.yaml", overrides)

    return read


# ---- those that come with the package

def test_every_config_that_comes_with_the_package_is_readable_and_keeps_to_its_seeds():
    configs = {path.stem: load_config(path) for path in CONFIGS.glob("*.yaml")}
    assert set(configs) == {"tiny-base", "tiny", "tiny-organs", "supplement"}
    for config in configs.values():
        assert config.data.first_seed >= 10_000  # tests, samples and benchmarks use seeds below
    base, tiny = configs["tiny-base"], configs["tiny"].data
    assert tiny.first_seed + tiny.hq + tiny.lq + tiny.rehearsed <= base.data.first_seed, "tiny's patients are its own"


def test_the_pair_that_never_saw_a_lesion_learned_from_the_same_patients_and_as_many_targets():
    deep, flat = load_config(CONFIGS / "tiny-organs.yaml"), RECIPES["tiny-2d-organs"]
    assert not (deep.data.lesions or flat.lesions or deep.data.shapes or flat.shapes or deep.init)
    assert (deep.data.first_seed, deep.data.hq) == (flat.first_seed, flat.phantoms)
    targets = deep.epochs * deep.steps_per_epoch * deep.batch_size * deep.targets_per_window
    assert targets == flat.steps * flat.batch_size == 21_600


def test_the_supplement_config_holds_the_published_recipe():
    config = load_config(CONFIGS / "supplement.yaml")
    assert (config.learning_rate, config.weight_decay, config.epochs, config.batch_size) == (8e-4, 0.1, 200, 12)
    assert (config.schedule, config.milestones, config.gamma) == ("multistep", (120, 180), 0.1)
    assert (config.accumulate, config.w_max, config.beta, config.strategy) == (20, 0.1, 5.0, "cpcl")
    assert config.model is None and config.init, "the shape is that of the released weights it starts from"


# ---- what is refused

@pytest.mark.parametrize(
    "text, message",
    [
        ("- a\n- b\n", "key: value"),
        ("epochs: 5\n", "name is missing; expected a line `name: ...`"),
        ("name: [\n", "not a readable YAML"),
        ("name: x\nlearning_rat: 0.1\n", r"unknown key learning_rat; did you mean learning_rate\?"),
        ("name: x\nmodel: {depth: 3}\n", "unknown key model.depth; did you mean model.encoder_depth"),
        ("name: x\nzzzzz: 3\n", "unknown key zzzzz; known are name, init, .*data.hq"),
        ("name: x\nepochs: {many: 3}\n", "unknown key epochs.many"),
        ("name: x\nepochs: many\n", "epochs is 'many'; expected a whole number"),
        ("name: x\nepochs: true\n", "epochs is True; expected a whole number"),
        ("name: x\nsteps_per_epoch: 1.5\n", "steps_per_epoch is 1.5; expected a whole number"),
        ("name: x\nlearning_rate: fast\n", "learning_rate is 'fast'; expected a number"),
        ("name: x\nstrategy: cpc\n", "strategy is 'cpc'; expected finetune or consistency or cpcl"),
        ("name: x\ndata: 5\n", "data is 5; expected lines of `key: value`"),
        ("name: x\ndata: {clean: 1}\n", "data.clean is 1; expected true or false"),
        ("name: x\ndata: {targets: liver}\n", "data.targets is 'liver'; expected a list"),
        ("name: x\nepochs: 0\n", "epochs 0 must be at least 1"),
        ("name: x\nepochs: 0\nema: 1\n", "epochs 0 must be at least 1; ema 1.0 must be at least 0 and less than 1"),
        ("name: x\nstrategy: cpcl\nprompts: 1\n", "set prompts to at least 2"),
        ("name: x\nlq_per_batch: 2\n", "lq_per_batch needs LQ cases"),
        ("name: x\nlq_per_batch: 9\n", "between 0 and batch_size"),
        ("name: x\ndata: {hq: 0}\n", "HQ windows in a batch need HQ cases"),
        ("name: x\ndata: {rehearsed: 5}\n", "data.rehearsed and rehearsed_per_batch need each other"),
        ("name: x\nrehearsed_per_batch: 5\nlq_per_batch: 2\ndata: {rehearsed: 5, lq: 5}\n", "7 together, more than"),
        ("name: x\nrehearsed_per_batch: 1\ndata: {rehearsed: 5, targets: null}\n", "all is learned anyway"),
        ("name: ../x\n", "must be a file name"),
        ("name: x\ndata: {targets: [livr]}\n", r"\['livr'\] are no organs; known are liver"),
        ("name: x\ndata: {targets: []}\n", "data.targets is empty"),
        ("name: x\ndata: {lq_annotators: [boundary, me]}\n", "data.lq_annotators .*must be some of boundary"),
        ("name: x\ndata: {cohort: a.csv, donors: b.csv}\n", "data.donors need phantoms"),
        ("name: x\ndata: {targets: null, lq: 3}\n", "true labels only"),
        ("name: x\ndata: {cohort: c.csv, clean: true}\n", "nobody knows the true labels"),
        ("name: x\ndata: {cohort: c.csv, lesions: false}\n", "data.lesions false needs phantoms"),
        ("name: x\ndata: {targets: null, lesions: false, shapes: 9}\n", "hot blobs look like lesions"),
        ("name: x\ndata: {flips: [0.5]}\n", "three probabilities"),
        ("name: x\ndata: {shape_fraction: 2}\n", "data.shape_fraction 2.0 must lie between 0 and 1"),
        ("name: x\nmodel: {window_size: 30}\n", "impossible network: window_size 30"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(read, text, message):
    with pytest.raises(SegAnyPETError, match=message):
        read(text)


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SegAnyPETError, match="cannot read .*nowhere.yaml: No such file"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("key", [*RENAMED, *REMOVED])
def test_a_key_of_an_earlier_version_is_refused_with_what_took_its_place(read, key):
    section, _, name = key.rpartition(".")
    expected = f"{key} is called {RENAMED[key]} now" if key in RENAMED else f"{key} was removed"
    with pytest.raises(SegAnyPETError, match=expected):
        read(f"name: x\n{section}: {{{name}: 3}}\n" if section else f"name: x\n{name}: 3\n")
    with pytest.raises(SegAnyPETError, match=expected):
        read("name: x\n", f"{key}=3")


# ---- numbers and changes

@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "1E-3"])
def test_a_number_may_be_written_as_one_likes(read, text):
    assert read(f"name: x\nlearning_rate: {text}\n").learning_rate == 0.001
    assert read("name: x\n", f"learning_rate={text}").learning_rate == 0.001
    assert isinstance(read("name: x\nlearning_rate: 1\n").learning_rate, float)


def test_changes_reach_nested_keys_and_leave_the_others(read):
    text = "name: x\nepochs: 3\ndata: {hq: 2, flips: [0, 0, 0]}\n"
    config = read(text, "data.lq=4", "model.encoder_depth=2", "init=tiny-base", "milestones=[3, 4]")
    assert (config.data.hq, config.data.lq, config.data.flips) == (2, 4, (0.0, 0.0, 0.0))
    assert (config.epochs, config.init, config.milestones) == (3, "tiny-base", (3, 4))
    assert config.model.encoder_depth == 2 and config.model.encoder_dim == 192
    assert read(text + "init: tiny\n", "init=null").init is None


@pytest.mark.parametrize(
    "override, message",
    [
        ("learning_rate", "expected key=value, such as"),
        ("lerning_rate=1", r"'lerning_rate=1': unknown key lerning_rate; did you mean learning_rate\?"),
        ("data.hq.x=1", "unknown key data.hq.x"),
        ("epochs=[", "not a readable YAML value"),
        ("epochs=many", "epochs is 'many'; expected a whole number"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(read, override, message):
    with pytest.raises(SegAnyPETError, match=message):
        read("name: x\n", override)
