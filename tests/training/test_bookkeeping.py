"""The log of a training, after a kill or on a full disk."""

import pytest

from seganypet.errors import SegAnyPETError
from seganypet.training.bookkeeping import append_row, forget_rows_after

COLUMNS = ("step", "loss")


def test_rows_after_the_checkpoint_and_one_that_was_cut_are_written_again(tmp_path):
    log = tmp_path / "run.csv"
    for step in (5, 10, 15):
        append_row(log, COLUMNS, {"step": step, "loss": 1 / step})
    log.write_bytes(log.read_bytes() + b"2")  # of "20,0.05"
    forget_rows_after(log, 10)
    assert log.read_text().split() == ["step,loss", "5,0.2", "10,0.1"]
    forget_rows_after(log, 4)
    assert not log.exists()


@pytest.mark.parametrize("content", ["epoch,loss\n1,2\n", "step,loss\nfive,1\n", "step,loss\n,\n"])
def test_what_is_no_log_is_refused_and_stays(tmp_path, content):
    log = tmp_path / "run.csv"
    log.write_text(content)
    with pytest.raises(SegAnyPETError, match="not a log as it was written"):
        forget_rows_after(log, 10)
    assert log.read_text() == content
