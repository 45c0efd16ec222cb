"""Small inline SVG charts for the report: learning curves, and intervals around zero."""

import html
import json
import math
from collections.abc import Sequence

import numpy as np

_WIDTH, _HEIGHT = 320, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 22

Points = Sequence[tuple[float, float]]


def curve(title: str, points: Points, evaluated: Points = ()) -> str:
    """Returns a figure with one quantity over the updates.

    Args:
      points: (update, value) of the training images: a faint line, and its moving average as the bold one.
      evaluated: (update, value) on held-out photos: dots.
    """
    points, evaluated = _finite(points), _finite(evaluated)
    if not points and not evaluated:
        return ""
    everything = [*points, *evaluated]
    x_high = max(x for x, _ in everything)
    x_low = min(x for x, _ in everything)
    ticks = nice_ticks(min(y for _, y in everything), max(y for _, y in everything))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (point[0] - x_low) / max(x_high - x_low, 1e-9) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (ticks[-1] - point[1]) / (ticks[-1] - ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)
        return x, y

    parts = [_grid(y, place((x_low, y))[1]) for y in ticks]
    ends = ((x_low, "start"), (x_high, "end")) if x_high > x_low else ((x_low, "start"),)
    for x, anchor in ends:
        parts.append(
            f'<text x="{place((x, 0))[0]:.1f}" y="{_HEIGHT - 5}" text-anchor="{anchor}">{x:.0f}</text>'
        )
    smooth = _moving_average(points)
    lines = (("raw", points), ("smooth", smooth or evaluated))
    parts += [_line(name, list(map(place, line))) for name, line in lines if line]
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in map(place, evaluated)]
    final = evaluated[-1][1] if evaluated else smooth[-1][1]
    readout = json.dumps(
        [[*map(_short, map(float, place(p))), p[0], float(f"{p[1]:.4g}")] for p in evaluated or smooth]
    )
    name = html.escape(title)
    return (
        f'<figure class="chart"><figcaption><span>{name}</span><output>{final:.3g}</output></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name} over updates, last {final:.3g}"'
        f' data-points="{html.escape(readout)}">{"".join(parts)}<line class="cursor" y1="{_TOP}"'
        f' y2="{_HEIGHT - _BOTTOM}" x1="0" x2="0"/></svg></figure>'
    )


def whisker(low: float, value: float, high: float, reach: float) -> str:
    """Returns an interval as a line with a dot, on an axis from -reach to reach with a mark at zero."""
    at = [50 + 46 * max(-1.0, min(1.0, number / reach)) if reach else 50.0 for number in (low, value, high)]
    side = "up" if low > 0 else "down" if high < 0 else "even"
    return (
        f'<svg class="whisker {side}" viewBox="0 0 100 12" aria-hidden="true">'
        '<line class="zero" x1="50" x2="50" y1="0" y2="12"/>'
        f'<line x1="{at[0]:.1f}" x2="{at[2]:.1f}" y1="6" y2="6"/>'
        f'<circle cx="{at[1]:.1f}" cy="6" r="3"/></svg>'
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Returns 3 to 6 round numbers that enclose [low, high]."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 3
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _moving_average(points: Points) -> list[tuple[float, float]]:
    """Averages over a centred window of a twentieth of the run."""
    values = np.array([y for _, y in points])
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    start = np.maximum(np.arange(len(values)) - half, 0)
    stop = np.minimum(np.arange(len(values)) + half + 1, len(values))
    means = (sums[stop] - sums[start]) / (stop - start)
    return [(x, mean) for (x, _), mean in zip(points, means.tolist(), strict=True)]


def _grid(value: float, y: float) -> str:
    label = f"{value:.4g}"
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>'
    )


def _line(name: str, points: Points) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{name}" points="{path}"/>'


def _short(value: float) -> float:
    return round(value, 1)
