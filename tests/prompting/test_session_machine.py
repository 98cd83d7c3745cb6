"""Whatever the order of clicks, undo, redo, names and journals: a session is what its history says, bit for bit."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import oblique

pytest.importorskip("hypothesis", reason="random operations need hypothesis: pip install 'seganypet[test]'")
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seganypet.errors import ClickError
from seganypet.pet.volume import Volume
from seganypet.prompting.thresholds import ThresholdSession

SHAPE = (14, 12, 10)
DATA = np.random.default_rng(3).gamma(2.0, 0.4, SHAPE).astype(np.float32)
DATA[3:8, 3:8, 3:7] += 6
DATA[10:13, 8:11, 6:9] += 9
VOLUME = Volume(DATA, oblique((4.07, 3.1, 6.0), left_handed=True), "SUVbw")
NAMES = st.sampled_from(["object 1", "liver", "tumour", "$$", "a/b", "\u6f22"])
VOXELS = st.tuples(*(st.integers(0, size - 1) for size in SHAPE))


def seen(session: ThresholdSession) -> tuple:
    """All that a user can see of a session, apart from which object is active."""
    objects = session.objects
    return tuple((name, session.prompts_of(name), session.mask_of(name).tobytes()) for name in objects)


class SessionMachine(RuleBasedStateMachine):
    """A session, and the states that undo and redo must bring back."""

    def __init__(self) -> None:
        super().__init__()
        self.session = ThresholdSession(VOLUME)
        self.past: list[tuple] = []
        self.future: list[tuple] = []
        self.told = 0
        self.session.watchers.append(self.count)

    def count(self) -> None:
        self.told += 1

    def step(self, before: tuple) -> None:
        self.past.append(before)
        self.future.clear()

    @rule(ijk=VOXELS, foreground=st.booleans())
    def click(self, ijk, foreground):
        before, told = seen(self.session), self.told
        try:
            mask = self.session.click(ijk=ijk, foreground=foreground)
        except ClickError:
            assert seen(self.session) == before and self.told == told
            return
        assert mask.shape == SHAPE and mask.dtype == bool and self.told == told + 1
        self.step(before)

    @rule(low=VOXELS, high=VOXELS, foreground=st.booleans())
    def box(self, low, high, foreground):
        before = seen(self.session)
        try:
            self.session.box(low, high, foreground)
        except ClickError:
            assert seen(self.session) == before
            return
        self.step(before)

    @rule(ijk=st.tuples(st.integers(-5, 30), st.floats(), st.integers(-5, 30)))
    def click_anywhere(self, ijk):
        try:
            index = VOLUME.check_voxel(ijk)
        except ClickError:
            before = seen(self.session)
            with pytest.raises(ClickError):
                self.session.click(ijk=ijk)
            assert seen(self.session) == before
        else:
            self.click(index, True)

    @rule(name=NAMES)
    def select(self, name):
        before = seen(self.session)
        self.session.select(name)
        assert self.session.active == name and seen(self.session) == before

    @rule(new=NAMES)
    def rename_active(self, new):
        before = seen(self.session)
        old = self.session.active
        try:
            self.session.rename(old, new)
        except ClickError:
            assert seen(self.session) == before
            return

        def renamed(state: tuple) -> tuple:
            return tuple((new if name == old else name, *rest) for name, *rest in state)

        assert seen(self.session) == renamed(before)
        self.past, self.future = list(map(renamed, self.past)), list(map(renamed, self.future))

    @precondition(lambda self: self.session.objects)
    @rule(data=st.data())
    def remove(self, data):
        before = seen(self.session)
        name = data.draw(st.sampled_from(self.session.objects))
        self.session.remove(name)
        assert seen(self.session) == tuple(one for one in before if one[0] != name)
        self.step(before)

    @rule()
    def reset(self):
        before = seen(self.session)
        self.session.reset()
        assert not self.session.objects
        if before:
            self.step(before)

    @rule()
    def undo(self):
        if not self.past:
            with pytest.raises(ClickError, match="nothing to undo"):
                self.session.undo()
            return
        before = seen(self.session)
        self.session.undo()
        self.future.append(before)
        assert seen(self.session) == self.past.pop()

    @rule()
    def redo(self):
        if not self.future:
            with pytest.raises(ClickError, match="nothing to redo"):
                self.session.redo()
            return
        before = seen(self.session)
        self.session.redo()
        self.past.append(before)
        assert seen(self.session) == self.future.pop()

    @rule()
    def replay(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clicks.json"
            self.session.save_journal(path)
            again = ThresholdSession(VOLUME)
            again.load_journal(path)
        masks = {name: mask for name, _, mask in seen(self.session)}
        assert {name: mask for name, _, mask in seen(again)} == masks

    @invariant()
    def flags_and_labels_say_what_there_is(self):
        assert self.session.can_undo == bool(self.past) and self.session.can_redo == bool(self.future)
        labels = self.session.labels
        assert set(np.unique(labels)) <= set(range(len(self.session.objects) + 1))


TestSession = SessionMachine.TestCase
TestSession.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
    database=None,
)  # fmt: skip
