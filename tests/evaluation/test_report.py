"""The report: a page that parses, stands alone, escapes what it shows, and does without what is missing."""

import html.parser
import json
import os
import re
import shutil

import numpy as np
import pytest

from r1jax.config import Config, override, to_dict
from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation.benchmark import evaluate
from r1jax.evaluation.charts import curve, nice_ticks, whisker
from r1jax.evaluation.planners import FixedOrder, Greedy, Oracle
from r1jax.evaluation.report import write_report

_VOID = {"meta", "img", "input", "br", "hr", "link"}


class _Page(html.parser.HTMLParser):
    """Reads a page, checks that its tags are balanced, and keeps what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.void_svg = [], [], [], {"line", "circle", "polyline"}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag, **attributes):
        wanted = attributes.items()
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in wanted)]

    def text(self):
        return " ".join(data for tag, data in self.texts if tag not in ("style", "script"))


@pytest.fixture(scope="module")
def finished_run(make_benchmark, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    config = override(Config(), {"name": "first & <b>best</b>", "ppo.clip": 0.1})
    (run_dir / "config.json").write_text(json.dumps(to_dict(config)))
    rows = [{"update": u, "score_gain": 0.01 * u, "entropy": 2 / u, "mean_calls": 2.0} for u in range(1, 41)]
    rows[19]["eval/score_gain"] = rows[39]["eval/score_gain"] = 0.3
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy, benchmark = make_benchmark(3)
    planners = [Greedy(), Oracle(), FixedOrder(("lighten",), name='"><script>alert(1)</script>')]
    about = {"command": "r1jax evaluate 'a<b'", "photos": "toys"}
    folder = run_dir / "evaluation"
    evaluate(planners, benchmark, toy.simulator, folder=folder, reference="greedy", about=about, progress=False)
    return run_dir


@pytest.fixture
def run_dir(finished_run, tmp_path):
    """A finished run to take apart: config, log, evaluation."""
    return shutil.copytree(finished_run, tmp_path / "run")


def _report(run_dir):
    text = write_report(run_dir).read_text(encoding="utf-8")
    return text, _Page(text)


def test_it_asks_nothing_of_the_network(run_dir):
    text, page = _report(run_dir)
    outside_images = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//\w|url\(|@import", outside_images.replace("// The report's script", ""))
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert not page.all("link") and not any("src" in script for script in page.all("script"))
    (policy,) = (meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'")


def test_names_are_escaped(run_dir):
    _, page = _report(run_dir)
    assert len(page.all("script")) == 1 and not any(tag == "b" and "best" in data for tag, data in page.texts)
    assert "first & <b>best</b>" in page.text() and "alert(1)" in page.text()
    assert "r1jax evaluate 'a<b'" in page.text()


def test_every_planner_and_figure_is_there(run_dir):
    _, page = _report(run_dir)
    table = json.loads((run_dir / "evaluation" / "table.json").read_text())
    for row in table["rows"]:
        assert row["planner"] in page.text() and f"{row['score']:.3f}" in page.text()
    assert len(page.all("tr", class_="chosen")) == 1
    assert "Greedy against the others" in page.text()
    assert len(page.all("svg", viewbox="0 0 100 12")) == 3 * 6  # others x (3 metrics, score, 2 shares)


def test_each_sample_has_a_labelled_slider_three_images_and_its_plan(run_dir):
    _, page = _report(run_dir)
    sliders, figures = page.all("input", type="range"), page.all("figure", class_="card")
    assert len(sliders) == len(figures) == 6
    labels = [data for tag, data in page.texts if "part shown degraded" in data]
    assert len(labels) == 6 and labels[0].startswith("photo0, noise+jpeg")
    images = page.all("img")
    assert len(images) == 18 and all(image["alt"] and image["width"] == "12" for image in images)
    assert len(page.all("img", data_kind="clean")) == 0 and len(page.all("input", type="radio")) == 12
    records = [json.loads(x) for x in (run_dir / "evaluation" / "images.jsonl").read_text().splitlines()]
    chips = sum(len(record["scores"]) for record in records if "sample" in record)
    assert len([tag for tag, _ in page.tags if tag == "li"]) == chips


def test_curves_and_changed_settings(run_dir):
    _, page = _report(run_dir)
    charts = page.all("figure", class_="chart")
    assert len(charts) == 3  # what the log lacks has none
    labels = [svg["aria-label"] for svg in page.all("svg", role="img")]
    assert labels[0] == "Score gain an image over updates, last 0.3"
    assert len(page.all("div", class_="changed")) == 2  # name and ppo.clip


def test_what_is_missing_is_left_out_with_a_note(run_dir):
    (run_dir / "metrics.jsonl").unlink()
    _, page = _report(run_dir)
    assert "r1jax train" in page.text() and not page.all("figure", class_="chart")
    for sample in (run_dir / "evaluation" / "samples").iterdir():
        sample.unlink()
    (run_dir / "config.json").unlink()
    _, page = _report(run_dir)
    assert "samples is missing" in page.text() and "no config.json" in page.text()
    assert len(page.all("p", class_="note")) == 3


def test_a_run_that_was_only_trained(run_dir):
    for path in sorted((run_dir / "evaluation").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    _, page = _report(run_dir)
    assert "r1jax evaluate" in page.text() and len(page.all("p", class_="note")) == 1
    assert page.all("figure", class_="chart")


def test_without_ground_truth_there_is_no_third_image(run_dir):
    for path in (run_dir / "evaluation" / "samples").glob("*_clean.png"):
        path.unlink()
    _, page = _report(run_dir)
    assert len(page.all("img")) == 12 and not page.all("input", type="radio")


def test_a_log_cut_off_by_a_kill_is_read(run_dir):
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"update": 41, "scor')
    assert "40 updates" in _report(run_dir)[1].text()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json: not the JSON object"),
        ("evaluation/table.json", "[1]", "table.json: not the JSON object"),
        ("metrics.jsonl", "oops\n{}\n", "metrics.jsonl: line 1 is not"),
        ("evaluation/samples/0000_degraded.png", "no image", "0000_degraded.png: not an image"),
    ],
)
def test_a_file_that_is_not_what_it_says(run_dir, file, content, message):
    (run_dir / file).write_text(content)
    with pytest.raises(R1JaxError, match=message):
        write_report(run_dir)


def test_no_run(tmp_path):
    with pytest.raises(UsageError, match="no such run folder"):
        write_report(tmp_path / "missing")
    with pytest.raises(UsageError, match="holds no run"):
        write_report(tmp_path)


def test_another_path(run_dir, tmp_path):
    assert write_report(run_dir, tmp_path / "new" / "page.html").read_text().startswith("<!doctype html>")


def test_a_page_that_cannot_be_written_leaves_the_old_one(run_dir, tmp_path, monkeypatch):
    old = write_report(run_dir, tmp_path / "page.html").read_text()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report(run_dir, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == old


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 8.1), (0.0101, 0.0239), (5, 5), (-1e-12, 0), (0, 1e6)])
def test_ticks_are_round_and_enclose(low, high):
    ticks = nice_ticks(low, high)
    assert 3 <= len(ticks) <= 6 and ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9
    step = ticks[1] - ticks[0]
    np.testing.assert_allclose(np.diff(ticks), step)
    assert float(f"{step:.6e}".split("e")[0]) in (1, 2, 2.5, 5)


def test_a_curve_without_numbers_is_no_curve():
    assert curve("x", []) == "" == curve("x", [(1, float("nan"))])


def test_a_curve_is_smoothed_towards_its_mean():
    noise = np.random.default_rng(0).normal(size=200)
    markup = curve("x", list(enumerate(noise)))
    heights = [
        np.array([float(pair.split(",")[1]) for pair in points.split()])
        for points in re.findall(r'points="([^"]+)"/>', markup)
    ]
    raw, smooth = heights
    assert smooth.std() < 0.5 * raw.std() and smooth.mean() == pytest.approx(raw.mean(), abs=1)


@pytest.mark.parametrize(("interval", "side"), [((1, 2, 3), "up"), ((-3, -2, -1), "down"), ((-1, 0, 1), "even")])
def test_a_whisker_says_whether_zero_is_excluded(interval, side):
    assert f'"whisker {side}"' in whisker(*interval, 3)
