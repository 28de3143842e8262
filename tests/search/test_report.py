import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest

from tests.pages import figure, numbers, page_in
from tests.shapes import FACE
from zennas.provenance import Provenance
from zennas.score.branches import Apart, WayScores
from zennas.score.scores import WORTH
from zennas.search.figures import LABEL_GAP_PX, MAX_POINTS, ROLES
from zennas.search.measured import ExportEntry, LatencyEntry, Measured, MirroredLatency
from zennas.search.report import RunSummary, write_report
from zennas.space.candidate import Candidate
from zennas.space.families.table import tree_of
from zennas.space.shape import Shape
from zennas.track import Protocol, ScorePlan

STAND_IN = "The CPU stands in for the track's GPU: these are not its latencies."
IR_SE_100 = Candidate(block="ir_se", stem=64, widths=(64, 128, 256, 512), depths=(3, 13, 30, 3))


PROVENANCE = Provenance(
    zennas="0.1.0",
    command="zennas search --track a-track --seed 7",
    seed=7,
    machine="a-machine",
    date="2026-01-01",
    versions={"torch": "2.13"},
)


def entry(role, name, *, ms=100.0, score=500.0, candidate=IR_SE_100, **changes):
    latency = LatencyEntry(
        measured_ms=ms,
        median_ms=ms,
        spread_pct=1.3,
        budget_ms=110.0,
        within_budget=ms <= 110.0,
        stand_in=None,
        warning=None,
        raw_ms=tuple(ms * (1 + run / 1000) for run in range(50)),
        protocol=Protocol(backend="onnxruntime-cpu", batch=1),
        machine="a-machine",
        date=PROVENANCE.date,
        versions=PROVENANCE.versions,
        load_average=0.1,
        predicted_ms=ms * 1.01,
        table_ms=ms,
    )
    made = Measured(
        role=role,
        name=name,
        key=candidate.key,
        candidate=candidate,
        score_mean=score,
        score_std=0.1,
        score=ScorePlan(),
        params=65_528_384,
        macs=12_089_978_368,
        num_blocks=candidate.num_blocks,
        megabytes=250.1,
        latency=latency,
        export=ExportEntry(max_abs_difference=0.0, max_abs_output=1.0),
        onnx=None,
        verdict=None,
        made_by=PROVENANCE,
    )
    return made.changed(**changes)


def scored(num, *, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "key": [f"{index:016x}" for index in range(num)],
            "text": [f"ir_se-16-32x{index + 1}" for index in range(num)],
            "score": rng.uniform(100, 500, num),
            "predicted_ms": rng.uniform(20, 120, num),
            "params": 1e6,
            "macs": 1e9,
            "num_blocks": 9,
            "batch": np.arange(num) // 8,
            "elapsed_s": np.arange(num) / 10,
            "stage": None,
            "error": None,
        }
    )


