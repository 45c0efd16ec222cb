"""One figure against another, a point a variant: a stand-alone SVG."""

import html
from collections.abc import Sequence

from r1jax.evaluation.charts import nice_ticks

_WIDTH, _HEIGHT, _MARGIN = 480, 320, 54

Point = tuple[float, float, str]  # x, y, label


def tradeoff(points: Sequence[Point], x_name: str, y_name: str) -> str:
    """Returns an SVG of the points, joined in their order; the first is a ring, the others are dots."""
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))

    def x_of(x: float) -> float:
        return _MARGIN + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - 2 * _MARGIN)

    def y_of(y: float) -> float:
        return _HEIGHT - _MARGIN - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - 2 * _MARGIN)

    left, right, top, bottom = _MARGIN, _WIDTH - _MARGIN, _MARGIN, _HEIGHT - _MARGIN
    parts = [f'<path d="M{x_of(x):.1f} {top}V{bottom}" stroke="#ddd"/>' for x in x_ticks]
    parts += [f'<path d="M{left} {y_of(y):.1f}H{right}" stroke="#ddd"/>' for y in y_ticks]
    parts += [f'<text x="{x_of(x):.1f}" y="{bottom + 16}" text-anchor="middle">{x:.4g}</text>' for x in x_ticks]
    parts += [f'<text x="{left - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>' for y in y_ticks]
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{html.escape(x_name)}</text>')
    parts.append(f'<text x="12" y="{top - 18}">{html.escape(y_name)}</text>')
    path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y, _ in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#36c"/>')
    for place, (x, y, label) in enumerate(points):
        fill = "#36c" if place else "#fff"
        parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="4" fill="{fill}" stroke="#36c"/>')
        parts.append(f'<text x="{x_of(x) + 7:.1f}" y="{y_of(y) - 6:.1f}" fill="#555">{html.escape(label)}</text>')
    style = 'font-family="sans-serif" font-size="11"'
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(parts)}</svg>\n'
