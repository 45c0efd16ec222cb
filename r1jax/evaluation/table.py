"""The benchmark's table: one row a planner, differences with intervals, as text, Markdown and JSON."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from r1jax.evaluation.statistics import Interval, group_mean, made_worse, paired_interval

Record = dict[str, Any]  # one image by one planner

# key, heading, format; RGB and Y figures differ by about a decibel, hence both headings say which they are.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("psnr", "PSNR RGB", ".2f"),
    ("psnr_y", "PSNR Y", ".2f"),
    ("ssim_y", "SSIM Y", ".4f"),
    ("vsi", "VSI", ".4f"),
    ("maniqa", "MANIQA", ".3f"),
    ("clip-iqa", "CLIP-IQA", ".3f"),
    ("musiq", "MUSIQ", ".2f"),
    ("score", "score", ".3f"),
    ("share", "share", ".0%"),
    ("share_psnr_y", "share PSNR Y", ".0%"),
    ("share_vsi", "share VSI", ".0%"),
    ("worse", "worse", ".0%"),
    ("calls", "calls", ".2f"),
    ("tool_runs", "tool runs", ".1f"),
    ("scorings", "scorings", ".1f"),
    ("seconds", "s/image", ".3f"),
)
_COMPARED = ("psnr", "psnr_y", "ssim_y", "vsi", "maniqa", "clip-iqa", "musiq", "score", "share", "share_psnr_y", "share_vsi")
_SHARES = {"share": "score", "share_psnr_y": "psnr_y", "share_vsi": "vsi"}  # share -> what it is a share of


@dataclasses.dataclass(frozen=True)
class Table:
    """Means over a mix's images, then over mixes.

    Attributes:
      rows: a planner each, the unrestored input first.
      differences: the reference planner minus another: {"planner", "minus", key: (low, value, high)}.
      per_mix: mix -> rows.
      ceiling: with an oracle, what the best sequence for each figure by itself reaches; the oracle's is best for the score.
      provenance: what made the table.
    """

    rows: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    per_mix: dict[str, list[dict[str, Any]]]
    ceiling: dict[str, float]
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """Returns the table as JSON; a figure that does not exist, such as a share of no gain, is null."""
        return as_json(dataclasses.asdict(self), indent=1)

    def to_text(self) -> str:
        """Returns aligned columns for a terminal."""
        blocks = [_align(cells) for cells in (self._rows(), self._differences()) if len(cells) > 1]
        return "\n\n".join([*blocks, self._note()])

    def to_markdown(self) -> str:
        blocks = [_markdown(cells) for cells in (self._rows(), self._differences()) if len(cells) > 1]
        return "\n\n".join([*blocks, self._note()])

    def _rows(self) -> list[list[str]]:
        columns = [column for column in COLUMNS if any(column[0] in row for row in self.rows)]
        cells = [["planner", *(heading for _, heading, _ in columns)]]
        return cells + [[row["planner"], *(_cell(row.get(key), form) for key, _, form in columns)] for row in self.rows]

    def _differences(self) -> list[list[str]]:
        columns = [c for c in COLUMNS if c[0] in _COMPARED and any(c[0] in row for row in self.differences)]
        cells = [["difference", *(heading for _, heading, _ in columns)]]
        for row in self.differences:
            intervals = [_interval(row.get(key), form) for key, _, form in columns]
            cells.append([f"{row['planner']} - {row['minus']}", *intervals])
        return cells

    def _note(self) -> str:
        about = self.provenance
        share = (
            " share: of the oracle's gain over the input; the oracle is the best by score of all sequences of up to"
            f" {about['horizon']} tools. Chosen for the figure itself, sequences reach {self._best_of_each()}."
        )
        return (
            f"{about['num_images']} images of {about['num_photos']} photos under {len(self.per_mix)} mixes;"
            " means over a mix's images, then over mixes; brackets: 90% intervals over photos."
            f" score: {about['scorer']}, 1..5."
            f"{share if 'share' in self.rows[0] else ''}"
            " worse: images scored below the input. tool runs, scorings: to find the plan and carry it out."
        )

    def _best_of_each(self) -> str:
        reached = [(heading, key, form) for key, heading, form in COLUMNS if key in self.ceiling and key != "score"]
        return ", ".join(f"{heading} {self.ceiling[key]:{form}}" for heading, key, form in reached)


def summarise(records: Sequence[Record], reference: str | None, provenance: dict[str, Any]) -> Table:
    """Builds the table from every planner's records, which list the same images in the same order.

    Args:
      reference: the planner that the others are subtracted from; None gives no differences.
    """
    planners = list(dict.fromkeys(record["planner"] for record in records))
    columns = {name: _Columns([r for r in records if r["planner"] == name]) for name in planners}
    source, oracle = columns[planners[0]], columns.get("oracle")
    rows = [{"planner": name, **columns[name].means(source, oracle)} for name in planners]
    differences = []
    for name in planners if reference in columns else []:
        if name != reference:
            intervals = columns[str(reference)].minus(columns[name], source, oracle)
            differences.append({"planner": reference, "minus": name, **intervals})
    per_mix = {
        mix: [{"planner": name, **columns[name].means(source, oracle, mix)} for name in planners]
        for mix in dict.fromkeys(source.mix)
    }
    best = {name: group_mean(column, source.mix) for name, column in source.best.items()}
    return Table(rows, differences, per_mix, best, provenance)


class _Columns:
    """One planner's records as arrays."""

    def __init__(self, records: Sequence[Record]):
        self.mix = [record["mix"] for record in records]
        self.photo = [record["photo"] for record in records]
        names = [key for key, _, _ in COLUMNS if key in records[0]]
        self.values = {name: np.array([record[name] for record in records], float) for name in names}
        ceiling = records[0].get("best", {})
        self.best = {name: np.array([record["best"][name] for record in records], float) for name in ceiling}

    def means(self, source: "_Columns", oracle: "_Columns | None", mix: str | None = None) -> dict[str, float]:
        keep = np.array([mix in (None, own) for own in self.mix])
        mixes = np.array(self.mix)[keep].tolist()
        values = {
            **self.values,
            "worse": made_worse(self.values["score"] - source.values["score"]),
        }
        means = {name: group_mean(column[keep], mixes) for name, column in values.items()}
        for share, name, possible in self._shares(source, oracle):
            means[share] = group_mean((self.values[name] - source.values[name])[keep], mixes, possible[keep])
        return means

    def minus(self, other: "_Columns", source: "_Columns", oracle: "_Columns | None") -> dict[str, Interval]:
        """Returns the interval of every compared figure's difference."""
        pairs = (self.mix, self.photo)
        plain = [name for name in self.values if name in _COMPARED]
        found = {name: paired_interval(self.values[name], other.values[name], *pairs) for name in plain}
        for share, name, possible in self._shares(source, oracle):
            found[share] = paired_interval(self.values[name], other.values[name], *pairs, possible)
        return found

    def _shares(self, source: "_Columns", oracle: "_Columns | None") -> Iterator[tuple[str, str, Float[np.ndarray, " n"]]]:
        """Yields (share, what it is a share of, the oracle's gain on each image)."""
        for share, name in _SHARES.items() if oracle else ():
            if oracle and name in oracle.values and name in self.values:
                yield share, name, oracle.values[name] - source.values[name]


def as_json(value: Any, indent: int | None = None) -> str:
    """Returns JSON in which a figure that does not exist is null: NaN is none of JSON's words."""
    return json.dumps(_without_nan(value), indent=indent, default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None or not np.isfinite(value) else format(value, form)


def _interval(interval: Sequence[float] | None, form: str) -> str:
    if interval is None or not np.isfinite(interval[1]):
        return "-"
    low, value, high = (format(number, "+" + form) for number in interval)
    return f"{value} [{low}, {high}]" if np.all(np.isfinite(interval)) else value


def _align(cells: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for row in cells:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _markdown(cells: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|---" + "|---:" * (len(cells[0]) - 1) + "|")
    return "\n".join(lines)
