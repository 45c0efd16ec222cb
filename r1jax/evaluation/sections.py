"""The sections of the report, each a function from what a run left behind to markup."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r1jax.config import Config, to_dict
from r1jax.evaluation.charts import curve, whisker
from r1jax.evaluation.page import note, section, text
from r1jax.evaluation.table import COLUMNS

# title, key in training, key of the evaluation during training
_CURVES = (
    ("Score gain an image", "score_gain", "eval/score_gain"),
    ("PSNR-Y gain on held-out photos, dB", "", "eval/psnr_y_gain"),
    ("Tool calls an image", "mean_calls", "eval/calls"),
    ("Held-out images made worse, share", "", "eval/worse"),
    ("Entropy of the policy, nats", "entropy", ""),
    ("Explained variance of the critic", "explained_variance", ""),
    ("KL divergence of an update, nats", "approx_kl", ""),
    ("Episodes without a score, share", "missing_share", ""),
)
_SHOWN_IF_ANY = {"missing_share"}  # not worth a chart while nothing goes wrong


def header(name: str, table: Mapping[str, Any] | None, reference: str) -> str:
    """Returns the title and the handful of figures to remember."""
    if not table:
        return f"<header><h1>{text(name)}</h1><p class=lead>A photo-restoration agent.</p></header>"
    about = table["provenance"]
    lead = f"{about['num_images']} images of {about['num_photos']} photos under {len(table['per_mix'])} mixes"
    lead += f"; quality by {about['scorer']}, 1 to 5"
    lead += f"; photos: {about['photos']}" if "photos" in about else ""
    first = table["rows"][0]
    own = next((row for row in table["rows"] if row["planner"] == reference), table["rows"][-1])
    figures = [
        ("Quality score", f"{own['score']:.2f}", f"from {first['score']:.2f}"),
        ("PSNR Y", f"{own['psnr_y']:.2f}", f"dB, from {first['psnr_y']:.2f}"),
        ("Tools an image", f"{own['calls']:.1f}", f"of at most {about['horizon']}"),
        ("Time an image", f"{own['seconds']:.2f}", "s"),
    ]
    if _is_number(own.get("share")):
        figures.insert(1, ("Share of the oracle's gain", f"{own['share']:.0%}", ""))
    items = [f"<div><dt>{text(a)}</dt><dd>{b} <small>{text(c)}</small></dd></div>" for a, b, c in figures]
    title = f"<h1>{text(name)}</h1><p class=lead>{text(lead)}</p>"
    return f"<header>{title}<dl class=figures>{''.join(items)}</dl></header>"


def planners(table: Mapping[str, Any] | None, reference: str) -> str:
    """Returns the benchmark's table and, below it, the differences with their intervals."""
    if not table:
        return section(
            "Planners", note("Not evaluated yet: <code>r1jax evaluate</code> writes the table and samples.")
        )
    about = (
        "Means over a mix's images, then over mixes. share: of the oracle's gain over the input; it is the best by score"
        " of all tool sequences. worse: images scored below the input. tool runs, scorings: to find the plan"
        f" and carry it out. Seconds on {table['provenance'].get('device', 'an unnamed device')}."
    )
    columns = [column for column in COLUMNS if any(column[0] in row for row in table["rows"])]
    rows = [
        _row(
            row["planner"],
            [_number(row.get(key), form) for key, _, form in columns],
            row["planner"] == reference,
        )
        for row in table["rows"]
    ]
    markup = _table("Planners", "planner", [heading for _, heading, _ in columns], rows)
    return section("Planners", markup, about) + _differences(table)


def _differences(table: Mapping[str, Any]) -> str:
    found = table["differences"]
    columns = [column for column in COLUMNS if any(_is_interval(row.get(column[0])) for row in found)]
    if not columns:
        return ""
    reach = {
        key: max(abs(number) for row in found if _is_interval(row.get(key)) for number in row[key])
        for key, _, _ in columns
    }
    rows = [
        _row(f"over {row['minus']}", [_interval(row.get(key), form, reach[key]) for key, _, form in columns])
        for row in found
    ]
    about = (
        "Differences with 90% intervals: paired, resampling photos. The mark in the middle is zero; an interval"
        " that excludes it is coloured."
    )
    title = f"{found[0]['planner'].capitalize()} against the others"
    return section(title, _table(title, "difference", [heading for _, heading, _ in columns], rows), about)