def summary(**changes):
    other = Candidate(block="ir_se", stem=32, widths=(48, 136, 256, 512), depths=(3, 48, 30, 3))
    entries = [
        entry("baseline", "IR-SE-100"),
        entry("winner", "winner-1", ms=109.0, candidate=other, onnx="winner-1.onnx"),
        entry("finalist", "finalist-1", ms=111.0, verdict="over budget by 0.9 %"),
    ]
    made = RunSummary(
        title="a-track",
        subtitle="A track",
        facts=[("scored", "100 in 10 s")],
        budget_ms=110.0,
        shape=FACE,
        stand_in=None,
        scored=scored(100),
        entries=entries,
        counters={"seen": 300, "rejected: over budget": 200, "scored": 100},
        corrections=[{"after_batch": 4, "factor": 1.013}],
        provenance=PROVENANCE,
        prediction_error={"num": 3, "mean_abs_pct": 1.0, "max_abs_pct": 1.1},
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def written(tmp_path):
    def write(made):
        write_report(tmp_path / "report.html", made)
        return page_in(tmp_path)

    return write


def test_it_says_what_was_found_and_how(written):
    made = summary(stand_in=STAND_IN)
    text = written(made)
    for measured in made.entries:
        assert measured.key in text and measured.name in text
    assert text.count(STAND_IN.replace("'", "&#x27;")) == 4  # at the top and wherever latencies are shown
    assert made.provenance.command in text
    assert "over budget by 0.9 %" in text
    assert "stage 2: 48 × 136 @ 28 px" in text
    assert "href='winner-1.onnx'" in text


def test_it_fetches_nothing(written):
    text = written(summary())
    assert "default-src 'none'" in text  # what a browser would hold plotly itself to
    assert not [word for word in ("http://", "https://", "//cdn", "src=", "@import", "url(") if word in text]


def test_a_stand_in_that_only_an_entry_tells_of_is_shown(written):
    first, *others = summary().entries
    first = first.changed(latency=first.latency.model_copy(update={"stand_in": "Only here."}))
    assert "Only here." in written(summary(entries=[first, *others]))


def test_names_are_text_not_html(written):
    evil = "<script>alert('&')</script>"
    rows = scored(10)
    rows["text"] = rows["error"] = evil
    odd = Candidate(block="<i>", stem=8, widths=(8,), depths=(1,))
    entries = [entry(role, evil, verdict=evil, candidate=odd) for role in ROLES]
    made = summary(
        title=evil, subtitle=evil, facts=[(evil, evil)], stand_in=evil, scored=rows, entries=entries, counters={evil: 1}
    )
    text = written(made)
    assert "<script>alert" not in text and "<i>-8" not in text
    assert "&lt;script&gt;alert" in text
    hovers = [point[0] for trace in figure(text, "pareto")[0] for point in trace.get("customdata", [])]
    assert hovers and not any("<script>" in hover for hover in hovers)  # plotly reads its labels as HTML, too


def test_the_proven_optimum_has_its_mark_in_the_figure(written):
    proven = {"text": "ir_se-1", "closed_form": 987.0, "predicted_ms": 109.0}
    traces, layout = figure(written(summary(optimum=proven)), "pareto")
    assert ([109.0], [987.0]) in [(list(trace["x"]), list(trace["y"])) for trace in traces if len(trace["x"]) == 1]
    assert layout["yaxis"]["range"][0] < 987.0 < layout["yaxis"]["range"][1]
    assert "proven optimum" not in written(summary())


def test_each_band_has_its_optimum_in_the_figure_and_its_winner_in_the_table(written):
    made = summary()
    optima = [
        {
            "band": "deep",
            "text": "deep (effectiveness above 0.05)",
            "optimum": {"text": "ir_se-1", "closed_form": 987.0, "predicted_ms": 109.0},
        },
        {
            "band": "wide",
            "text": "wide (effectiveness up to 0.05)",
            "optimum": {"text": "ir_se-2", "closed_form": 654.0, "predicted_ms": 108.0},
        },
        {"band": "<empty>", "text": "<empty>", "optimum": None},
    ]
    winner = made.entries[1].changed(band="wide", gap=1.5, gap_pct=0.25)
    text = written(dataclasses.replace(made, optima=optima, entries=[made.entries[0], winner, made.entries[2]]))
    traces, layout = figure(text, "pareto")
    marks = {(trace["x"][0], trace["y"][0]): trace["hovertemplate"] for trace in traces if len(trace["x"]) == 1}
    assert "proven optimum of band deep<br>ir_se-1" in marks[109.0, 987.0]
    assert "proven optimum of band wide<br>ir_se-2" in marks[108.0, 654.0]
    low, high = layout["yaxis"]["range"]
    assert low < 654.0 and high > 987.0
    assert "<th>Band</th>" in text and "<td>wide</td>" in text and "&lt;empty&gt;" in text and "<empty>" not in text
    assert "wide (effectiveness up to 0.05)" in text and "the network's band holds within the" in text
    without = written(made)
    assert "<th>Band</th>" not in without and "the space holds within the" in without


def test_worth_on_the_table_that_nobody_had_seen_is_shown(written):
    made = summary()
    text = written(dataclasses.replace(made, evidence={made.entries[0].key: {"equal_cost": 1.0, "meco": 1.0}}))
    # The objective's own column, Zen-Score's, has no figure there, and neither has meco's.
    cells = {
        title: re.search(rf"<i>{title}</i></th><td></td>(.*?)</tr>", text)[1].replace("<td>", " ").replace("</td>", "")
        for title in ("worth, on faces", "worth, unseen table", "worth, unseen table, at equal MACs")
    }
    assert cells["worth, on faces"].split()[1:] == ["-0.03", "-0.12"]
    assert cells["worth, unseen table"].split()[1] == "0.28"
    assert cells["worth, unseen table, at equal MACs"].split()[1] == "-0.26"
    assert "run by another hand on a table that we had not seen" in " ".join(text.split())


def test_worth_is_that_of_the_objective(written):
    made = summary()
    made = dataclasses.replace(made, evidence={made.entries[0].key: {"meco": 1.0}})
    for name in ("zen", "naswot"):
        text = written(dataclasses.replace(made, score_name=name))
        assert (
            f"worth, on faces</i></th><td></td><td>{WORTH[name].faces:.2f}</td><td>{WORTH['meco'].faces:.2f}</td>"
            in text
        )


def without_numbers():
    rows = scored(3)
    rows[["score", "predicted_ms", "elapsed_s", "params", "macs"]] = math.nan
    empty = entry("winner", "winner-1", **dict.fromkeys(("score_mean", "score_std", "params", "macs", "num_blocks")))
    nothing = dict.fromkeys(("measured_ms", "predicted_ms", "spread_pct", "raw_ms"))
    return {"scored": rows, "entries": [empty.changed(latency=empty.latency.model_copy(update=nothing))]}


def failed_rows():
    rows = scored(3)
    rows.loc[0, ["score", "stage", "error"]] = [math.nan, "build", "ValueError: too thin"]
    return {"scored": rows}


ODD_RUNS = {
    "nothing": {key: [] for key in ("entries", "facts", "corrections")}
    | {"scored": pd.DataFrame(), "counters": {}, "prediction_error": {}},
    "nothing scored": {"scored": scored(0)},
    "one scored": {"scored": scored(1)},
    "all failed": {"scored": scored(3).assign(score=math.nan, error=math.nan, stage=math.nan)},
    "some failed": failed_rows(),
    "infinite score": {"scored": scored(3).assign(score=[math.inf, 1.0, -math.inf])},
    "no time": {"scored": scored(3).assign(elapsed_s=0.0)},
    "nothing feasible": {"scored": scored(3).assign(predicted_ms=1000.0)},
    "no winner": {"entries": [entry("baseline", "IR-SE-50"), entry("finalist", "finalist-1")]},
    "no baseline": {"entries": [entry("winner", "winner-1")]},
    "one stage": {"entries": [entry("winner", "w", candidate=Candidate(block="ir", stem=8, widths=(8,), depths=(1,)))]},
    "no numbers": without_numbers(),
}


@pytest.mark.parametrize("changes", ODD_RUNS.values(), ids=ODD_RUNS.keys())
def test_an_odd_run_still_writes_a_whole_page(written, changes):
    text = written(summary(**changes))
    assert text.count("<section>") == written(summary()).count("<section>") and text.rstrip().endswith("</html>")
    assert ">nan<" not in text and ">None<" not in text


def test_failures_are_told_with_stage_and_reason(written):
    assert "build: ValueError: too thin" in written(summary(**failed_rows()))


def test_the_front_is_what_no_other_beats(written):
    made = summary()
    front = figure(written(made), "pareto")[0][1]
    points = made.scored[["predicted_ms", "score"]].to_numpy()
    beaten = [any((q[0] <= p[0]) and (q[1] >= p[1]) and (q != p).any() for q in points) for p in points]
    expected = sorted(map(tuple, points[~np.array(beaten)]))
    assert list(zip(numbers(front["x"]), numbers(front["y"]), strict=True)) == expected


def test_a_large_cloud_is_thinned_but_its_front_is_not(written):
    made = summary(scored=scored(MAX_POINTS + 500))
    cloud, front, *_ = figure(written(made), "pareto")[0]
    assert len(numbers(cloud["x"])) == MAX_POINTS
    assert numbers(front["y"]).max() == made.scored["score"].max()


def test_the_best_so_far_only_rises_and_keeps_the_budget(written):
    made = summary()
    best = numbers(figure(written(made), "course")[0][1]["y"])
    assert (np.diff(best) >= 0).all()
    assert best[-1] == made.scored["score"][made.scored["predicted_ms"] <= made.budget_ms].max()


@pytest.mark.parametrize("score", [500.0, 100.0])  # a crowd at the upper edge of the plot and one at the lower
def test_no_two_names_share_a_height(written, score):
    crowd = [entry("baseline", f"near-{index}", score=score + index / 10) for index in range(9)]
    _, layout = figure(written(summary(entries=[entry("winner", "winner-1", score=300.0), *crowd])), "pareto")
    low, high = layout["yaxis"]["range"]
    panel_px = layout["height"] - 80  # as the page reckons
    names = [note for note in layout["annotations"] if note.get("ay") is not None]
    heights_px = sorted(panel_px * (high - note["y"]) / (high - low) + note["ay"] for note in names)
    assert len(names) == 10
    assert np.diff(heights_px).min() > LABEL_GAP_PX - 1e-6  # rounding of the sum alone
    assert heights_px[0] >= 0 and heights_px[-1] <= panel_px


def test_a_failed_write_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError, match="text"):  # a network without a candidate
        write_report(path, summary(entries=[entry("winner", "winner-1", candidate=IR_SE_100).changed(candidate=None)]))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_networks_with_branches_are_drawn_way_by_way_with_their_scores_and_mirror_images(written):
    mgn = Candidate(family="mgn", block="resnet_basic", stem=16, widths=(32, 40, 48, 56, 64), depths=(2, 3, 1, 4, 2))
    other = Candidate(family="single", block="repvgg", stem=16, widths=(24, 32, 48, 72), depths=(1, 2, 3, 1))
    mirrored = MirroredLatency(
        measured_ms=210.5,
        spread_pct=1.0,
        times=1.931,
        raw_ms=(210.5,),
        protocol=Protocol(backend="onnxruntime-cpu", batch=2),
        machine="a-machine",
        date="",
        load_average=0.0,
    )
    entries = [
        entry("winner", "winner-1", ms=109.0, candidate=mgn, mirrored=mirrored).changed(
            ways=WayScores.of(tree_of(mgn), Apart((101.5, 103.25), 42.75))
        ),
        entry("baseline", "one-branch", candidate=other),
    ]
    people = Shape(channels=3, height=256, width=128, embedding_size=2048)
    text = written(summary(entries=entries, shape=people))
    # The global branch halves its maps in the last stage, the part branches keep them.
    for words in ("stage 5: 2 × 64 @ 8x4 px", "stage 5: 2 × 64 @ 16x8 px", "part × 2", "stage 4: 1 × 72 @ 8x4 px"):
        assert words in text
    assert text.count("<title>stage 1: 2 × 32 @ 64x32 px") == 2  # of either way
    assert "210.50 <i>× 1.93</i>" in text and "with mirror image, ms" in text
    # 42.75 + (101.5 - 42.75) + 2 (103.25 - 42.75), and the mean of three.
    for words in ("every block once", "222.50", "102.67", "42.75", "101.50", "103.25", "part x 2"):
        assert words in text


def test_a_page_of_chains_says_nothing_of_ways_and_mirror_images(written):
    text = written(summary())
    assert "What each way" not in text and "mirror image" not in text
