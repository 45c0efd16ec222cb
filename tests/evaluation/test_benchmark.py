"""The benchmark from end to end in the toy world: the table, what is written, and that nothing is done twice."""

import itertools
import json

import numpy as np
import pytest

from r1jax.errors import R1JaxError, UsageError
from r1jax.evaluation import benchmark as benchmark_module
from r1jax.evaluation.benchmark import best_fixed_order, choose_samples, evaluate
from r1jax.evaluation.judges import tree_metrics
from r1jax.evaluation.planners import FixedOrder, Greedy, NoTools, Oracle, RandomTools
from r1jax.evaluation.statistics import group_mean
from r1jax.evaluation.table import Table
from r1jax.images.io import read_image
from r1jax.images.metrics import psnr, psnr_y, ssim_y

PLANNERS = (RandomTools(), FixedOrder(("lighten",)), Greedy(), Oracle())


@pytest.fixture
def quiet(monkeypatch):
    """Timing is beside the point here, and slow."""
    monkeypatch.setattr("r1jax.evaluation.simulator.Simulator.measure", lambda self, height, width: None)


def _rows(table):
    return {row["planner"]: row for row in table.rows}


def test_rows(make_benchmark, quiet):
    toy, benchmark = make_benchmark()
    table = evaluate(PLANNERS, benchmark, toy.simulator, progress=False, reference="greedy")
    assert [row["planner"] for row in table.rows] == ["input", "random", "fixed order", "greedy", "oracle"]
    rows = _rows(table)
    assert rows["input"]["share"] == rows["input"]["worse"] == rows["input"]["calls"] == 0
    assert rows["oracle"]["share"] == pytest.approx(1)
    assert rows["random"]["score"] < rows["fixed order"]["score"] < rows["greedy"]["score"] + 1e-9
    assert rows["oracle"]["score"] >= rows["greedy"]["score"]
    assert rows["fixed order"]["calls"] == rows["fixed order"]["tool_runs"] == 1
    assert rows["oracle"]["tool_runs"] == 39 and rows["oracle"]["scorings"] == 40
    for name, metric in (("psnr", psnr), ("psnr_y", psnr_y), ("ssim_y", ssim_y)):
        expected = group_mean(np.asarray(metric(benchmark.degraded, benchmark.clean)), benchmark.mix)
        assert rows["input"][name] == pytest.approx(expected, abs=1e-4)
    assert rows["input"]["psnr"] != pytest.approx(rows["input"]["psnr_y"], abs=0.1)


def test_two_planners_of_one_name_are_refused(make_benchmark, quiet):
    toy, benchmark = make_benchmark()
    with pytest.raises(UsageError, match="two are named 'greedy'"):
        evaluate([Greedy(), Greedy()], benchmark, toy.simulator, progress=False)


def test_metrics_without_a_reference_stand_in_their_own_ranges(make_benchmark, quiet, monkeypatch):
    class Brightness:
        def score(self, images):
            return (1 + 4 * images.mean(axis=(1, 2, 3)) / 255).astype(np.float32)

    monkeypatch.setattr("r1jax.evaluation.judges.scorer", lambda name: Brightness())
    toy, benchmark = make_benchmark()
    table = evaluate([FixedOrder(("lighten",))], benchmark, toy.simulator, progress=False, no_reference=True)
    brightness = group_mean(np.asarray(benchmark.degraded).mean((1, 2, 3)), benchmark.mix)
    rows = _rows(table)
    assert rows["input"]["maniqa"] == pytest.approx(brightness, abs=0.01)
    assert rows["input"]["musiq"] == pytest.approx(100 * brightness, abs=1)
    assert rows["fixed order"]["clip-iqa"] > rows["input"]["clip-iqa"]
    assert "MUSIQ" in table.to_text()


def test_trees_change_no_figure(make_benchmark, quiet):
    toy, benchmark = make_benchmark()
    planners = PLANNERS[:3]
    stepping = evaluate(planners, benchmark, toy.simulator, progress=False)
    looked_up = evaluate([*planners, Oracle()], benchmark, toy.simulator, progress=False)
    for row in stepping.rows:
        same = _rows(looked_up)[row["planner"]]
        assert {key: pytest.approx(value, abs=1e-6) for key, value in row.items() if key != "planner"} == {
            key: same[key] for key in row if key != "planner"
        }
    assert "share" not in stepping.rows[0]


def test_shares_and_harm_by_hand(make_benchmark, quiet, make_toy, likes_brightness):
    toy = make_toy(2, scorer=likes_brightness(150), horizon=1)
    toy.images[0], toy.images[1] = 100, 140  # best: +30 and 0 (170 is worse, 130 too)
    toy, benchmark = make_benchmark(1, toy=toy)
    rows = _rows(evaluate([FixedOrder(("lighten",)), Oracle()], benchmark, toy.simulator, progress=False))
    assert rows["fixed order"]["worse"] == 0.5
    # In the first mix all of the gain is got; the second has none to gain and says nothing.
    assert rows["fixed order"]["share"] == pytest.approx(1)
    assert rows["oracle"]["worse"] == 0


