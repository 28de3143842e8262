import base64
import html.parser
import io
import itertools
import json
import math
import re

import numpy as np
import PIL.Image
import pytest

from tests.pages import figure, numbers, page_in
from zennas.evaluate.assessment import Assessment, Curve, Histogram, Metric, Pair
from zennas.evaluate.curves import COLOURS, asked_far, model_looks
from zennas.evaluate.pictures import NUM_SHOWN, hardest
from zennas.evaluate.report import MAX_BANNERS, write_report
from zennas.evaluate.results import Evaluation, Result
from zennas.page import STYLE

EVIL = "<script>alert('&')</script>"
SET_FACTS = {"num_images": 1234, "flip": True, "how": "Pairs & pairs."}
MODEL_FACTS = {"kind": "onnx", "embedding_size": 512, "input": [112, 96], "normalisation": "(x - 127.5) / 127.5"}


def picture(seed):
    """A data URI of a JPEG of its own."""
    file = io.BytesIO()
    colours = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    PIL.Image.fromarray(colours).save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def latency(measured_ms, **changes):
    return {
        "measured_ms": measured_ms,
        "median_ms": measured_ms + 1,
        "spread_pct": 1.5,
        "budget_ms": 110.5,
        "within_budget": measured_ms <= 110.5,
        "stand_in": None,
        "warning": None,
        "raw_ms": [measured_ms] * 3,
        "protocol": {"backend": "onnxruntime-cpu", "batch": 1},
        "machine": "a-machine-2c",
        "date": "2026-01-02",
        "versions": {},
        "load_average": 0.1,
    } | changes


def budget(budget_ms, **facts):
    return {"budget_ms": budget_ms, "scale": None, "reference_ms": None, **facts}


def roc(subset="", exact_up_to=None):
    return Curve("roc", subset, np.array([1e-3, 1e-2, 1e-1, 1.0]), np.array([0.5, 0.7, 0.9, 1.0]), exact_up_to)


def histogram(subset=""):
    return Histogram(subset, np.linspace(-1, 1, 5), np.array([0, 0, 0.25, 0.75]), np.array([0, 0.64, 0.36, 0]))


def on_pairs(accuracy=0.9412, tar=0.6543):
    """A Assessment as LFW gives it: 3,000 pairs of each kind."""
    counts = {"num_same": 3000, "num_different": 3000}
    metrics = [
        Metric(name="accuracy", value=accuracy, std=0.0123, threshold=0.271, headline=True, **counts),
        Metric(name="TAR@FAR=1e-03", value=tar, threshold=0.388, **counts),
        Metric(name="TAR@FAR=1e-02", value=0.71, threshold=0.201, **counts),
    ]
    pairs = [Pair("", True, 0.05, 17, 4), Pair("", False, 0.61, 17, 9)]
    return Assessment(metrics, [roc()], [histogram()], pairs, [])


def on_subsets(fnmr=0.0803):
    counts = {"num_same": 100, "num_different": 333_000_000}
    fnmr = Metric(name="FNMR@FMR=1e-05", value=fnmr, subset="masked", better="lower", headline=True, **counts)
    none = Metric(name="FNMR@FMR=1e-05", value=None, subset="wild", better="lower", note="no image is wild")
    curves = [roc("masked", exact_up_to=1e-2), Curve("cmc", "", np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.75, 1.0]))]
    return Assessment([none, fnmr], curves, [histogram("masked")], [], ["2 images cannot be read: x.jpg, y.jpg"])


def entry(model, name, assessment, **changes):
    images = {image for pair in assessment.pairs for image in (pair.first, pair.second)}
    return {
        **Result.of(assessment, model=model, set=name).model_dump(mode="json"),
        "num_unusable": 0,
        "seconds": 75.0,
        "thumbnails": {str(image): picture(image) for image in images},
        "where": {str(image): f"{name}.bin, image {image}" for image in images},
    } | changes


