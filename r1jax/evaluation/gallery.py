"""The report's gallery: each restored photo with a slider over the degraded one, and its plan."""

import base64
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from r1jax.errors import R1JaxError
from r1jax.evaluation.page import note, section, text

_LONGEST_SIDE = 768  # of embedded images, pixels
_LOSSLESS_PIXELS = 320 * 320  # larger ones are embedded as WebP of high quality


def gallery(folder: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the section, from the samples in `folder` that the records name."""
    if not records:  # the table's section has said already that there is no evaluation
        return ""
    wanted = [record for record in records if "sample" in record]
    cards = [card for number, record in enumerate(wanted) if (card := _card(folder, record, number))]
    if not cards:
        return section("Restored photos", note("The folder evaluation/samples is missing."))
    about = (
        "One image of each mix in turn, not chosen by result. Drag the handle, or focus it and use the arrow"
        " keys. The pills are the plan, with the score after each tool."
    )
    return section("Restored photos", f"<div class=gallery>{''.join(cards)}</div>", about)


def _card(folder: pathlib.Path, record: Mapping[str, Any], number: int) -> str:
    paths = {kind: folder / f"{record['sample']}_{kind}.png" for kind in ("degraded", "restored", "clean")}
    if not (paths["degraded"].is_file() and paths["restored"].is_file()):
        return ""
    calls = f"{record['calls']} tool" + ("" if record["calls"] == 1 else "s")
    meta = f"{record['photo']} · PSNR Y {record['psnr_y']:.2f} dB · {calls} · {record['seconds']:.2f} s"
    return (
        f"<figure class=card>{_compare(paths, record)}<figcaption class=caption>"
        f"<h3>{text(record['mix'].replace('+', ' + '))}</h3><div class=meta>{text(meta)}</div>"
        f"{_plan(record)}{_choices(paths, number)}</figcaption></figure>"
    )


def _compare(paths: Mapping[str, pathlib.Path], record: Mapping[str, Any]) -> str:
    """The images on each other, the degraded one on top and cut off at the slider."""
    what = text(f"{record['photo']}, {record['mix']}")
    images = ""
    for kind in ("restored", "clean"):
        if paths[kind].is_file():
            hidden = " hidden" if kind == "clean" else ""
            images += _image(paths[kind], f"{what}: {kind}", f"class=right-side data-kind={kind}{hidden}")
    images += _image(paths["degraded"], f"{what}: degraded", "class=degraded")
    return (
        f"<div class=compare>{images}<span class=knob></span><span class='tag left'>degraded</span>"
        "<span class='tag right'>restored</span>"
        f"<label><span class=vh>{what}: part shown degraded, percent</span>"
        "<input type=range min=0 max=100 value=50></label></div>"
    )


def _choices(paths: Mapping[str, pathlib.Path], number: int) -> str:
    if not paths["clean"].is_file():
        return ""
    labels = "".join(
        f"<label><input type=radio name=side{number} value={kind}{checked}>{kind}</label>"
        for kind, checked in (("restored", " checked"), ("clean", ""))
    )
    return f"<fieldset><legend class=vh>Right-hand image</legend>{labels}</fieldset>"


def _plan(record: Mapping[str, Any]) -> str:
    scores = record["scores"]
    items = f"<li class=start>input<b>{scores[0]:.2f}</b></li>"
    for tool, before, after in zip(record["plan"], scores[:-1], scores[1:], strict=True):
        trend = "up" if after > before else "down" if after < before else "even"
        items += f"<li class={trend}>{text(tool.replace('_', ' '))}<b>{after:.2f}</b></li>"
    return f"<ol class=plan>{items}</ol>"


def _image(path: pathlib.Path, description: str, attributes: str) -> str:
    """Returns an <img> with the file inside it; `description` is escaped already."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError as error:
        raise R1JaxError(f"{path}: not an image: {error}") from None
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stream = io.BytesIO()
    lossless = image.width * image.height <= _LOSSLESS_PIXELS
    image.save(stream, "WEBP", lossless=lossless, quality=90, method=4)
    data = base64.b64encode(stream.getvalue()).decode()
    size = f"width={image.width} height={image.height}"
    return f'<img {attributes} {size} alt="{description}" src="data:image/webp;base64,{data}">'