def test_the_share_of_another_metric_is_of_what_the_oracle_gains_in_it(make_benchmark, quiet, make_toy, likes_brightness):
    toy = make_toy(1, scorer=likes_brightness(130), horizon=1)  # the oracle lightens once, to 130
    toy.images[:], toy.clean[:] = 100, 160  # lighter still would be better
    toy, benchmark = make_benchmark(1, mixes=("noise",), toy=toy)
    table = evaluate([Oracle(), FixedOrder(("lighten",))], benchmark, toy.simulator, progress=False)
    rows = _rows(table)
    assert rows["oracle"]["share_psnr_y"] == rows["fixed order"]["share_psnr_y"] == pytest.approx(1)
    assert rows["input"]["share_psnr_y"] == 0
    assert "PSNR Y" in table.to_text().split("Chosen for the figure itself")[1]


def test_the_ceiling_is_the_best_state_of_each_figure(make_benchmark, quiet, make_toy, likes_brightness):
    toy = make_toy(1, scorer=likes_brightness(0), horizon=2)  # a scorer that likes the dark
    toy.images[:], toy.clean[:] = 100, 130
    toy, benchmark = make_benchmark(1, mixes=("noise",), toy=toy)
    table = evaluate([Oracle(), FixedOrder(("lighten",))], benchmark, toy.simulator, progress=False)
    rows = _rows(table)
    assert table.ceiling["score"] == pytest.approx(rows["oracle"]["score"])
    assert table.ceiling["psnr_y"] == pytest.approx(rows["fixed order"]["psnr_y"])
    assert table.ceiling["psnr_y"] > rows["oracle"]["psnr_y"]


def test_differences(make_benchmark, quiet):
    toy, benchmark = make_benchmark()
    table = evaluate(PLANNERS, benchmark, toy.simulator, progress=False, reference="oracle")
    assert [row["minus"] for row in table.differences] == ["input", "random", "fixed order", "greedy"]
    rows = _rows(table)
    for row in table.differences:
        low, value, high = row["score"]
        assert low <= value <= high
        assert value == pytest.approx(rows["oracle"]["score"] - rows[row["minus"]]["score"])
        assert row["share"][1] == pytest.approx(1 - rows[row["minus"]]["share"])


def test_per_mix_rows_average_to_the_table(make_benchmark, quiet):
    toy, benchmark = make_benchmark()
    table = evaluate(PLANNERS, benchmark, toy.simulator, progress=False)
    assert list(table.per_mix) == ["noise+jpeg", "rain"]
    for key in ("score", "psnr", "share", "calls"):
        greedy = [row[key] for rows in table.per_mix.values() for row in rows if row["planner"] == "greedy"]
        assert np.mean(greedy) == pytest.approx(_rows(table)["greedy"][key])


def test_the_folder(make_benchmark, quiet, tmp_path):
    toy, benchmark = make_benchmark()
    about = {"command": "r1jax evaluate", "photos": "toys"}
    arguments = dict(folder=tmp_path, reference="greedy", about=about, progress=False)
    table = evaluate(PLANNERS, benchmark, toy.simulator, **arguments)
    stored = json.loads((tmp_path / "table.json").read_text())
    assert stored["rows"] == table.rows
    assert stored["provenance"] | about == stored["provenance"]
    assert {"device", "versions", "tools_and_scorer", "scorer", "num_images"} < set(stored["provenance"])
    records = [json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]
    assert len(records) == 5 * len(benchmark)
    for record in records:
        assert len(record["scores"]) == len(record["plan"]) + 1 == record["calls"] + 1
        assert record["scores"][-1] == record["score"]
        assert (record["photo"], record["mix"]) == (
            benchmark.photo[record["index"]],
            benchmark.mix[record["index"]],
        )
    samples = [record for record in records if "sample" in record]
    assert len(samples) == len(benchmark) and {record["planner"] for record in samples} == {"greedy"}
    record = samples[3]
    degraded = read_image(tmp_path / "samples" / f"{record['sample']}_degraded.png").pixels
    np.testing.assert_array_equal(degraded, toy.images[record["index"]])
    restored = read_image(tmp_path / "samples" / f"{record['sample']}_restored.png").pixels
    assert toy.simulator.score(restored[None])[0] == pytest.approx(record["score"], abs=1e-6)


def test_a_second_evaluation_replaces_the_first(make_benchmark, quiet, tmp_path):
    toy, benchmark = make_benchmark()
    evaluate(PLANNERS, benchmark, toy.simulator, folder=tmp_path, progress=False)
    toy, fewer = make_benchmark(1)
    evaluate([Greedy()], fewer, toy.simulator, folder=tmp_path, progress=False)
    assert len((tmp_path / "images.jsonl").read_text().splitlines()) == 4
    assert len(list((tmp_path / "samples").iterdir())) == 6