def results(**changes):
    """As results.json holds it, and the pictures: two networks on two sets."""
    made = {
        "made_by": {
            "zennas": "0.1.0",
            "command": "zennas evaluate --model a",
            "seed": None,
            "machine": "m",
            "date": "2026-01-01",
            "versions": {"torch": "2.13"},
        },
        "track": "a-track",
        "budget": budget(110.5, origin="15 ms elsewhere", stand_in="a CPU stands in"),
        "models": [
            {"name": "big", "file": "big.onnx", "megabytes": 250.12, "latency": latency(118.25), **MODEL_FACTS},
            {"name": "small", "file": "small.onnx", "megabytes": None, "latency": latency(13.75), **MODEL_FACTS},
        ],
        "sets": [
            {"name": "lfw", "protocol": "pairs", "given": "data/lfw.bin", **SET_FACTS},
            {"name": "web", "protocol": "webface", "given": "webface:web.csv@web", **SET_FACTS, "flip": False},
        ],
        "results": [
            entry("big", "lfw", on_pairs(0.9812, 0.7)),
            entry("small", "lfw", on_pairs()),
            entry("big", "web", on_subsets(0.0803)),
            entry("small", "web", on_subsets(0.0769)),
        ],
        "failures": [],
    }
    return json.loads(json.dumps(made | changes))


def one_set(*assessments, **changes):
    """Networks n0, n1, ... on one set, untimed."""
    names = [f"n{place}" for place in range(len(assessments))]
    models = [{"name": name, "file": "x", "megabytes": 1.0, "latency": None, **MODEL_FACTS} for name in names]
    entries = [entry(name, "lfw", assessment) for name, assessment in zip(names, assessments, strict=True)]
    return results(models=models, sets=results()["sets"][:1], results=entries, track=None, budget=None, **changes)


def write(path, made):
    """The page of `results`, at `path`."""
    plain = [{key: value for key, value in one.items() if key != "thumbnails"} for one in made["results"]]
    pictures = {(one["model"], one["set"]): one.get("thumbnails") for one in made["results"]}
    write_report(path, Evaluation.parse(made | {"results": plain}, "results.json"), pictures)


@pytest.fixture
def written(tmp_path):
    def write_and_read(made):
        write(tmp_path / "report.html", made)
        return page_in(tmp_path)

    return write_and_read


