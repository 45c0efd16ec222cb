"""The log of a run outlives whatever happens while a resume rewrites it."""

import os

import pytest

from r1jax.training.logs import RunLog, read_log


def write_updates(run_dir, start, updates):
    with RunLog(run_dir, start=start, total=9, progress=False) as log:
        for update in updates:
            log.write(update, {"loss": float(update)})


def test_a_resume_drops_what_lies_beyond_the_checkpoint_and_goes_on(tmp_path):
    write_updates(tmp_path, 0, [1, 2, 3, 4])
    write_updates(tmp_path, 2, [3])
    assert read_log(tmp_path) == [{"update": update, "loss": float(update)} for update in (1, 2, 3)]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_resume_loses_no_line(tmp_path, monkeypatch, call):
    write_updates(tmp_path, 0, [1, 2, 3, 4])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        RunLog(tmp_path, start=2, total=9, progress=False)
    assert [row["update"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
