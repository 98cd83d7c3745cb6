"""A training shown by TensorBoard or MLflow: the numbers of the log, in one curve also after an interruption."""

from pathlib import Path

import pytest

from seganypet.errors import SegAnyPETError
from seganypet.training import tracking
from seganypet.training.tracking import Tracker, check_logger

SETTINGS = {"name": "short", "learning_rate": 0.1, "data": {"cohort": None, "flips": [0.3, 0.1, 0.1]}}


def curve_of(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses of TensorBoard's files as its page shows them: what was purged is hidden."""
    from tensorboardX.proto.event_pb2 import Event

    shown: dict[int, float] = {}
    for path in sorted(folder.glob("events.out.tfevents*")):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == 1:  # start: what follows replaces what was there
                shown = {step: value for step, value in shown.items() if step < event.step}
            for one in event.summary.value:
                if one.tag == "loss_hq":
                    shown[event.step] = round(one.simple_value, 3)
    return sorted(shown.items())


def log_interrupted(logger: str, output: Path) -> None:
    """Steps 10 and 20; killed after a checkpoint at step 15; steps 20 and 30 of the run that resumed."""
    before = Tracker(logger, "short", output, SETTINGS, 0)
    before.log({"step": 10, "loss_hq": 0.9})
    before.log({"step": 20, "loss_hq": 0.5})
    before.close()
    after = Tracker(logger, "short", output, SETTINGS, 15)
    after.log({"step": 20, "loss_hq": 0.4})
    after.log({"step": 30, "loss_hq": 0.3})
    after.close()


def test_tensorboard_shows_each_step_once(tmp_path):
    pytest.importorskip("tensorboardX")
    log_interrupted("tensorboard", tmp_path)
    assert curve_of(tmp_path / "tensorboard" / "short") == [(10, 0.9), (20, 0.4), (30, 0.3)]


def test_mlflow_continues_the_run_of_an_interrupted_training(tmp_path, monkeypatch):
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    address = f"file:{tmp_path / 'server'}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    log_interrupted("mlflow", tmp_path / "mine")
    log_interrupted("mlflow", tmp_path / "a namesake")
    experiment = client(address).get_experiment_by_name("seganypet").experiment_id
    runs = client(address).search_runs([experiment])
    assert [run.info.run_name for run in runs] == ["short", "short"]
    for run in runs:
        steps = [one.step for one in client(address).get_metric_history(run.info.run_id, "loss_hq")]
        assert sorted(steps) == [10, 20, 20, 30] and run.data.metrics["loss_hq"] == pytest.approx(0.3)
        assert run.data.params["learning_rate"] == "0.1" and run.info.status == "FINISHED"


def test_a_logger_that_is_unknown_or_not_installed_is_refused(monkeypatch, tmp_path):
    with pytest.raises(SegAnyPETError, match="logger='wandb'; expected one of csv, tensorboard, mlflow"):
        check_logger("wandb")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    for logger, advice in (("tensorboard", r"'seganypet\[tensorboard\]'"), ("mlflow", "pip install mlflow")):
        with pytest.raises(SegAnyPETError, match=f"logger='{logger}' needs a package: .*{advice}"):
            Tracker(logger, "short", tmp_path, SETTINGS, 0)
    Tracker("csv", "short", tmp_path, SETTINGS, 0).log({"step": 1, "loss_hq": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_server_that_fails_is_told_of_and_training_goes_on(monkeypatch, tmp_path):
    class Server:
        def log_hyperparams(self, settings): ...

        def log_metrics(self, numbers, step):
            raise ConnectionError("server is gone\nand more")

    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    monkeypatch.setattr(tracking, "_mlflow", lambda *_: Server())
    tracker = Tracker("mlflow", "short", tmp_path, SETTINGS, 0)
    with pytest.warns(UserWarning, match="logging stopped .server is gone.; the CSV goes on"):
        tracker.log({"step": 10, "loss_hq": 0.9})
    tracker.log({"step": 20, "loss_hq": 0.9})
    tracker.close()

    def unreachable(*_):
        raise ConnectionError("no server at http://localhost:1")

    monkeypatch.setattr(tracking, "_mlflow", unreachable)
    with pytest.raises(SegAnyPETError, match="mlflow cannot be opened .no server at http://localhost:1"):
        Tracker("mlflow", "short", tmp_path, SETTINGS, 0)
