"""`r1jax report RUN`: one HTML page of a run, to be opened, mailed or kept; it loads nothing from anywhere.

Reads config.json, metrics.jsonl and evaluation/{table.json,images.jsonl,samples/} of the run's folder. A part
whose files are missing is left out, with a line that says how to get it. sections.py and gallery.py hold the
parts of the page, charts.py its drawings, page.py its look.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation import gallery, sections
from r1jax.evaluation.page import page
from r1jax.files import make_folder, write_whole


def write_report(run_dir: str | pathlib.Path, out: str | pathlib.Path | None = None) -> pathlib.Path:
    """Writes the page and returns its path, by default RUN/report.html.

    Raises:
      UsageError: the folder does not exist or holds no run.
      R1JaxError: one of its files is not what its name says.
    """
    run_dir = pathlib.Path(run_dir)
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir}: no such run folder")
    path = pathlib.Path(out) if out else run_dir / "report.html"
    text = render(run_dir)
    make_folder(path.parent)
    write_whole(path, text)
    return path


def render(run_dir: pathlib.Path) -> str:
    """Returns the page of a run as text; see `write_report` for what it raises."""
    config = _read_json(run_dir / "config.json")
    log = _read_lines(run_dir / "metrics.jsonl")
    table = _read_json(run_dir / "evaluation" / "table.json")
    records = _read_lines(run_dir / "evaluation" / "images.jsonl")
    if not (config or log or table or records):
        raise UsageError(f"{run_dir}: holds no run (config.json, metrics.jsonl or evaluation/table.json)")
    name = (config or {}).get("name") or run_dir.resolve().name
    reference = _reference(table, records)
    parts = [
        sections.header(name, table, reference),
        sections.planners(table, reference),
        sections.usage([record for record in records if record["planner"] == reference]),
        gallery.gallery(run_dir / "evaluation" / "samples", records),
        sections.curves(log),
        sections.settings(config, table),
    ]
    return page(f"{name}: r1jax report", f"<main>{''.join(parts)}</main>")


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (ValueError, TypeError) as error:
        raise R1JaxError(f"{path}: not the JSON object it should be: {error}") from None


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSONL file; a last line that was cut off is left out."""
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            if number < len(lines):
                raise R1JaxError(f"{path}: line {number} is not a JSON object") from None
    return rows


def _reference(table: Mapping[str, Any] | None, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the planner that the page is about: the one with samples, else the one that is compared."""
    for record in records:
        if "sample" in record:
            return str(record["planner"])
    differences = (table or {}).get("differences") or []
    return str(differences[0]["planner"]) if differences else "agent"
