"""The pages that people read: their links lead somewhere, their commands exist, their figures are those that were
measured, and what packaging says of files is true.
"""

import ast
import importlib
import itertools
import json
import pathlib
import re
import tomllib

import pytest

import zennas
from zennas.__main__ import COMMANDS
from zennas.records import EXPERIMENTS, SPACES, names
from zennas.score.scores import SCORES

ROOT = pathlib.Path(__file__).parent.parent
COMMUNITY = ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE"]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "zennas").rglob("*.md")),
    *sorted(ROOT.glob("experiments/**/*.md")),
    *sorted(ROOT.glob("tests/*.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
README_BYTES, PAGE_BYTES = 12_000, 16_000

FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def anchor(heading):
    """What a link behind # calls a heading, as GitHub makes it of its text.

    >>> anchor("Right at equal latency")
    'right-at-equal-latency'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def exists(path):
    """Whether a path from the root exists; a word in capitals, as in latency/tracks/NAME.yaml, stands for any name."""
    pattern = re.sub(r"\b[A-Z]{4,}\b", "*", path.rstrip("/"))
    return (ROOT / path).exists() or ("*" in pattern and any(ROOT.glob(pattern)))


# --- links and paths


@each_page
def test_links_lead_somewhere(page):
    text, dead = FENCE.sub("", page.read_text()), []
    for link in LINK.findall(text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            dead.append(link)
        elif heading:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", target.read_text()), re.MULTILINE)
            if heading not in map(anchor, headings):
                dead.append(link)
    assert dead == []


@each_page
def test_paths_in_a_page_exist(page):
    """`zennas/score/zen.py`, `latency/tracks/NAME.yaml`: whatever begins with a folder of the project."""
    if page.name == "CHANGELOG.md":  # tells of files that are gone, too
        return
    folders = "zennas|tests|experiments|search_spaces|latency"
    paths = [code for code in CODE.findall(page.read_text()) if re.fullmatch(rf"({folders})/[\w./*-]*", code)]
    assert [path for path in paths if not exists(path)] == []


# --- size


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


@each_page
def test_pages_are_short(page):
    if page.is_relative_to(ROOT / "zennas"):
        assert len(page.read_bytes()) <= PAGE_BYTES


# --- plain English

# Turns of phrase that are hard on readers with another first language; each has a plain form.
HARD = re.compile(r"\bsays? of\b|\bha(?:s|ve) it\b|\b(?:is|are|was|were) said\b|\bmay not be\b|\bwhoever\b|\bthereof\b")


@each_page
def test_pages_are_in_plain_english(page):
    if page.is_relative_to(ROOT / "experiments") and page.name != "README.md":
        return
    prose = FENCE.sub("", page.read_text())
    assert [line for line in prose.splitlines() if HARD.search(line)] == []


# --- commands


def commands_in(text):
    r"""(room, the words behind it) of every command of zennas in the code of a page.

    >>> commands_in("`zennas run x --data D`\n```\necho y | python -m zennas.score --csv > z   # --no\nmake test\n```")
    [('run', 'x --data D'), ('score', '--csv')]
    """
    fenced = FENCE.findall(text)
    spans = CODE.findall(FENCE.sub("", text))
    lines = itertools.chain(spans, *(block.replace("\\\n", " ").splitlines() for block in fenced))
    said = re.compile(r"(?:^|[|\s])(?:python -m zennas\.|zennas )([a-z_]+)(?![\w.])([^|>#]*)")
    found = (said.search(line) for line in lines if not line.startswith("  "))
    return [(match[1], match[2].strip()) for match in found if match]


@pytest.fixture(scope="module")
def options():
    """{room: its options}, from its --help."""
    import contextlib
    import io

    known = {}
    for room in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
            importlib.import_module(f"zennas.{room}.__main__").main(["--help"])
        known[room] = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", printed.getvalue()))
    return known


@each_page
def test_commands_in_a_page_exist(page, options):
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        return
    for room, words in commands_in(text):
        if (room, words) == ("schemas", "--write"):  # of contributors, and no command of `zennas`
            continue
        assert room in COMMANDS, (room, words)
        unknown = [word for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", words) if word not in options[room]]
        assert not unknown, (room, words)
        for option, known in (("--track", names(EXPERIMENTS)), ("--space", names(SPACES)), ("--score", list(SCORES))):
            for value in re.findall(rf"{option} ([a-z][\w,-]*)(?!\S)", words):
                assert set(value.split(",")) <= set(known), (room, words)


@each_page
def test_python_in_a_page_calls_what_exists(page):
    """zennas.ROOM(option=...) in a block of Python: the command and its options exist."""
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
        for call in calls:
            package, _, room = ast.unparse(call.func).partition(".")
            if package == "zennas":
                declared = importlib.import_module(f"zennas.{room}.options").Options.model_fields
                assert {keyword.arg for keyword in call.keywords} <= {*declared, "progress"}, ast.unparse(call)


@pytest.mark.parametrize("room", COMMANDS)
def test_options_on_the_page_of_a_room_are_options(room, options):
    """`--option` alone, in the prose of a room's page: of this command or of another."""
    every = set.union(*options.values())
    spans = [code for code in CODE.findall(FENCE.sub("", read(f"zennas/{room}/README.md"))) if code.startswith("--")]
    others = {"--num-cpus"}  # of `ray start`
    assert [span for span in spans if re.match(r"--[a-z-]+", span)[0] not in every | others] == []


def test_readme_names_every_command_and_links_its_page():
    text = read("README.md")
    for room in COMMANDS:
        assert f"`zennas {room} " in text and f"(zennas/{room}/README.md)" in text, room


def test_make_targets_in_the_pages_exist():
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= targets, page
    commands = re.findall(r"^make (\w+)", read("README.md"), re.MULTILINE)
    assert commands == ["search", "test"]  # the two commands, and no third


# --- figures


def winners():
    return json.loads(read("experiments/webface-sfr/winners.json"))


def test_the_printed_run_is_the_published_one():
    """The page of the search shows what experiments/webface-sfr printed, the README a part of it."""
    printed = read("zennas/search/README.md").split("<!-- run: experiments/webface-sfr -->")[1].split("```")[1]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    shown = {row[0]: row for row in rows}
    for winner in winners():
        latency = winner["latency"]
        share = latency["measured_ms"] / latency["budget_ms"]
        assert shown[winner["name"]] == [
            winner["name"],
            winner["band"],
            f"{winner['score_mean']:.2f} ±{winner['score_std']:.2f}",
            f"{winner['gap']:.2f} ({winner['gap_pct']:.2f} %)",
            f"{latency['measured_ms']:.2f}",
            f"{latency['spread_pct']:.1f} %",
            f"{share:.1%}".replace("%", " %"),
            f"{winner['macs'] / 1e9:.2f}",
            f"{winner['params'] / 1e6:.1f}",
            str(winner["num_blocks"]),
            f"{winner['megabytes']:.0f}",
        ]
        plain = winner["candidate"]
        stages = "".join(f"-{width}x{depth}" for width, depth in zip(plain["widths"], plain["depths"], strict=True))
        assert f"{winner['name']}  {plain['block']}-{plain['stem']}{stages}\n" in printed
    assert f"budget  {winners()[0]['latency']['budget_ms']:.2f} ms here" in printed
    report = read("experiments/webface-sfr/report.html")
    for name, row in shown.items():  # the baselines: the report has them
        assert name in report and row[2].split(" ±")[0] in report and row[4] in report, row
    table = read("README.md").split("<!-- of experiments/webface-sfr/winners.json -->")[1].split("\n\n")[0]
    for line in table.strip().splitlines()[2:]:
        name, score, ms, gmacs, params = (cell.strip() for cell in line.strip("|").split("|"))
        name, _, band = name.partition(" (")
        row = shown[name]
        assert not band or band.rstrip(")") == row[1]
        assert [score.replace("± ", "±"), ms, gmacs, params] == [row[2], row[4], row[7], row[8]]


@each_page
def test_tables_that_name_their_source_are_in_it(page):
    for source, table in re.findall(r"<!-- of (\S+\.md) -->\n((?:\|.*\n)+)", page.read_text()):
        rows = set(read(source).splitlines())
        assert [line for line in table.splitlines() if line not in rows] == []


def benchmark(name):
    return json.loads(read(f"experiments/benchmarks/{name}.json"))


def row(table, **wanted):
    """The row that has these values."""
    (chosen,) = [row for row in table if all(row.get(key) == value for key, value in wanted.items())]
    return chosen


LOOP_ROWS = (1000, 3000, 10_000)


def figures():
    """(page, the words in it that are a figure) with the figure from its file."""
    index = "experiments/README.md"
    first = winners()[0]
    yield index, f"Zen-Score {first['score_mean']:.2f} at {first['latency']['measured_ms']:.2f} ms"
    yield index, f"{first['gap_pct']:.2f} % below the proven optimum"
    prediction = benchmark("latency_prediction")
    ours = prediction["table_corrected_x_0.9806_by_the_first_7_on_the_others"]
    plain = prediction["baseline_macs_alone_on_the_others"]
    for page in (index, "zennas/latency/README.md"):
        yield page, f"{ours['mean_abs_pct']:.1f} % on average"
        yield page, f"{ours['max_abs_pct']:.1f} % at most"
        yield page, f"{plain['mean_abs_pct']:.1f} % and {plain['max_abs_pct']:.1f} %"
    seeing = [prediction[name]["mean_abs_pct"] for name in ("table_as_it_is", "table_of_noise")]
    yield "zennas/latency/README.md", "off by {:.1f} %, a table of noise by {:.1f} %".format(*seeing)
    yield index, "off by {} %, always too slow by about as much, the table of noise by {} %".format(*seeing)
    yield index, f"{prediction['table_of_noise_corrected_on_the_others']['mean_abs_pct']} %"
    branches, page = benchmark("branch_latency"), "zennas/latency/README.md"
    at_batch, noise = branches["corrected_at_batch"], branches["noise"]
    one, sixteen = (f"{at_batch[batch]['mean_abs_pct']:.1f}" for batch in ("1", "16"))
    yield page, f"{one} % on average at batch 1 and by {sixteen} at 16"
    yield page, f"up to {noise['max_abs_pct']:.0f} % slower, {noise['mean_abs_pct']:.1f} % on average"
    yield index, f"corrected {one} % at batch 1, {sixteen} at 16"
    yield index, f"{noise['mean_abs_pct']:.1f} % off on average and {noise['max_abs_pct']:.0f} % at most"
    alone = branches["baseline_macs_alone_on_the_others"]["mean_abs_pct"]
    for where in (index, page):
        yield where, f"{alone:.1f} %"
    time = benchmark("wall_time")
    share = {name.split(" ")[0]: f"{value - 0.001:.1f} %" for name, value in time["share_pct"].items()}
    yield index, f"finals {share['finals']}, measuring {share['measuring']}, scoring {share['scoring']}"
    yield index, f"of {time['total_s']:.0f} s"
    forecast = benchmark("forecast")
    assert (forecast["within_20_pct"], forecast["of"]) == (9, 10)
    yield index, f"{forecast['mean_abs_off_pct']} % off on average, {forecast['max_abs_off_pct']} % at most"
    first, second = (row(forecast["runs"], search="webface-sfr", run=turn)["taken_s"] for turn in ("first", "second"))
    yield index, f"a first `make search` took {first:.0f} s, a second one {second:.0f} s"
    for seconds in (first, second):
        yield "zennas/search/README.md", f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
    setting = row(benchmark("score_settings")["settings"], image_px=32, batch=2)
    yield index, f"tau {setting['kendall_tau']:.3f}, {setting['times_faster_than_reference']:.0f} times faster"
    speeds = [f"{setting['times_faster_as_searched']:.3g}" for setting in benchmark("score_speed")["settings"]]
    for page in (index, "README.md", "zennas/score/README.md"):
        for speed in speeds:
            yield page, speed
    same = [setting["times_faster_at_the_same"] for setting in benchmark("score_speed")["settings"]]
    yield index, "{}, {} and {} times as fast".format(*same)
    funnel = benchmark("funnel")
    yield index, f"{funnel['families']['per_second']:.0f} a second"
    more = f"{funnel['families']['per_second'] / funnel['alone']['per_second']:.0f} times"
    yield "zennas/score/README.md", f"{more} as fast again"
    yield "README.md", f"{more} that in families"
    yield index, f"{funnel['families']['times_the_reference'] + 1:,.0f}"[:-1] + "0 times the reference"
    yield index, f"One by one, our score does {funnel['alone']['per_second']:.1f} candidates"
    load = benchmark("load")["long"]
    megabytes = load["driver_mb_by_tenths"]
    yield index, f"{megabytes[0]:,.0f} MB in the first tenth of 100,000 candidates, {megabytes[-1]:,.0f} in the last"
    head = row(benchmark("partial_fc")["rows"], kind="ours", identities=2_000_000)
    for page in (index, "zennas/tasks/face/README.md"):
        yield page, f"{head['ratio']:.2f} times the"
    rows = benchmark("training_throughput")["rows"]
    yield index, f"{rows[0]['ours, all centres, ratio']:.1f} times at 10,000 identities"
    yield index, f"{rows[-1]['ours, 0.1 of them, ratio']:.1f} at 500,000 with a tenth sampled"
    pairs = row(benchmark("all_to_all")["rows"], rows=200_000)
    for page in (index, "zennas/metrics/README.md"):
        yield page, f"{pairs['ours_s']:.1f} s"
        yield page, f"{pairs['ratio_to_float32']:.2f} times the"
    loops = benchmark("plain_loops")
    times = [row(loops["all_pairs"], rows=rows, fars="default")["times_the_loop"] for rows in LOOP_ROWS]
    for page in (index, "zennas/metrics/README.md"):
        yield page, "{:.2f}, {:.2f} and {:.2f} times the better".format(*times)
        yield page, f"at most {max(pairs['times_the_loop'] for pairs in loops['all_pairs']):.2f}"
    yield index, f"given pairs: {row(loops['given_pairs'], pairs=2_000_000)['times_sklearn']:.2f} times scikit-learn"
    ways = {way["way"]: way for way in benchmark("decoding")["ways"]}
    for page in (index, "zennas/data/README.md"):
        yield page, f"{ways['opencv']['images_per_s']:,}"[:-2] + "00 images per second and core"
        yield page, f"{ways['opencv']['times_pillow']:.1f} times Pillow"
    yield index, f"({ways['opencv, low_resolution on every image']['times_pillow']:.2f})"
    again = benchmark("reranking")
    whole, small = (
        row(again["rows"], gallery=19_732),
        {one["way"]: one for one in again["rows"] if one["gallery"] == 3_400},
    )
    yield index, f"{whole['peak_gb']:.1f} GB and {whole['cpu_s']:.1f} s of one core for {whole['queries']:,} queries"
    yield index, f"whole matrices would take {again['plain_at_whole_size_gb']:.1f} GB"
    yield index, f"formula takes {small['plain']['cpu_s']} s where ours takes {small['ours']['cpu_s']}"
    assert again["largest_difference"] < 2.3e-7 and whole["peak_gb"] < 2
    others = benchmark("independent_reid")
    reranked = others["reranking_of_the_slice"]
    in_float32, in_float64 = (
        [one for one in reranked["rows"] if one["way"] == way] for way in ("as it is", "in float64")
    )
    assert len({(one["largest_difference"], one["num_off"]) for one in in_float32}) == 1  # both are the same code
    yield index, f"{in_float32[0]['num_off']:,} of"
    most = in_float32[0]["largest_difference"]
    yield index, f"{reranked['num_distances']:,} re-ranked distances, by {most:.3f} at most"
    for page in (index, "zennas/metrics/README.md"):
        yield page, f"4{' x 10^-' if page != index else 'e-'}8"
    assert max(one["largest_difference"] for one in in_float64) < 4e-8
    assert max(task["largest_difference"] for task in others["tasks"].values()) < 3e-7
    raced = json.loads(read("experiments/reid/results.json"))
    at, results = raced["figures"], "experiments/reid/results.md"
    for name, of_row in at["market"]["map"].items():
        seeds = ", ".join(f"{value:.2f}" for value in of_row["by_seed"].values())
        others = [at["market"]["rank_1"], at["market"]["minp"], at["market, mirrored"]["map"], at["pku"]["map"]]
        figures_of_row = " | ".join([seeds, *(f"{other[name]['mean']:.2f}" for other in others)])
        yield results, figures_of_row if len(of_row["by_seed"]) > 1 else f"| `{name}` | {figures_of_row} |"
    means = {name: f"{of_row['mean']:.2f}" for name, of_row in at["market"]["map"].items()}
    for name, other in (("mgn", "single"), ("mgn, teacher", "mgn"), ("single, teacher", "single")):
        yield index, f"{means[name]} against {means[other]}"
    yield index, f"OSNet's shape {means['osnet']} and MobileNetV2's {means['mobilenetv2']} % mAP"
    for goal in raced["goals"].values():
        yield results, f"| {goal['points']:+.2f} |"
    for compared in raced["open"].values():
        told = "**yes**" if compared["outside_the_spread"] else "**no**, within the spread"
        figure, first = (f"{one['points']:+.2f}" for one in (compared, compared["seed_0"]))
        yield results, f"| `{compared['row']}` less `{compared['less']}` | {compared['predicted']} | {figure} |"
        error, error_of_first = (f"{one['standard_error']:.2f}" for one in (compared, compared["seed_0"]))
        yield results, f"| {figure} | {error} | {first} ± {error_of_first} | {told} |"
    of_map = {name: of_row["mean"] for name, of_row in at["market"]["map"].items()}
    hand_made = {name: max(of_map[row] for row in of_map if row.startswith(name)) for name in ("osnet", "mobilenetv2")}
    best, before = max(hand_made.values()), max(of_map[name] for name in hand_made)
    yield results, f"OSNet's, {before:.2f}, and is MobileNetV2's, {best:.2f}: {best - before:.2f} points more"
    gains = [hand_made[name] - of_map[name] for name in hand_made]
    yield results, "OSNet's shape gains {:.2f}, MobileNetV2's {:.2f}".format(*gains)
    apart = [[*at["market"]["map"][name]["by_seed"].values()] for name in ("osnet", "single")]
    yield (
        results,
        "`osnet` lie {:.2f} points apart, those of `single` {:.2f}".format(
            *(max(values) - min(values) for values in apart)
        ),
    )
    rates, taught, longer = (
        f"{one['points']:.2f} ± {one['standard_error']:.2f} points" for one in raced["open"].values()
    )
    yield index, "{:.2f} and {:.2f} % mAP, one training each, still ".format(*hand_made.values()) + f"{rates} behind"
    yield (
        index,
        f"{means['mgn, teacher, 144 epochs']} against {means['mgn, 144 epochs']} % mAP, one training each, +{taught}",
    )
    yield index, f"{means['mgn, 144 epochs']} % mAP, one training, against {means['mgn']}, three: +{longer}"
    more = raced["open"]["144 epochs ahead of 48"]["points"]
    yield "zennas/tasks/reid/README.md", f"144 epochs bring {more:.0f} points more"
    abroad = {name: f"{of_row['mean']:.2f}" for name, of_row in at["pku"]["map"].items()}
    yield results, f"144 epochs have {abroad['mgn, 144 epochs']} against {abroad['mgn']} after 48"
    yield results, f"with a teacher {abroad['mgn, teacher, 144 epochs']} against {abroad['mgn, teacher']}"
    yield results, f"at 0.01 has {abroad['mobilenetv2, learning rate 0.01']} where `single` has {abroad['single']}"
    local = raced["goals"]["triplets on local vectors"]
    yield index, f"{local['points']:.2f} ± {local['standard_error']:.2f} points of mAP"
    yield "zennas/tasks/reid/README.md", f"{local['points']:.1f} points of mAP"
    galleries = {one["vectors"]: one for one in benchmark("gallery")["rows"]}
    of_a_million = galleries[1_000_000]
    took, room = of_a_million["query_ms"], "zennas/gallery/README.md"
    for way, words in (("cells", "ms by cells, "), ("exact", "exactly. Where 64")):
        several = [galleries[num]["query_ms"][way] for num in (10_000, 100_000, 1_000_000)]
        yield index, "{:.1f}, {:.1f} and {:.1f} ".format(*several) + words
    recall = f"{100 * of_a_million['recall_at_10']:.1f} %"
    yield index, f"{of_a_million['times_exact']:.1f} times as fast as exact search, {recall} of the exact ten"
    together = (took["cells together"], took["exact together"])
    yield index, "cells take {:.1f} ms each at a million and exact search {:.1f}".format(*together)
    yield room, "{:.1f} ms each against {:.1f}".format(*together)
    yield room, f"takes {took['cells']:.1f} ms by cells and {took['exact']:.1f}"
    yield room, f"{recall} of the exact ten"
    yield room, f"{of_a_million['index_s'] / 60:.1f} minutes and {of_a_million['index_peak_gb']:.1f} GB of memory"
    yield (
        room,
        f"asking {of_a_million['query_peak_gb']:.1f} GB, the files {sum(of_a_million['disk_gb'].values()):.1f} GB",
    )
    more, fewer = of_a_million["add"], of_a_million["delete"]
    yield (
        room,
        f"{more['vectors']:,} takes {more['seconds']} s, deleting {fewer['vectors']:,} takes {fewer['seconds']:.1f}",
    )
    yield room, f"{took['cells'] / galleries[10_000]['query_ms']['cells']:.0f} times the time of a query"
    cleaned = row(benchmark("cleaning")["rows"], images=1_000_000)
    yield index, f"{cleaned['seconds']:.0f} s of one core, {cleaned['peak_gb']:.1f} GB"
    masked = {way["way"]: way["images_per_s"] for way in benchmark("masks")["ways"]}
    for page in (index, "zennas/mask/README.md"):
        yield page, f"{masked['rendered, landmarks known']:.0f} images"
        yield page, f"{masked['rendered, with landmarks']:.0f}"
    aligned = benchmark("aligning")
    ours, opencv = aligned["ways"]
    yield index, f"{aligned['times_opencv']:.2f} times OpenCV's detector"
    for page in (index, "zennas/align/README.md"):
        yield page, f"{ours['photographs_per_s']:.0f} "
        yield page, f"{100 * aligned['accuracy']['ours']['accuracy']:.2f} "
    yield "zennas/align/README.md", f"{opencv['off_median']:.3f}, {opencv['off_95']:.3f}"
    anchored = json.loads(read("experiments/lfw-anchor/anchor.json"))
    best = row(anchored["variants"], normalise="imagenet", colour="rgb", flip=True)
    for page in (index, "zennas/evaluate/README.md"):
        yield page, f"{100 * best['accuracy']:.2f} ± {100 * best['std']:.2f} %"
        yield page, f"{anchored['alignment']['pairs_with_one']}"
    scaling = read("experiments/cluster/scaling.md")
    yield index, re.search(r"^\| 96 .*\| (\d+) scorers", scaling, re.MULTILINE)[1] + " near 333 ms"
    pairs = json.loads(read("experiments/masks/verification.json"))["pairs"]
    for page in (index, "zennas/mask/README.md"):
        for way in ("unmasked", "one masked, rendered", "both masked, rendered", "one masked, pasted"):
            yield page, f"{100 * pairs[way]['accuracy']:.2f}"
    truth = json.loads(read("experiments/equal-latency/truth.json"))["found"]["tau"]
    for name in ("params", "equal_cost", "zen"):
        for page in (index, "zennas/score/README.md"):
            yield page, f"{truth[name]['AUC'][0]:.2f}"
    tables = json.loads(read("experiments/learned/tables.json"))["pieces"]
    ways = {name: at["12"]["ways"] for name, at in tables.items()}
    macro = ("macro_object", "macro_scene")
    learned, plain = ([f"{ways[name][way]['tau']['mean']:.2f}" for name in macro] for way in ("learned", "S"))
    sizes = f"tau {ways['sss_cifar10']['learned']['tau']['mean']:.2f} on NATS-Bench size"
    later = json.loads(read("experiments/learned/tables_afterwards.json"))["pieces"].values()
    ahead = [ways["medoids alone"]["12"]["less_random"]["tau"]["better"] for ways in later]
    yield index, f"{min(ahead):.3f} to {max(ahead):.3f} of tau better than random ones on {len(ahead)} readings"
    yield index, f"{sizes}, {' and '.join(learned)} on TransNAS-Bench macro, where S has {' and '.join(plain)}"


@pytest.mark.parametrize(("page", "figure"), sorted(set(figures())))
def test_figures_are_those_that_were_measured(page, figure):
    assert figure in " ".join(read(page).split())


# Rows of a page's table that stand, word for word, in the results of an experiment.
COPIED = {
    "zennas/tasks/face/README.md": "experiments/lfw-smoke/results.md",
}


@pytest.mark.parametrize("page", COPIED)
def test_a_table_copied_from_results_is_the_same(page):
    rows = [line for line in read(COPIED[page]).splitlines() if line.startswith("|")]
    assert rows and [line for line in rows if line not in read(page)] == []


def test_every_experiment_is_in_the_index():
    text = read("experiments/README.md")
    folders = [path.name for path in (ROOT / "experiments").iterdir() if path.is_dir() and path.name != "benchmarks"]
    folders = [name for name in folders if any((ROOT / "experiments" / name).glob("*.*"))]
    assert [name for name in folders if f"({name}/" not in text and f"`{name}`" not in text] == []
    results = [path.name for path in (ROOT / "experiments" / "benchmarks").glob("*.json")]
    assert [name for name in results if f"(benchmarks/{name})" not in text] == []


# --- CONTRIBUTING.md

CHANGES = [
    "a space",
    "a family",
    "a task",
    "a block",
    "a score",
    "a loss over class centres",
    "another kind of loss",
    "a latency backend",
    "a protocol of evaluation",
    "a plot of a report",
]


def changes():
    """{what to add: the places to touch} of the table in CONTRIBUTING.md."""
    section = read("CONTRIBUTING.md").split("## What to touch")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    return {
        what.strip(): re.findall(r"`((?:zennas|search_spaces|latency|experiments)/[^`]+)`", where)
        for what, where in rows
    }


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_touches_at_most_two_places_and_they_exist(change):
    places = changes()[change]
    assert 1 <= len(places) <= 2, places
    assert [place for place in places if not exists(place)] == []


def test_the_tables_that_contributing_names_are_there():
    """`BLOCKS` of `zennas/space/blocks.py`: a name in capitals behind a file is defined in it."""
    section = read("CONTRIBUTING.md").split("## What to touch")[1].split("\n## ")[0]
    named = re.findall(r"`([A-Z_]{4,})` of `(zennas/[\w/]+\.py)`", section)
    assert len(named) >= 5
    for table, path in named:
        assert re.search(rf"^{table}\b.*=", read(path), re.MULTILINE), (table, path)


# --- packaging


def project():
    return tomllib.loads(read("pyproject.toml"))


def test_the_version_is_the_same_everywhere():
    assert re.search(r"^version: (.*)$", read("CITATION.cff"), re.MULTILINE)[1].strip("\"'") == zennas.__version__
    assert re.search(r"^## (\d+\.\d+\.\d+)", read("CHANGELOG.md"), re.MULTILINE)[1] == zennas.__version__


def test_the_sdist_carries_what_stands_at_the_top():
    listed = project()["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert [name for name in listed if not (ROOT / name).exists()] == []
    assert set(COMMUNITY) | {"README.md", "Makefile", "constraints.txt", "tests"} <= set(listed)


# Names under which a distribution is imported, where it is not its own with - for _ and without an extra.
MODULES = {
    "pyyaml": "yaml",
    "faiss-cpu": "faiss",
    "scikit-learn": "sklearn",
    "opencv-python-headless": "cv2",
    "onnxruntime-gpu": "onnxruntime",
    "grpcio": "grpc",
    "pillow": "PIL",
    "tensorboard": "torch.utils.tensorboard",
}


def dependency_comments(group="dependencies"):
    """(distribution, the comment beside it or above it) of a list of dependencies in pyproject.toml."""
    block = re.search(rf"^{group} = \[\n?(.*?)^\]", read("pyproject.toml"), re.DOTALL | re.MULTILINE)[1]
    above = ""
    for line in block.splitlines():
        name, comment = re.match(r'\s*(?:"([\w-]+)[^"]*",)?\s*(?:#\s*(.*))?$', line).groups()
        if name is None:
            above += f" {comment}"
            continue
        yield name, comment or above
        if comment:
            above = ""


def places_in(comment):
    """The paths that a comment names, from zennas/ or from the root; an AssertionError where one does not exist."""
    for place in re.findall(r"(?<![\w./])((?:[\w-]+/)*(?:[\w-]+\.py|[\w-]+/|Makefile))(?=[\s,:;.)]|$)", comment):
        path = next((root / place for root in (ROOT / "zennas", ROOT) if (root / place).exists()), None)
        assert path is not None, place
        yield path


@pytest.mark.parametrize(("name", "comment"), list(dependency_comments()))
def test_pyproject_says_which_file_needs_a_dependency(name, comment):
    """Each comment names files or folders, they exist, and they import what it stands beside."""
    module = MODULES.get(name, name.replace("-", "_"))
    if comment.startswith("everywhere"):
        return
    places = list(places_in(comment))
    assert places, comment
    for path in places:
        files = path.rglob("*.py") if path.is_dir() else [path]
        imports = re.compile(rf"^\s*(?:import|from) {re.escape(module)}\b|{re.escape(module)}\.", re.MULTILINE)
        assert any(imports.search(file.read_text(errors="replace")) for file in files), f"{path}: imports no {module}"


@pytest.mark.parametrize("group", ["dependencies", "dev"])
def test_no_dependency_stands_twice(group):
    listed = [name for name, _ in dependency_comments(group)]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(("name", "comment"), list(dependency_comments("dev")))
def test_pyproject_says_what_a_development_dependency_is_for(name, comment):
    assert list(places_in(comment)), (name, comment)
