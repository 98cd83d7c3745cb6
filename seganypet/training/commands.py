"""Training as a subcommand of `seganypet`: the signature is the command line, the docstring its help."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

import seganypet as sap
from seganypet._files import as_path
from seganypet.errors import SegAnyPETError, say
from seganypet.study.commands import OptionalPath, OptionalText, Texts

CONFIGS = Path(__file__).parents[1] / "configs"


def config_path(config: str | Path) -> Path:
    """Path of a configuration that is given by its path, or by the name of one in the package.

    Raises:
        SegAnyPETError: There is neither.
    """
    in_package = CONFIGS / f"{config}.yaml"
    if not in_package.is_file() and not as_path(config).exists():
        names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
        raise SegAnyPETError(f"{config}: no such file, nor a configuration of the package, which are {names}.")
    return in_package if in_package.is_file() else as_path(config)


def train(
    config: Positional[str],
    overrides: UseAppendAction[Annotated[Texts, arg(name="set", metavar="KEY=VALUE")]] = (),
    init: OptionalText = None,
    cohort: OptionalPath = None,
    output: Path = Path("runs"),
    processes: int = 4,
    device: str = "auto",
    devices: str = "auto",
    num_nodes: int = 1,
    max_wait_hours: float = 24.0,
    logger: Literal["csv", "tensorboard", "mlflow"] = "csv",
    prepare: bool = False,
) -> None:
    """Train a network, or resume an interrupted run.

    Weights, log, pictures and checkpoint land in OUTPUT; `seganypet.training.config.TrainConfig` describes the keys of
    a configuration. On several machines, start `torchrun ... -m seganypet train ...`.

    Examples:
      seganypet train tiny
      seganypet train seganypet/configs/supplement.yaml --cohort cohort.csv
      seganypet train tiny --set name=mine --set learning_rate=5e-4 --set data.lq=100

    Args:
        config: Configuration (YAML): a path, or the name of one in the package, such as tiny.
        overrides: A key of the configuration and its new value; may be given several times.
        init: Name or path of the weights to start from.
        cohort: Cohort table to train on.
        output: Folder of everything that is written.
        processes: Number of processes that prepare scans, and that load samples for each GPU.
        device: What to train on: auto, cpu, cuda, cuda:1 or mps.
        devices: Number of devices on each machine; auto is what torchrun or SLURM started, else every GPU.
        num_nodes: Number of machines, under torchrun.
        max_wait_hours: How long other processes wait while the first one prepares scans or validates.
        logger: Where the numbers of the log are shown as well: TensorBoard's files in OUTPUT, or MLflow's server.
        prepare: Only prepare the scans, for instance before many devices would wait for them.
    """
    from seganypet.training.config import load_config
    from seganypet.training.loop import prepare as prepare_scans

    given = [f"{key}={value}" for key, value in (("init", init), ("data.cohort", cohort)) if value is not None]
    settings = load_config(config_path(config), overrides=[*overrides, *given])
    if prepare:
        say(f"{prepare_scans(settings, output, processes=processes)} scans")
        return
    sap.train(
        settings, output, processes=processes, devices=devices, num_nodes=num_nodes, device=device,
        max_wait_hours=max_wait_hours, logger=logger,
    )  # fmt: skip
    say(f"Weights: {output / settings.name}.safetensors. Log: {output / settings.name}.csv.")
