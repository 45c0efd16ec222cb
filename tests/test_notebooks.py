"""Every notebook in colab/ is committed without outputs and runs from top to bottom.

A cell tagged "parameters" is followed by one that makes its numbers small.
"""

import pathlib
import re

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
SMALL = {
    "quickstart": {"updates": 2, "per_mix": 1},
    "sweep": {"train_images, test_images": "3, 2", "horizon": 1, "updates": 2, "seeds": 2},
}
SHOWN = {  # pictures, their MIME type, and what the tables name
    "quickstart": (3, "image/png", ["| agent |", "| greedy |"]),
    "sweep": (1, "image/svg+xml", ["| ppo |", "| grpo |", "| cost 0.2 |", "| guard 8 |"]),
}
TIMEOUT_S = 600  # a cell


def read(path):
    return nbformat.read(path, as_version=4)


def make_small(notebook, values):
    """Inserts a cell after the one tagged "parameters", all of whose variables must be given."""
    [index] = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    named = {line.partition("=")[0].strip() for line in notebook.cells[index].source.splitlines()}
    assert named == values.keys()
    lines = [f"{name} = {value}" for name, value in values.items()]
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell("\n".join(lines)))


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == SMALL.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_valid_and_has_no_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert links and not [link for link in links if not (path.parent / link).exists()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = read(path)
    make_small(notebook, SMALL[path.stem])
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=TIMEOUT_S, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    number, kind, names = SHOWN[path.stem]
    pictures = [output for output in outputs if kind in output.get("data", {})]
    tables = "".join(output.data["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {}))
    assert len(pictures) == number
    assert not [name for name in names if name not in tables]
