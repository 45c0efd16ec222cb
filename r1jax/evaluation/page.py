"""The shell of the report: a page that stands alone and asks nothing of the network."""

import html
import importlib.resources

# The browser enforces it: inline style and script, images from data URIs, nothing from anywhere else.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, body: str) -> str:
    """Returns the whole HTML document; `body` is markup, `title` is text."""
    files = importlib.resources.files("r1jax.evaluation")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def section(title: str, markup: str, about: str = "") -> str:
    """Returns a section; `markup` is markup, the others are text."""
    intro = f"<p class=about>{text(about)}</p>" if about else ""
    return f"<section><h2>{text(title)}</h2>{intro}{markup}</section>"


def note(markup: str) -> str:
    """Returns the line that stands for a part that is missing."""
    return f"<p class=note>{markup}</p>"


def text(value: object) -> str:
    """Returns a value as text that is safe in markup and attributes."""
    return html.escape(str(value))