def usage(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns how often each tool is called under each mix: what the agent has learned to tell apart."""
    tools = collections.Counter(tool for record in records for tool in record["plan"])
    if not tools:
        return ""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    images = collections.Counter(record["mix"] for record in records)
    for record in records:
        counts[record["mix"]].update(record["plan"])
    names = [tool for tool, _ in tools.most_common()]
    rows = [
        _row(mix.replace("+", " + "), [_rate(counts[mix][tool] / number) for tool in names])
        for mix, number in images.items()
    ]
    about = (
        f"Calls an image by {records[0]['planner']}, the most used tool first. The mix is not shown to it."
    )
    headings = [tool.replace("_", " ") for tool in names]
    return section("What it calls", _table("Tool use", "mix", headings, rows, "heat"), about)


def curves(log: Sequence[Mapping[str, Any]]) -> str:
    """Returns the learning curves."""
    if not log:
        return section(
            "Training", note("The folder has no metrics.jsonl: <code>r1jax train</code> writes it.")
        )
    drawn = [curve(title, _points(log, key), _points(log, held_out)) for title, key, held_out in _CURVES]
    number = log[-1].get("update", len(log))
    about = f"{number} updates. Faint: each update; line: moving average; dots: held-out photos."
    return section("Training", f"<div class=charts>{''.join(drawn)}</div>", about)


def _points(log: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = [(row["update"], row[key]) for row in log if _is_number(row.get(key)) and "update" in row]
    return [] if key in _SHOWN_IF_ANY and not any(value for _, value in points) else points


def settings(config: Mapping[str, Any] | None, table: Mapping[str, Any] | None) -> str:
    """Returns every field of the configuration, and what made the table."""
    if config:
        defaults = dict(_flatten(to_dict(Config())))
        items = [_setting(k, v, _plain(v) != _plain(defaults.get(k))) for k, v in _flatten(config)]
        listed = f"<dl class=settings>{''.join(items)}</dl>"
        parts = section("Configuration", listed, "Coloured where it differs from the default.")
    else:
        parts = section("Configuration", note("The folder has no config.json."))
    if table:
        made = [item for item in _flatten(table["provenance"]) if not item[0].startswith("config.")]
        items = [_setting(key, value, False) for key, value in made]
        parts += section("Provenance", f"<dl class='settings wide'>{''.join(items)}</dl>")
    return parts


def _setting(key: str, value: Any, changed: bool) -> str:
    mark = " class=changed" if changed else ""
    return f"<div{mark}><dt><code>{text(key)}</code></dt><dd>{text(_plain(value))}</dd></div>"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _table(label: str, first: str, headings: Sequence[str], rows: Sequence[str], kind: str = "plain") -> str:
    """A wide table scrolls in a box of its own, from the keyboard too. Headings are text, rows markup."""
    head = "".join(f"<th scope=col>{text(heading)}</th>" for heading in (first, *headings))
    markup = f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class=scroll tabindex=0 role=region aria-label="{text(label)}">{markup}</div>'


def _row(name: str, cells: Sequence[str], chosen: bool = False) -> str:
    """`name` is text; cells are markup, each with its <td> or the inside of one."""
    filled = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
    return f"<tr{' class=chosen' if chosen else ''}><th scope=row>{text(name)}</th>{filled}</tr>"


def _rate(rate: float) -> str:
    shade = f' style="background:rgb(var(--heat) / {min(rate, 1) * 0.55:.2f})"' if rate else ""
    return f"<td{shade}>{f'{rate:.2f}' if rate else ''}</td>"


def _is_interval(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _interval(value: Any, form: str, reach: float) -> str:
    if not _is_interval(value):
        return "–"
    low, middle, high = value
    texts = [format(number, "+" + form).replace("-", "−") for number in value]
    return f"{texts[1]}<span class=range>{texts[0]} to {texts[2]}</span>{whisker(low, middle, high, reach)}"


def _number(value: Any, form: str) -> str:
    return format(value, form).replace("-", "−") if _is_number(value) else "–"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