class Page(html.parser.HTMLParser):
    """The visible text, the cells of each table row, and proof that every element is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.rows = [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append(("best" in dict(attrs).get("class", ""), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"th", "td"} & set(self.open):
            best, text = self.rows[-1][-1]
            self.rows[-1][-1] = (best, f"{text} {data}".strip())

    def row(self, start, place=0):
        return [row for row in self.rows if row[0][1].startswith(start)][place]


def told(text):
    return " ".join(Page(text).text.split())


def test_it_says_every_number(written):
    text = told(written(results()))
    for said in (
        "lfw, accuracy: big (over the budget) is best with 98.12 % ± 1.23; small 94.12 % ± 1.23",
        "web, masked FNMR@FMR=1e-05 (lower is better): small is best with 7.69 %; big (over the budget) 8.03 %",
        "TAR@FAR=1e-03",
        "65.43",
        "70.00",
        "above 0.271",
        "above 0.388",
        "3,000 same, 3,000 different pairs",
        "no image is wild",
        "big takes 118.25 ms, over the budget of 110.50 ms",
        "107.0 %",
        "12.4 %",  # 118.25 / 110.5, 13.75 / 110.5
        "a CPU stands in",
        "web: 2 images cannot be read: x.jpg, y.jpg",
        "a-track",
        "110.50 ms: 15 ms elsewhere",
        "lfw (1,234 images)",
        "5m00s",
        "112 × 96",
        "(x - 127.5) / 127.5",
        "250.1",
        "data/lfw.bin",
        "webface:web.csv@web",
        "Pairs & pairs.",
        "mirror image are added",
        "No mirror images.",
        "lfw.bin, image 17",
        "0.050",
        "0.610",
        "zennas evaluate --model a",
        "backend onnxruntime-cpu",
        "a-machine-2c",
    ):
        assert said in text, said


def test_the_best_of_a_row_is_marked(written):
    page = Page(written(results()))
    assert [best for best, _ in page.row("accuracy")] == [False, True, False]
    assert [best for best, _ in page.row("FNMR@FMR", place=1)] == [False, False, True]  # lower is better
    assert [best for best, _ in page.row("FNMR@FMR")] == [False, False, False]  # no numbers
    assert [best for best, _ in page.row("TAR@FAR=1e-02")] == [False, False, False]  # level


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((0.9,), "lfw, accuracy: 90.00 % ± 1.23."),
        ((0.9, 0.9, 0.8), "n0 and n1 are level at 90.00 % ± 1.23; n2 80.00 % ± 1.23."),
        (
            (0.9, 0.895),
            "n0 is best with 90.00 % ± 1.23; n1 89.50 % ± 1.23. The best is ahead of n1 by less than its deviation.",
        ),
        ((0.88, 0.9), "n1 is best with 90.00 % ± 1.23; n0 88.00 % ± 1.23."),
        ((None, 0.9), "n1 alone has a number, 90.00 % ± 1.23."),
        ((None, None), "lfw, accuracy: no number."),
        (tuple(0.9 - place / 10 for place in range(7)), "n4 50.00 % ± 1.23 and 2 more."),
    ],
)
def test_the_headline_is_a_sentence(written, accuracies, said):
    assert said in told(written(one_set(*map(on_pairs, accuracies))))


@pytest.mark.parametrize(
    ("name", "num_different", "few"),
    [
        ("TAR@FAR=1e-03", 9_999, True),
        ("TAR@FAR=1e-03", 10_000, False),
        ("TAR@FAR=1e-06", 10_000_000, False),
        ("FNMR@FMR=1e-05", 3_000, True),
        ("accuracy", 5, False),
        ("TAR@FAR=1e-03", None, False),
    ],
)
def test_a_threshold_that_few_pairs_set_is_told_to_be_one(written, name, num_different, few):
    assessment = Assessment([Metric(name=name, value=0.5, num_different=num_different, headline=True)])
    text = told(written(one_set(assessment)))
    assert ("fewer than ten different pairs set the threshold" in text) == few
    assert ("Fewer than ten pairs set its threshold" in text) == few


def test_fars_are_read_from_names():
    for name, far in (
        ("TAR@FAR<=1e-4", 1e-4),
        ("TPIR@FPIR=0.01", 0.01),
        ("TAR@FAR=0.001, nearest", 0.001),
        ("mAP", None),
    ):
        assert asked_far(name) == far


def test_what_a_number_rests_on_stands_once_where_it_is_the_same(written):
    def counted(num_same):
        return Assessment([Metric(name="TAR@FAR=1e-02", value=0.5, num_same=num_same, num_different=5_000)])

    assert "7 same, 5,000 different pairs" in Page(written(one_set(counted(7), counted(7)))).row("TAR@")[0][1]
    notes = [Assessment([Metric(name="TAR@FAR=1e-02", value=0.5, note=note)]) for note in ("same", "same", "another")]
    assert [text for _, text in Page(written(one_set(*notes[:2]))).row("TAR@")] == [
        "TAR@FAR=1e-02 same",
        "50.00",
        "50.00",
    ]
    assert [text for _, text in Page(written(one_set(*notes[1:]))).row("TAR@")][1:] == ["50.00 same", "50.00 another"]
    head, first, second = (text for _, text in Page(written(one_set(counted(7), counted(8)))).row("TAR@"))
    assert "same" not in head and "7 same" in first and "8 same" in second


def test_a_notice_of_all_networks_stands_once_and_names_those_of_some(written):
    first, second = (on_pairs()._replace(notices=["all", *more]) for more in ([], ["only this one"]))
    text = told(written(one_set(first, second)))
    assert "lfw: all" in text and "lfw, n1: only this one" in text and "n0: all" not in text
    many = on_pairs()._replace(notices=[f"notice-{place}." for place in range(MAX_BANNERS + 3)])
    top, rest = told(written(one_set(many))).split("What came out")
    assert f"notice-{MAX_BANNERS - 1}." in top and f"notice-{MAX_BANNERS}." not in top and "3 more notices" in top
    assert f"notice-{MAX_BANNERS + 2}." in rest


def test_images_that_cannot_be_used_are_told_without_a_notice_too(written):
    made = one_set(on_pairs())
    made["results"][0]["num_unusable"] = 7
    assert "lfw: 7 image(s) cannot be used" in told(written(made)).split("What came out")[0]


def test_it_fetches_nothing(written):
    text = written(results())
    assert "default-src 'none'; img-src data:;" in text  # what a browser would hold plotly itself to
    assert not [word for word in ("http://", "https://", "//cdn", "src=", "@import") if word in text]
    assert text.count("url(") == text.count("url(data:image/jpeg;base64,") > 0
    assert STYLE in text


def test_names_are_text_not_html(written):
    evil = Assessment(
        [Metric(name=f"TAR@FAR=1e-2 {EVIL}", value=0.5, subset=EVIL, threshold=0.2, note=EVIL, headline=True)],
        [roc(EVIL, exact_up_to=0.01), Curve("cmc", "", np.array([1.0, 2.0]), np.array([0.5, 0.6]))],
        [histogram(EVIL)],
        [Pair(EVIL, True, 0.1, 1, 2)],
        [EVIL],
    )
    made = results(
        track=EVIL,
        budget=budget(1.0, origin=EVIL, stand_in=EVIL),
        models=[
            {
                "name": EVIL,
                "file": EVIL,
                "kind": EVIL,
                "embedding_size": 1,
                "input": None,
                "normalisation": EVIL,
                "megabytes": 1.0,
                "latency": latency(200.0, warning=EVIL, stand_in=EVIL, machine=EVIL),
            }
        ],
        sets=[{"name": EVIL, "protocol": EVIL, "num_images": 1, "flip": True, "given": EVIL, "how": EVIL}],
        results=[
            entry(
                EVIL,
                EVIL,
                evil,
                where={"1": EVIL, "2": "'><b>"},
                thumbnails={"1": "data:image/jpeg;base64,AAAA');}</style>" + EVIL, "2": EVIL},
            )
        ],
    )
    made["made_by"]["command"] = EVIL
    text = written(made)
    Page(text)
    for bad in (
        "<script>alert",
        "\\u003cscript\\u003ealert",
        "'><b>",
        "base64,AAAA",
    ):  # plotly reads its labels as HTML, too
        assert bad not in text, bad
    assert text.count("&lt;script&gt;alert") > 30


BARE = [Metric(name="mAP", value=None, headline=True)]
ODD = {
    "nothing": results(models=[], sets=[], results=[]),
    "no results": results(results=[]),
    "a missing combination": results(results=results()["results"][:3]),
    "a set that no network was evaluated on": results(results=results()["results"][:2]),
    "no values": one_set(Assessment(BARE), Assessment(BARE)),
    "values that are no numbers": one_set(on_pairs(math.nan, math.nan)),
    "no metrics": one_set(Assessment([])),
    "one network": one_set(on_pairs()),
    "more networks than colours": one_set(*[on_pairs() for _ in range(2 * len(COLOURS) + 1)]),
    "empty curves": one_set(on_pairs()._replace(curves=[Curve("roc", "", np.array([]), np.array([]), 0.1)])),
    "empty histograms": one_set(
        on_pairs()._replace(histograms=[Histogram("", np.linspace(-1, 1, 3), np.zeros(2), np.zeros(2))])
    ),
    "perfect": one_set(on_pairs(1.0, 1.0)._replace(curves=[Curve("roc", "", np.array([0.0, 1.0]), np.ones(2))])),
    "untimed in part": results(
        models=[
            results()["models"][0],
            results()["models"][1] | {"latency": None, "input": None, "normalisation": None},
        ]
    ),
    "no budget": results(budget=None),
    "only what must be there": one_set(Assessment(BARE)),
}
for bare in ODD["only what must be there"]["results"]:
    for key in ("curves", "histograms", "pairs", "notices", "thumbnails", "where", "num_unusable", "seconds"):
        del bare[key]


@pytest.mark.parametrize("made", ODD.values(), ids=ODD.keys())
def test_an_odd_evaluation_still_writes_a_whole_page(written, made):
    text = written(made)
    assert text.count("<section>") == 8 and text.rstrip().endswith("</html>")
    assert not re.search(r"\b(nan|inf|None)\b", Page(text).text)
    for model, one in itertools.product(made["models"], made["sets"]):
        assert model["name"] in text and one["name"] in text


def test_what_is_missing_is_said(written):
    text = told(written(ODD["a missing combination"]))
    assert "1 network(s) on a set: not evaluated, or interrupted" in text
    page = Page(written(ODD["a missing combination"]))
    assert [text for _, text in page.row("FNMR@", place=1)[1:]] == ["8.03", "– not evaluated"]
    text = told(written(one_set(on_pairs())))
    assert "--track TRACK measures it" in text and "none: latency was not measured" in text
    assert "Not timed: small." in told(written(ODD["untimed in part"]))
    page = Page(written(ODD["a set that no network was evaluated on"]))
    assert page.row("web")[1][1] == "not evaluated"


def test_latency_stands_beside_the_budget(written):
    traces, layout = figure(written(results()), "latency")
    shown = [(numbers(trace["x"])[0], numbers(trace["y"])[0], trace["yaxis"]) for trace in traces]
    pct = {"y": [(118.25, 98.12), (13.75, 94.12)], "y2": [(13.75, 7.69), (118.25, 8.03)]}
    expected = [(*point, axis) for axis, points in pct.items() for point in points]
    assert np.allclose([one[:2] for one in shown], [one[:2] for one in expected], atol=1e-9)  # a share times 100
    assert [one[2] for one in shown] == [one[2] for one in expected]
    assert {line["x0"] for line in layout["shapes"]} == {110.5}
    low, high = layout["yaxis"]["range"]
    assert low < 94.12 and high > 98.12
    low, high = layout["yaxis2"]["range"]
    assert low > 8.03 and high < 7.69  # up is better


def test_the_curves_are_those_of_the_assessment(written):
    traces, layout = figure(written(results()), "curves-0-0")
    first = traces[:4]  # of one network: the line and the asked FARs come in both panels
    assert [trace["yaxis"] for trace in first] == ["y", "y2", "y", "y2"]
    assert numbers(first[0]["x"]).tolist() == [1e-3, 1e-2, 1e-1, 1.0]
    assert np.allclose(numbers(first[0]["y"]), [50, 70, 90, 100])
    missed = numbers(first[1]["y"])
    assert np.allclose(missed[:3], [50, 30, 10]) and np.isnan(missed[3])  # nothing missed: not on a logarithm
    assert numbers(first[2]["x"]).tolist() == [1e-3, 1e-2] and np.allclose(numbers(first[2]["y"]), [70, 71])
    assert np.allclose(numbers(first[3]["y"]), [30, 29])
    assert layout["xaxis"]["type"] == layout["xaxis2"]["type"] == layout["yaxis2"]["type"] == "log"
    assert {trace["line"]["dash"] for trace in traces if trace["mode"] == "lines"} == {"solid"}


def test_what_comes_from_a_sample_is_dotted_and_said_to(written):
    text = written(results())
    traces, _ = figure(text, "curves-1-0")  # the headline's subset first
    solid, dotted = (
        next(trace for trace in traces if trace.get("line", {}).get("dash") == dash) for dash in ("solid", "dot")
    )
    assert numbers(solid["x"]).tolist() == [1e-3, 1e-2]
    assert numbers(dotted["x"]).tolist() == [1e-2, 1e-1, 1.0]  # without a gap
    assert "from a sample of the different pairs" in told(text)
    assert "from a sample of the different pairs" not in told(written(one_set(on_pairs())))


def test_an_fnmr_is_marked_where_its_tar_is(written):
    assessment = on_subsets()
    fnmr = assessment.metrics[1].model_copy(update={"name": "FNMR@FMR=1e-02", "value": 0.3})
    traces, _ = figure(written(one_set(assessment._replace(metrics=[fnmr]))), "curves-0-0")
    marks = [trace for trace in traces if trace["mode"] == "markers"]
    assert [numbers(trace["x"]).tolist() for trace in marks] == [[0.01]] * 2
    assert np.allclose([numbers(trace["y"])[0] for trace in marks], [70, 30])


def test_ranks_have_a_curve_of_their_own(written):
    traces, _ = figure(written(results()), "curves-1-1")
    assert numbers(traces[0]["x"]).tolist() == [1, 2, 3] and numbers(traces[0]["y"]).tolist() == [50, 75, 100]


def test_histograms_are_square_roots_with_their_thresholds(written):
    traces, layout = figure(written(results()), "alike-0-0")
    different, same, *thresholds = [trace for trace in traces if trace["yaxis"] == "y"]
    assert np.allclose(numbers(same["y"]), [0, 0, 0.5, math.sqrt(0.75), 0])  # steps end at the last edge
    assert np.allclose(numbers(different["y"]), [0, 0.8, 0.6, 0, 0])
    assert np.allclose(numbers(different["customdata"]), [0, 64, 36, 0, 0])
    assert [numbers(trace["x"])[0] for trace in thresholds] == [0.388, 0.201, 0.271]  # the headline's on top
    assert layout["yaxis"]["range"][1] > math.sqrt(0.75)
    ticks = dict(zip(layout["yaxis"]["tickvals"], layout["yaxis"]["ticktext"], strict=True))
    assert all(np.isclose(100 * height**2, float(text.removesuffix(" %"))) for height, text in ticks.items())
    assert len(ticks) > 2
    assert {trace["yaxis"] for trace in traces} == {"y", "y2"}  # a panel for each network


def test_networks_can_be_told_apart():
    looks = model_looks([f"n{place}" for place in range(4 * len(COLOURS))])
    assert len({(look.colour, look.symbol) for look in looks.values()}) == 4 * len(COLOURS)


def test_the_hardest_pairs_come_first_and_once():
    same = [Pair("african", True, 0.3, 1, 2), Pair("all", True, 0.1, 3, 4), Pair("all", True, 0.3, 2, 1)]
    different = [Pair("all", False, 0.5, 1, 9), Pair("all", False, 0.7, 2, 9), Pair("all", False, 0.6, 1, 8)]
    found = hardest([*same, *different])
    assert [(pair.similarity, subsets) for pair, subsets in found[True]] == [
        (0.1, ["all"]),
        (0.3, ["african", "all"]),
    ]
    assert [pair.similarity for pair, _ in found[False]] == [0.7, 0.6, 0.5]
    many = hardest([Pair("", kind, place / 100, 0, place) for place in range(40) for kind in (True, False)])
    assert [pair.first + pair.second for pair, _ in many[True]] == list(range(NUM_SHOWN))
    assert [pair.second for pair, _ in many[False]] == list(range(39, 39 - NUM_SHOWN, -1))


def test_a_picture_stands_in_the_page_once(written):
    text = written(results())  # both networks show the same three images, and 17 twice
    assert [text.count(picture(image)) for image in (4, 9, 17)] == [1, 1, 1]
    names = re.findall(r"\.(picture-\d+)\{background-image", text)
    assert len(names) == len(set(names)) == 3
    boxes = re.findall(r"class='picture (\S+)' role='img' aria-label='([^']+)'", text)
    assert len(boxes) == 8  # two networks, two pairs, two pictures
    shown = dict(re.findall(r"\.(picture-\d+)\{background-image:url\(([^)]+)\)", text))
    assert {shown[name] for name, where in boxes if where == "lfw.bin, image 9"} == {picture(9)}


def test_a_picture_that_is_missing_leaves_a_box_that_says_so(written):
    made = one_set(on_pairs())
    del made["results"][0]["thumbnails"]["9"], made["results"][0]["where"]["9"]
    text = written(made)
    assert text.count("no picture") == 1 and "image 9" in told(text)
    made["results"][0]["thumbnails"] = None
    assert written(made).count("no picture") == 4


def test_a_failed_write_leaves_the_old_page(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    broken = results()
    broken["results"][0]["metrics"][0]["better"] = "sideways"
    with pytest.raises(ValueError, match=r"results.json: results\.0\.metrics\.0\.better: given 'sideways'"):
        write(path, broken)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize("width_px", [1280, 390])
def test_the_page_opens_offline_and_is_drawn(chromium, tmp_path, width_px):
    text = json.dumps(results()).replace('"big', f'"{"big" * 50}').replace('"lfw', f'"{"lfw/" * 50}')
    write(tmp_path / "report.html", json.loads(text))
    # As browsers do that give what is folded away no size; this one does.
    unseen = "details:not([open]) > :not(summary) { display: none }"
    text = (tmp_path / "report.html").read_text().replace("</style>", f"{unseen}</style>", 1)
    (tmp_path / "report.html").write_text(text)
    context = chromium.new_context(viewport={"width": width_px, "height": 900}, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{tmp_path / 'report.html'}")
    page.wait_for_selector("#latency svg.main-svg")
    for summary in page.locator("details:not([open]) > summary").all()[::-1]:
        summary.click()
    page.wait_for_timeout(500)  # plotly draws anew a moment after the window's size is said to have changed
    assert said == []
    assert [url for url in asked if not url.startswith("data:image/")] == [f"file://{tmp_path / 'report.html'}"]
    for name in ("latency", "curves-0-0", "curves-1-0", "curves-1-1", "alike-0-0", "alike-1-0"):
        svg = page.locator(f"#{name} svg.main-svg").first.bounding_box()
        around = page.locator("section").first.bounding_box()
        assert 0.85 * around["width"] < svg["width"] < around["width"], name  # those that were folded away, too
    for box in page.locator(".picture[role=img]").all():
        size = box.bounding_box()
        assert size["width"] > 50 and size["height"] == pytest.approx(size["width"], abs=1)  # a pixel of rounding
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px  # nothing sticks out
    context.close()
