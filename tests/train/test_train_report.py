import html.parser
import math
import re

import numpy as np
import pytest
import yaml

from tests.pages import figure, numbers, page_in
from zennas.page import STYLE
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.face.report import COLUMNS, PAGE
from zennas.tasks.identity.course import SETS
from zennas.tasks.identity.report import RUNNING_OF_CENTRES
from zennas.train.report import CURVES, MAX_SKIPPED, NUM_MEANS, write_report

EVIL = "<script>alert('&')</script>"


def verified(name, accuracy, **changes):
    found = {"set": name, "accuracy": accuracy, "accuracy_std": 0.0123, "threshold": 0.271, "tar": 0.6543}
    return found | {"num_pairs": 6000, "num_corrupt": 0} | changes


def accuracies():
    return {
        "lfw": {
            "student": verified("lfw", 0.9412),
            "untrained": 0.6021,
            "teacher": verified("lfw", 0.9951, tar=0.9876),
        },
        "own": {"student": verified("own", 0.8034, tar=None), "untrained": None, "teacher": None},
    }


def result(**changes):
    """As finish.py and run.py write it; `changes` of a part that is a mapping change its keys."""
    latency = {
        "measured_ms": 104.25,
        "untrained_ms": 103.5,
        "median_ms": 105.75,
        "spread_pct": 1.25,
        "budget_ms": 110.5,
        "origin": "15 ms elsewhere",
        "within_budget": True,
        "stand_in": None,
        "warning": None,
        "raw_ms": [104.0 + run / 8 for run in range(20)],
        "machine": "a-machine-2c",
        "date": "2026-01-02",
        "versions": {},
        "protocol": {"backend": "onnxruntime-cpu", "batch": 1, "kth_fastest": 3},
        "load_average": 0.1,
    }
    training = {
        "steps": 20_000,
        "epochs": 19.5,
        "num_images": 42_474_557,
        "num_identities": 2_059_906,
        "seconds": 8123.4,
        "images_per_s": 912.3,
        "num_ranks": 8,
        "device": "cuda:0",
        "skipped_steps": 7,
        "corrupt_images": 11,
    }
    made_by = {
        "zennas": "0.1.0",
        "command": "zennas train --seed 5",
        "seed": 5,
        "machine": "m",
        "date": "2026-01-01",
        "versions": {"torch": "2.13"},
    }
    made = {
        "experiment": "a-race",
        "track": "a-track",
        "params": 65_528_384,
        "macs": 12_089_978_368,
        "num_blocks": 49,
        "candidate": {"block": "ir_se", "stem": 64, "widths": [64, 128, 256, 512], "depths": [3, 13, 30, 3]},
        "image_px": 112,
        "embedding_size": 512,
        "onnx": "model.onnx",
        "megabytes": 250.12,
        "latency": latency,
        "export": {"max_abs_difference": 2.1e-6, "max_abs_output": 3.2, "checker": [], "zeroed_weights": 1234},
        "accuracy": accuracies(),
        "training": training,
        "data": "data/faces",
        "teacher": "teachers/r200.onnx",
        "plan": FacePlan(loss={"knobs": {"margin_rad": 0.45}, "sampling_rate": 0.15}).model_dump(mode="json"),
        "made_by": made_by,
    }
    for key, value in changes.items():
        made[key] = made[key] | value if isinstance(made[key], dict) and key != "accuracy" else value
    return made


def train_entry(step, **others):
    return {"step": step, "kind": "train", "loss": 40 / step, "gradient": 1.5, "images_per_s": 900.0, "lr": 0.1} | {
        "epoch": step / 100,
        **others,
    }


def verify_entry(step, accuracy, name="lfw"):
    numbers = {"accuracy": accuracy, "accuracy_std": 0.01, "tar": None, "epoch": step / 100}
    return {"step": step, "kind": f"verify/{name}", **numbers}


def skip_entry(step, why="not finite"):
    return {"step": step, "kind": "skipped", "loss": None, "gradient": None, "why": why}


def metrics():
    entries = [train_entry(step, t=step / 1000) for step in range(1, 101)]
    return [verify_entry(0, 0.60), *entries, verify_entry(100, 0.93), skip_entry(50, "step 49: gradient 1e39")]


@pytest.fixture
def written(tmp_path):
    def write(made, entries):
        write_report(tmp_path / "report.html", made, entries, PAGE)
        return page_in(tmp_path)

    return write


