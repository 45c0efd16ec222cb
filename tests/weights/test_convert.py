"""`r1jax weights import` and `export`: a golden's checkpoint goes in, comes out, and still gives the official output."""

import json
import pathlib

import jax
import numpy as np
import pytest

from r1jax.cli import main
from r1jax.weights import load_module, read_checkpoint

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "srvgg_compact.npz"


@pytest.fixture
def checkpoint(tmp_path):
    with np.load(GOLDEN) as file:
        state = {f"module.{key[3:]}": file[key] for key in file.files if key.startswith("sd/")}
    np.savez(tmp_path / "compact.npz", **state)
    return tmp_path / "compact.npz"


def test_import_says_what_it_found(checkpoint, capsys):
    assert main(["weights", "import", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("srvgg_compact(num_in_ch=3, num_out_ch=3, num_feat=12, num_conv=4, upscale=4, act_type=prelu)")
    module, metadata = load_module(checkpoint.with_name("compact.r1jax.safetensors"))
    assert metadata["source"] == "compact.npz" and metadata["net"] == "srvgg_compact"
    with np.load(GOLDEN) as file:
        y = np.asarray(module(file["x"].transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(y, file["y"], rtol=1e-4, atol=1e-5)
    assert main(["weights", "import", str(checkpoint)]) == 1
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert main(["weights", "import", str(checkpoint.with_name("compact.r1jax.safetensors")), "-o", "x"]) == 1
    assert "already a file of r1jax" in capsys.readouterr().err


def test_import_refuses_what_it_does_not_know(tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", **{"backbone.stem.weight": np.zeros((3, 3))})
    assert main(["weights", "import", str(tmp_path / "odd.npz")]) == 1
    error = capsys.readouterr().err
    assert "odd.npz: not recognised: no known network has such tensors" in error and len(error.splitlines()) == 1


def test_export_gives_back_the_checkpoint_and_a_program(checkpoint, capsys, tmp_path):
    main(["weights", "import", str(checkpoint), "-o", str(tmp_path / "net.safetensors")])
    for fmt in ("safetensors", "stablehlo"):
        arguments = ["--format", fmt, "-o", str(tmp_path / fmt), "--size", "8x12", "--json"]
        assert main(["weights", "export", str(tmp_path / "net.safetensors"), *arguments]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["input"] == [1, 8, 12, 3] and said["output"] == [1, 32, 48, 3]
    (tmp_path / "safetensors").rename(tmp_path / "official.safetensors")
    official, original = read_checkpoint(tmp_path / "official.safetensors"), read_checkpoint(checkpoint)
    assert official.keys() == original.keys()
    for name, value in original.items():
        np.testing.assert_array_equal(official[name], value)
    x = np.random.default_rng(0).random((1, 8, 12, 3)).astype(np.float32)
    program = jax.export.deserialize(bytearray((tmp_path / "stablehlo").read_bytes()))
    module, _ = load_module(tmp_path / "net.safetensors")
    np.testing.assert_allclose(program.call(x), module(x), atol=1e-5)
    assert main(["weights", "export", str(tmp_path / "net.safetensors"), "--format", "stablehlo", "--size", "9"]) == 2
    assert "want HEIGHTxWIDTH" in capsys.readouterr().err
