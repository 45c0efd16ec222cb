"""A file is there whole or not at all, whatever happens while it is written."""

import errno
import os
import stat
import threading

import pytest

from r1jax.files import write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_replace_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    write_whole(str(path), b"\xff")
    assert path.read_bytes() == b"\xff" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write_whole(path, "new")
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    path.write_text("old")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(path.read_text()) or fsync(fd))
    write_whole(path, "new")
    assert seen == ["old"] and path.read_text() == "new"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "missing" / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "missing" / "a.txt") and ".tmp" not in str(caught.value)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "new")
    assert names(tmp_path) == []


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    thread.start()
    write_whole(pipe, "new")
    thread.join(10)
    assert got == ["new"] and stat.S_ISFIFO(pipe.stat().st_mode)