class Page(html.parser.HTMLParser):
    """The visible text, and proof that every element is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def test_it_says_every_number(written):
    made = result(
        latency={"warning": "the runs spread", "stand_in": "stand-in: a CPU"}, export={"checker": ["too big"]}
    )
    text = " ".join(Page(written(made, metrics())).text.split())
    for said in (
        "lfw 94.12 % (untrained 60.21 %, teacher 99.51 %); own 80.34 %",
        "94.12 ± 1.23",
        "99.51 ± 1.23",
        "-5.39",
        "65.43",
        "98.76",
        "0.271",
        "6,000",
        "104.25 ms, within the budget of 110.50 ms",
        "run 3 of 20 from the fastest",
        "94.3 % of the budget",  # 104.25 / 110.5
        "103.50 ms just before; trained: × 1.007",  # 104.25 / 103.5
        "105.75 ms",
        "1.2 % apart",
        "15 ms elsewhere",
        "ir_se-64-64x3-128x13-256x30-512x3",
        "65.53 M",
        "12.09 GMACs",
        "a-track",
        "data/faces: 42,474,557 images of 2,059,906 identities",
        "margin_rad 0.45, 15 % of the centres",
        "teachers/r200.onnx: l2, weight 1",
        "20,000 steps of 1,024 images, 19.5 epochs",
        "135m23s, 912.3 images/s",
        "cuda:0, 8 rank(s)",
        "7 step(s)",
        "11 image(s)",
        "250.12 MB",
        "differ by 2.1e-06 where outputs reach 3.2",
        "1,234 weights",
        "too big",
        "the runs spread",
        "stand-in: a CPU",
        "step 49: gradient 1e39",
        "zennas train --seed 5",
        "backend onnxruntime-cpu",
        "a-machine-2c",
        RUNNING_OF_CENTRES["t"],
    ):
        assert said in text, said


def test_the_plan_is_one_that_an_experiment_takes(written):
    text = Page(written(result(), [])).text
    start = text.index("epochs: 20")
    given = yaml.safe_load(text[start : text.index("What the numbers mean")])
    assert FacePlan.parse(given, "page") == FacePlan.parse(result()["plan"], "result")


def test_it_fetches_nothing(written):
    text = written(result(), metrics())
    assert "default-src 'none'" in text  # what a browser would hold plotly itself to
    assert not [word for word in ("http://", "https://", "//cdn", "src=", "@import", "url(") if word in text]
    assert STYLE in text


def test_names_are_text_not_html(written):
    made = result(
        experiment=EVIL,
        track=EVIL,
        data=EVIL,
        teacher=EVIL,
        onnx=EVIL,
        training={"device": EVIL},
        accuracy={EVIL: {"student": verified(EVIL, 0.9, num_corrupt=1), "untrained": None, "teacher": None}},
        export={"checker": [EVIL]},
        latency={"origin": EVIL, "stand_in": EVIL, "warning": EVIL, "machine": EVIL},
        plan={"loss": {"name": EVIL, "knobs": {EVIL: EVIL}, "sampling_rate": 0.5}},
        made_by={"command": EVIL},
    )
    entries = [train_entry(1, **{EVIL: 1.0}), verify_entry(1, 0.5, name=EVIL), skip_entry(1, EVIL)]
    text = written(made, entries)
    Page(text)
    assert (
        "<script>alert" not in text and "\\u003cscript\\u003ealert" not in text
    )  # plotly reads its labels as HTML, too
    assert text.count("&lt;script&gt;alert") > 15


ODD_ACCURACIES = {
    "no teacher": {"lfw": {**accuracies()["lfw"], "teacher": None}},
    "no untrained": {"lfw": {**accuracies()["lfw"], "untrained": None}},
    "no numbers": {
        "lfw": {
            "student": verified("lfw", math.nan, accuracy_std=math.nan, threshold=math.nan, tar=math.nan),
            "untrained": math.nan,
            "teacher": verified("lfw", math.nan, tar=None),
        }
    },
}
ODD = {
    "nothing": ({"accuracy": {}, "teacher": None}, []),
    "no entries": ({}, []),
    "one entry": ({}, [train_entry(1)]),
    "only verified": ({}, [verify_entry(0, 0.5)]),
    "a set that is gone": ({"accuracy": {}}, [verify_entry(0, 0.5, name="gone")]),
    "all skipped": ({}, [skip_entry(step) for step in range(1, 5)]),
    "no loss": (
        {},
        [train_entry(1, loss=None, gradient=None), train_entry(2, loss=math.nan, lr=math.inf), skip_entry(2)],
    ),
    "no gradient": ({}, [{"step": 1, "kind": "train", "loss": 1.0}]),
    "never clipped": ({"plan": {"optimizer": {"clip_norm": None}}}, metrics()),
    "no steps": ({"training": {"steps": 0, "epochs": 0.0, "images_per_s": 0.0}}, []),
    "one run": ({"latency": {"raw_ms": [104.25]}}, []),
    "more sets than colours": (
        {"accuracy": {f"set-{n}": accuracies()["lfw"] for n in range(len(SETS) + 2)}},
        metrics(),
    ),
} | {name: ({"accuracy": accuracy}, metrics()) for name, accuracy in ODD_ACCURACIES.items()}


@pytest.mark.parametrize(("changes", "entries"), ODD.values(), ids=ODD.keys())
def test_an_odd_training_still_writes_a_whole_page(written, changes, entries):
    text = written(result(**changes), entries)
    shown = Page(text).text
    assert text.count("<section>") == 6 and text.rstrip().endswith("</html>")
    assert not re.search(r"\b(nan|inf|None)\b", shown)


def test_a_column_that_no_set_fills_is_left_out(written):
    told = written(result(), [])
    assert all(f"<th>{name}</th>" in told for name in COLUMNS)
    text = written(result(accuracy=ODD_ACCURACIES["no teacher"]), [])
    assert "<th>Teacher, %</th>" not in text and "<th>Student, %</th>" in text
    assert "Not measured: teacher." in text


def test_being_over_the_budget_is_told_at_the_top(written):
    said = "The trained network takes 120.00 ms, over the budget of 110.50 ms"
    header = Page(written(result(latency={"measured_ms": 120.0, "within_budget": False}), [])).text.split("Winner")[0]
    assert said in header
    assert "takes" not in Page(written(result(), [])).text.split("Winner")[0]


def test_the_curves_are_the_entries(written):
    traces, layout = figure(written(result(), metrics()), "course")
    written_down = [entry for entry in metrics() if entry["kind"] == "train"]
    for row, name in enumerate(CURVES, start=1):
        axis = "y" if row == 1 else f"y{row}"
        points = next(trace for trace in traces if trace["yaxis"] == axis)
        assert numbers(points["x"]).tolist() == [entry["step"] for entry in written_down]
        assert numbers(points["y"]).tolist() == [entry[name] for entry in written_down]
        assert layout[axis.replace("y", "yaxis")]["title"]["text"] == CURVES[name][0]
    skips = next(trace for trace in traces if trace.get("marker", {}).get("symbol") == "x")
    assert numbers(skips["x"]).tolist() == [50]
    running, _ = figure(written(result(), metrics()), "running")
    assert numbers(running[0]["y"]).tolist() == [entry["t"] for entry in written_down]


def test_the_smooth_line_is_the_mean_of_its_neighbours(written):
    entries = [train_entry(step, loss=float(step % 3)) for step in range(1, 3 * NUM_MEANS + 1)]  # so a window is 3 wide
    means = next(trace for trace in figure(written(result(), entries), "course")[0] if trace["mode"] == "lines")
    assert np.allclose(
        numbers(means["y"])[1:-1], 1.0, atol=1e-12
    )  # any 3 in a row are 0, 1, 2; rounding of a running sum


def test_a_spike_of_the_gradient_does_not_hide_the_rest(written):
    spiked = [*metrics(), train_entry(101, gradient=1e4)]
    assert figure(written(result(), spiked), "course")[1]["yaxis2"]["type"] == "log"
    assert "type" not in figure(written(result(), metrics()), "course")[1]["yaxis2"]


def test_accuracy_runs_from_the_untrained_to_what_is_handed_on(written):
    traces, layout = figure(written(result(), metrics()), "accuracy")
    course = next(trace for trace in traces if trace["mode"] == "lines+markers")
    assert numbers(course["x"]).tolist() == [0, 1] and numbers(course["y"]).tolist() == [60, 93]
    star = next(trace for trace in traces if trace.get("marker", {}).get("symbol") == "star")
    assert numbers(star["x"]).tolist() == [19.5] and numbers(star["y"]).tolist() == [100 * 0.9412]
    assert [line["y0"] for line in layout["shapes"]] == [100 * 0.9951]  # the teacher; one set has none
    low, high = layout["yaxis"]["range"]
    assert low < 59 and high > 99.51  # a deviation below the first, and above the teacher


def test_an_untrained_accuracy_that_no_entry_tells_begins_the_curve(written):
    traces, _ = figure(written(result(), [verify_entry(100, 0.93)]), "accuracy")
    course = next(trace for trace in traces if trace["mode"] == "lines+markers")
    assert numbers(course["y"]).tolist() == [100 * 0.6021, 93]


def test_latency_shows_every_run_beside_the_budget(written):
    traces, layout = figure(written(result(), []), "latency")
    assert numbers(traces[0]["x"]).tolist() == [103.5, 104.25]
    assert numbers(traces[1]["x"]).tolist() == result()["latency"]["raw_ms"]
    assert [line["x0"] for line in layout["shapes"]] == [110.5]
    assert layout["xaxis"]["range"][0] == 0 and layout["xaxis"]["range"][1] > 110.5


def test_a_long_list_of_skipped_steps_is_cut(written):
    text = Page(written(result(), [skip_entry(step, f"why-{step};") for step in range(MAX_SKIPPED + 3)])).text
    assert f"why-{MAX_SKIPPED - 1};" in text and f"why-{MAX_SKIPPED};" not in text and "and 3 more" in text


def test_a_failed_write_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="candidate"):
        write_report(path, result(candidate={"block": 3}), [], PAGE)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
