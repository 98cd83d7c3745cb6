"""Where else a training is logged: TensorBoard or MLflow, through the loggers of Lightning, beside the CSV."""

import os
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seganypet.errors import SegAnyPETError, first_line

LOGGERS = ("csv", "tensorboard", "mlflow")
EXPERIMENT, FOLDER_TAG = "seganypet", "seganypet.folder"  # of MLflow


class Tracker:
    """A run as a server or a page of logs shows it; nothing for "csv", which is always written.

    TensorBoard's files go to `<output>/tensorboard/<name>`. MLflow's server is that of MLFLOW_TRACKING_URI, else
    `<output>/mlflow.db`. An interrupted run goes on in the same curves.

    Args:
        logger: One of `LOGGERS`.
        name: Name of the run.
        output: Folder of the run.
        settings: Settings of the run.
        step: Number of steps done before.

    Raises:
        SegAnyPETError: An unknown logger, one that is not installed, or one that cannot be opened.
    """

    def __init__(self, logger: str, name: str, output: Path, settings: Mapping[str, Any], step: int):
        check_logger(logger)
        self._logger: Any = None
        if logger == "csv":
            return
        try:
            self._logger = (_tensorboard if logger == "tensorboard" else _mlflow)(name, output, step)
            if not step:
                self._logger.log_hyperparams(dict(settings))
        except Exception as error:  # of a server, a database, a disk
            raise SegAnyPETError(f"{logger} cannot be opened ({first_line(error)}). Use --logger csv.") from error

    def log(self, row: Mapping[str, float]) -> None:
        """Log the numbers of a step, `row["step"]`; if that fails, it is said once, and training goes on without."""
        if self._logger is None:
            return
        try:
            numbers = {name: float(value) for name, value in row.items() if name != "step"}
            self._logger.log_metrics(numbers, step=int(row["step"]))
        except Exception as error:
            self._logger = None
            warnings.warn(f"logging stopped ({first_line(error)}); the CSV goes on.", stacklevel=2)

    def close(self) -> None:
        """Say that the run has ended well."""
        if self._logger is not None:
            self._logger.finalize("success")


def check_logger(logger: str) -> None:
    """Raise SegAnyPETError if there is no such logger, or it is not installed."""
    if logger not in LOGGERS:
        raise SegAnyPETError(f"logger={logger!r}; expected one of {', '.join(LOGGERS)}.")
    if logger == "tensorboard" and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise SegAnyPETError("logger='tensorboard' needs a package: pip install 'seganypet[tensorboard]'.")
    if logger == "mlflow" and not find_spec("mlflow"):
        raise SegAnyPETError("logger='mlflow' needs a package: pip install mlflow.")


def _tensorboard(name: str, output: Path, step: int) -> Any:
    from lightning.fabric.loggers import TensorBoardLogger

    # What an interrupted run logged after its checkpoint is hidden: it is logged again.
    own_file: dict[str, Any] = {"purge_step": step + 1 if step else None, "filename_suffix": f".{step}"}
    return TensorBoardLogger(output / "tensorboard", name, version="", **own_file)


def _mlflow(name: str, output: Path, step: int) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(output / 'mlflow.db').resolve()}"
    folder, run = str(output.resolve()), None
    if step:
        client = import_module("mlflow").MlflowClient(address)  # no package that we declare: it pins too many others
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id]) if experiment is not None else []  # the newest first
        mine = (one for one in runs if (one.info.run_name, one.data.tags.get(FOLDER_TAG)) == (name, folder))
        run = next((one.info.run_id for one in mine), None)
    return MLFlowLogger(EXPERIMENT, name, address, {FOLDER_TAG: folder}, run_id=run)