@pytest.mark.parametrize("images", [1, 17, 20])
def test_an_interrupted_evaluation_leaves_the_one_before(make_benchmark, quiet, tmp_path, make_toy, monkeypatch, images):
    toy, benchmark = make_benchmark()
    evaluate(PLANNERS, benchmark, toy.simulator, folder=tmp_path, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 2 + 3 * len(benchmark)
    toy, other = make_benchmark(10, toy=make_toy(20, seed=1))
    runner = benchmark_module._Runner.run

    def interrupted(self, progress):
        yield from itertools.islice(runner(self, progress), 2 * images)  # of the input and of greedy
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_module._Runner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate([Greedy()], other, toy.simulator, folder=tmp_path, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupted_evaluation_goes_on(make_benchmark, quiet, tmp_path):
    toy, benchmark = make_benchmark()
    planners = [Greedy(), Oracle()]
    score, asked_before = toy.scorer.score, []

    def fails_late(images):
        asked_before.append(len(images))
        return score(images) if len(asked_before) < 30 else np.full(len(images), np.nan)

    toy.scorer.score = fails_late
    with pytest.raises(R1JaxError, match="gave no score"):
        evaluate(planners, benchmark, toy.simulator, tree_folder=tmp_path, progress=False)
    kept = len(list(tmp_path.iterdir()))
    assert 0 < kept < len(benchmark)
    toy.scorer.score, toy.scorer.asked = score, 0
    table = evaluate(planners, benchmark, toy.simulator, tree_folder=tmp_path, progress=False)
    one_tree = 10  # distinct states
    assert toy.scorer.asked == one_tree * (len(benchmark) - kept)
    fresh = evaluate(planners, benchmark, toy.simulator, progress=False)
    assert table.rows == fresh.rows


def test_best_fixed_order_of_a_benchmark_of_several_chunks(make_benchmark, make_toy, likes_brightness):
    toy, benchmark = make_benchmark(10, toy=make_toy(20, scorer=likes_brightness(130)))
    benchmark.degraded[:16], benchmark.degraded[16:] = np.float32(130 / 255), np.float32(40 / 255)
    assert best_fixed_order(benchmark, toy.simulator) == ()  # most are good as they are
    benchmark.degraded[:16] = np.float32(100 / 255)
    assert best_fixed_order(benchmark, toy.simulator) == ("lighten",)


def test_samples_show_every_mix_and_different_photos():
    mix = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert choose_samples(mix, 3) == [0, 5, 10]
    assert choose_samples(mix, 5) == [0, 5, 10, 1, 6]
    assert sorted(choose_samples(mix, 99)) == list(range(12))
    assert choose_samples([]) == []


def test_text_and_markdown(make_benchmark, quiet):
    toy, benchmark = make_benchmark()
    table = evaluate(PLANNERS, benchmark, toy.simulator, progress=False, reference="greedy")
    text = table.to_text()
    first = text.splitlines()[0]
    assert first.index("PSNR RGB") < first.index("PSNR Y") < first.index("score") < first.index("s/image")
    assert [line.split("  ")[0] for line in text.splitlines()[2:7]] == [row["planner"] for row in table.rows]
    assert "greedy - fixed order" in text and "8 images of 4 photos under 2 mixes" in text
    markdown = table.to_markdown().splitlines()
    assert markdown[0].startswith("| planner | PSNR RGB | PSNR Y |")
    assert len({line.count("|") for line in markdown[:7]}) == 1
    assert f"| {table.rows[3]['score']:.3f} |" in markdown[5]


def test_a_figure_that_does_not_exist_is_null_or_a_dash(make_toy, make_benchmark, quiet, likes_brightness):
    toy = make_toy(2, scorer=likes_brightness(140), horizon=1)
    toy.images[:] = 140  # nothing to gain
    toy, benchmark = make_benchmark(1, toy=toy)
    table = evaluate([Oracle()], benchmark, toy.simulator, progress=False)
    row = json.loads(table.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["rows"][1]
    assert row["share"] is None
    assert " - " in table.to_text().splitlines()[3]


def test_a_large_benchmark_is_taken_in_chunks(make_benchmark, quiet):
    toy, benchmark = make_benchmark(20)
    table = evaluate([Greedy(), NoTools()], benchmark, toy.simulator, progress=False)
    scores = toy.simulator.score(np.round(benchmark.degraded * 255).astype(np.uint8))
    assert table.rows[0]["planner"] == "input"
    assert table.rows[0]["score"] == pytest.approx(group_mean(scores, benchmark.mix), abs=1e-6)
    assert isinstance(table, Table) and table.provenance["num_images"] == 40


def test_the_judge(make_benchmark, quiet):
    assert list(tree_metrics(judge=False)) == ["psnr_y"]
    vsi = tree_metrics(judge=True)["vsi"]
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_allclose(vsi(images, images), 1, atol=1e-5)
    noisy = np.clip(images + 0.2 * np.random.default_rng(1).normal(size=images.shape), 0, 1).astype(np.float32)
    assert (vsi(noisy, images) < 0.99).all()
    toy, benchmark = make_benchmark(1, mixes=("rain",))
    planners = [Greedy(), Oracle()]
    rows = _rows(evaluate(planners, benchmark, toy.simulator, judge=True, progress=False))
    assert 0 < rows["input"]["vsi"] < 1
    assert rows["oracle"]["share_vsi"] == pytest.approx(1)
