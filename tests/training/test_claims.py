"""Folders that belong to settings: whoever comes first, in one piece."""

import os

import pytest

from r1jax.errors import UsageError
from r1jax.training.claims import SETTINGS_FILE, claim_settings


def claim(folder, **settings):
    claim_settings(folder, settings, begun=False, option="--data")


def test_the_same_settings_may_claim_again_and_others_may_not(tmp_path):
    claim(tmp_path / "new", seed=1, crop={"side": (3, 4)})
    claim(tmp_path / "new", seed=1, crop={"side": (3, 4)})
    with pytest.raises(UsageError, match=r"new: holds a run with crop\.side=\[3, 4\], not \[3, 5\]; use another --data$"):
        claim(tmp_path / "new", seed=1, crop={"side": (3, 5)})
    with pytest.raises(UsageError, match=r"crop=\{.*\}, not None; "):
        claim(tmp_path / "new", seed=1)


def test_of_two_processes_at_once_one_claims(tmp_path, monkeypatch):
    link = os.link

    def late(partial, path):
        monkeypatch.setattr(os, "link", link)
        claim(tmp_path, seed=1)  # the other process, between this one's look and its writing
        link(partial, path)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(UsageError, match="seed=1, not 2"):
        claim(tmp_path, seed=2)
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS_FILE]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def fail(partial, path):
        raise PermissionError

    monkeypatch.setattr(os, "link", fail)
    claim(tmp_path, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == [SETTINGS_FILE]
    with pytest.raises(UsageError, match="seed=1, not 2"):
        claim(tmp_path, seed=2)
