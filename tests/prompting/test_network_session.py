"""What a network must offer, and how it finds its session."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import oblique
from threshold_network import ThresholdNetwork

import seganypet as sap
from seganypet.errors import SegAnyPETError
from seganypet.model.base import PromptableNetwork, SliceNetwork, missing_members
from seganypet.pet.volume import Volume
from seganypet.prompting.network_session import NetworkSession, open_session
from seganypet.prompting.session import Session
from seganypet.prompting.slicewise import SliceSession


@pytest.fixture
def volume() -> Volume:
    return Volume(np.random.default_rng(0).gamma(2.0, 2.0, (20, 22, 24)), oblique((4.0, 3.0, 5.0)), "SUVbw")


def test_the_embedded_networks_find_their_sessions():
    sample = Volume(np.ones((8, 9, 10), np.float32), oblique((4.0, 3.0, 5.0)), "SUVbw")
    assert type(open_session(sap.load_model("tiny"), sample)) is Session
    sagittal = open_session(sap.load_model("tiny-2d"), sample, axis="sagittal")
    assert type(sagittal) is SliceSession and sagittal.axis == "sagittal"


def test_networks_of_the_package_offer_what_their_sessions_ask_for():
    assert missing_members(sap.load_model("tiny"), PromptableNetwork) == []
    assert missing_members(ThresholdNetwork(), PromptableNetwork) == []
    assert missing_members(sap.load_model("tiny-2d"), SliceNetwork) == []


def test_a_session_takes_what_it_can_translate_for_its_network(volume):
    drawn = {"click", "scribble", "box", "lasso", "propagation"}
    network = sap.load_model("tiny-2d")
    for takes, expected in (({"click", "mask", "text"}, {*drawn, "mask"}), ({"click"}, drawn), ({"box"}, {"box"})):
        network.accepts = frozenset(takes)
        assert SliceSession(network, volume).accepts == expected
    assert Ball(9.0).accepts == BallSession(Ball(9.0), volume).accepts == {"click"}, "no more than the session knows"


def test_a_module_that_merely_has_a_config_is_told_what_it_lacks(volume):
    module = torch.nn.Linear(2, 2)
    module.config = type("Config", (), {"window_size": 8})
    with pytest.raises(SegAnyPETError, match="Linear lacks accepts, decode, embed, name, no_logits, normalise, "
                       "config.intensity, config.spacing_mm"):  # fmt: skip
        Session(module, volume)
    with pytest.raises(SegAnyPETError, match="no session drives a Linear. It lacks, .*for SliceSession: accepts"):
        open_session(module, volume)


# ---- a network with a session of its own, in two files: this would be the first ...


class Ball(torch.nn.Module):
    """A "network" that draws a ball of learned radius around the newest click."""

    name = "ball"
    accepts = frozenset({"click"})
    session = "test_network_session:BallSession"

    def __init__(self, radius_mm: float):
        super().__init__()
        self.radius_mm = torch.nn.Parameter(torch.tensor(radius_mm), requires_grad=False)

    def draw(self, distance_mm: np.ndarray) -> np.ndarray:
        return distance_mm <= self.radius_mm.item()


# ... and this the second.


class BallNetwork:
    """What a `BallSession` asks for."""

    name: str
    accepts: frozenset[str]

    def draw(self, distance_mm):
        """Distances to masks."""


class BallSession(NetworkSession):
    network = BallNetwork

    def __init__(self, model, volume, *, scale: float = 1.0):
        super().__init__(model, volume)
        self.scale = scale

    def _settings(self):
        return {"scale": self.scale}

    def _predict(self, prompts, previous):
        return prompts[-1].centre_ijk

    def _mask_on_grid(self, prediction):
        offsets = np.moveaxis(np.indices(self.volume.shape), 0, -1) - prediction
        return self.model.draw(np.linalg.norm(offsets @ self.volume.affine[:3, :3].T, axis=-1) / self.scale)


def test_a_network_with_its_own_session_is_opened_evaluated_and_replayed(volume, tmp_path):
    network = Ball(9.0)
    session = open_session(network, volume, scale=2.0)
    assert type(session) is BallSession
    mask = session.click(ijk=(10, 11, 12))
    assert mask.sum() * volume.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * 1.8**3, rel=0.05)
    session.save_journal(tmp_path / "clicks.json")
    again = BallSession.replay(network, volume, tmp_path / "clicks.json")
    assert again.scale == 2.0
    np.testing.assert_array_equal(again.mask, mask)
    with pytest.raises(SegAnyPETError, match="other weights"):
        BallSession.replay(Ball(8.0), volume, tmp_path / "clicks.json")
    assert type(open_session(ThresholdNetwork(), volume)) is Session, "other networks keep their sessions"


def test_the_base_of_sessions_and_their_registry_import_no_torch():
    code = (
        "import sys, seganypet.prompting.base, seganypet.prompting.network_session, seganypet.prompting.thresholds; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- settings that had another name


def test_the_former_names_of_settings_are_refused_with_todays(volume):
    with pytest.raises(SegAnyPETError, match=r"Session: .*finest_mm is now called min_spacing_mm; pass .*=2\.0"):
        Session(ThresholdNetwork(), volume, finest_mm=2.0)
    with pytest.raises(SegAnyPETError, match="SliceSession: .*window is now called intensity_range"):
        SliceSession(sap.load_model("tiny-2d"), volume, window=(0, 5))


def test_journals_with_the_former_names_of_settings_replay(volume, tmp_path):
    zoomed = Session(ThresholdNetwork(), volume, min_spacing_mm=2.0)
    sliced = SliceSession(sap.load_model("tiny-2d"), volume, intensity_range=(0.0, 9.0))
    for session, new, old in ((zoomed, "min_spacing_mm", "finest_mm"), (sliced, "intensity_range", "window")):
        mask, path = session.click(ijk=(10, 11, 12)), tmp_path / f"{old}.json"
        session.save_journal(path)
        path.write_text(path.read_text().replace(f'"{new}"', f'"{old}"'))
        again = type(session).replay(session.model, volume, path)
        np.testing.assert_array_equal(again.mask, mask)
        session.load_journal(path)
        assert getattr(again, new) == getattr(session, new)
