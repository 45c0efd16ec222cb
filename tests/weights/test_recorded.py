"""Sums that are written down, and the digest of a pytree."""

import os

import numpy as np
import pytest

from r1jax.weights.recorded import digest, record, recorded, sha256_of


def test_sums_are_added_and_replaced(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        (tmp_path / name).write_bytes(content)
        record(tmp_path, name)
    assert recorded(tmp_path) == {name: sha256_of(tmp_path / name) for name in ("a", "b")}


def test_an_interruption_keeps_the_sums_that_were_recorded(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    record(tmp_path, "a")
    before = recorded(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path, "b")
    assert recorded(tmp_path) == before and "a" in before


def test_digest():
    params = {"a": np.ones(3), "b": np.zeros((2, 2))}
    assert digest(params) == digest(dict(params)) and len(digest(params)) == 16
    assert digest(params) != digest({**params, "a": np.ones(3) * 2})
    assert digest(params) != digest({"c": params["a"], "b": params["b"]})
