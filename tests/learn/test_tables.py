"""The proof on tables of other hands (experiments/learned/tables.py), run on small made-up tables."""

import csv
import importlib
import itertools
import json
import math
import os
import pathlib
import sys

import numpy as np
import pytest


@pytest.fixture
def program(checkout, monkeypatch):
    """The experiment's program."""
    monkeypatch.syspath_prepend(checkout / "experiments" / "learned")
    return importlib.import_module("tables")


@pytest.fixture
def files(program):
    return importlib.import_module("table_files")


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path, files):
    """Five made-up tables in the columns of the real ones: what training gave is a line in their genes and noise."""
    rng, folder = np.random.default_rng(0), tmp_path / "truth"
    folder.mkdir()
    rows = []
    for widths in itertools.product((8, 24, 40, 64), repeat=5):
        ln = np.log(widths)
        counts = {"params": int(sum(widths) ** 2), "macs": int(1e6 * np.exp(ln @ [0.6, 0.4, 0.2, 0.1, 0.1]))}
        acc = 80 + ln @ [0.2, 0.5, 1.0, 1.5, 2.0] + 0.2 * rng.standard_normal()
        rows.append({**{f"w{place}": width for place, width in enumerate(widths, 1)}, **counts, "acc": acc})
    write(folder / "nats_sss_cifar10.csv", rows)
    drawn = [rows[place] for place in rng.choice(len(rows), 300, replace=False)]
    names = [f"w{place}" for place in range(1, 6)]
    errors = [{**{name: row[name] for name in names}, "top1_error": 150 - row["acc"]} for row in drawn]
    write(folder / "nats_sss_imagenet16_subset.csv", errors)
    rows = []
    for digits in itertools.chain(*(itertools.product("1234", repeat=modules) for modules in (4, 5))):
        code = "".join(digits)
        macro = files.macro_of(code)
        truth = -2 * math.log(macro.zen) + math.log(macro.activations) + 0.1 * rng.standard_normal()
        row = {"code": code, "blocks": 2 * len(code), "params": int(macro.zen * 1e4), "macs": macro.macs}
        rows.append({**row, **{name.removeprefix("macro_"): truth for name in files.FURTHER}})
        rows[-1] |= {"class_object": 40 + truth, "class_scene": 50 + truth}
    write(folder / "tnb101_macro.csv", rows)
    rows = []
    for _ in range(200):
        wide, deep = rng.choice([0.25, 0.5, 1.0]), rng.choice([0.5, 1.0])
        row = {"channel_multiplier": wide, "depth_multiplier": deep}
        for stage, width in enumerate((16, 24, 32, 64, 96, 160, 320)):
            blocks = rng.integers(1, 5) if 1 < stage < 6 else 1
            row |= {f"r{stage}": blocks, f"k{stage}": 3, f"e{stage}": 6 if stage else "", f"c{stage}": width}
        error = 0.06 - 0.01 * math.log(wide) + 0.001 * rng.standard_normal()
        rows.append({**row, "partial_error": error, "onnx_latency_ms": 2 * rng.uniform(0.9, 1.1)})
    write(folder / "archai_landmarks.csv", rows)
    rows = []
    for _ in range(32):
        widths, depths = rng.integers(16, 400, 4), rng.integers(1, 9, 4)
        counts = {"params": int(1e4 * widths.sum()), "macs": 400_000_000, "acts": int(1e3 * widths[0])}
        text = {"widths": "-".join(map(str, widths)), "depths": "-".join(map(str, depths))}
        rows.append({**text, **counts, "accuracy": 60 + math.log(widths[0])})
    write(folder / "regnetx_400mf_search.csv", rows)
    return folder


def run(program, monkeypatch, folder, *more):
    arguments = ["--data", folder, "--out", folder / "out", "--results", folder, "--draws", 3, *more]
    monkeypatch.setattr(sys, "argv", ["tables.py", *map(str, arguments)])
    program.main()


HEADINGS = ("### Tau", "### Tau by the number of trained", "### Regret")


def test_the_whole_proof_is_written_and_kept(program, folder, monkeypatch, capsys):
    prose = "What it is worth.\n"
    (folder / "results.md").write_text("".join(f"{heading}\n\nold\n\n{prose}" for heading in HEADINGS))
    run(program, monkeypatch, folder)
    published = json.loads((folder / "tables.json").read_text())
    assert published["made_by"]["seed"] == 0 and published["settings"]["draws"] == 3
    at = published["pieces"]["sss_cifar10"]["12"]
    assert at["ways"]["learned"]["tau"]["mean"] > 0.6 and at["draws"] == 3
    assert {"learned", "random", "chance", "S", "parameters"} < set(at["ways"])
    for name, nums in published["pieces"].items():
        for num, piece in nums.items():
            assert set(piece.get("ways", {"learned": 0})) >= {"learned"}, (name, num)
    text = (folder / "results.md").read_text()
    assert text.count(prose) == 3 and "old" not in text and "| sss_cifar10 |" in text
    assert "Kendall" in (folder / "out" / "tables.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.json")}
    assert len(before) == 32
    capsys.readouterr()
    (folder / "out" / "macro_scene-16.json").unlink()
    run(program, monkeypatch, folder)  # goes on where it stopped, with the same figures
    after = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.json")}
    assert [path.stem for path in before if after[path] != before[path]] == ["macro_scene-16"]
    assert json.loads((folder / "tables.json").read_text())["pieces"] == published["pieces"]
    assert capsys.readouterr().out.count("minutes left") == 1


def test_a_part_is_printed_and_no_result(program, folder, monkeypatch, capsys):
    run(program, monkeypatch, folder, "--tables", "regnetx", "--num", "8", "12")
    assert "| regnetx |" in capsys.readouterr().out and not (folder / "tables.json").exists()
    run(program, monkeypatch, folder, "--tables", "regnetx", "--num", "8", "12", "--seed", "1")
    assert capsys.readouterr().out.count("minutes left") == 2  # of another seed


@pytest.mark.slow
def test_what_was_found_afterwards_is_kept_beside_it(program, folder, monkeypatch, capsys):
    afterwards = importlib.import_module("tables_afterwards")
    (folder / "results.md").write_text("### Found afterwards\n\n|\n\nIt is.\n\n#### At K = 12\n\n|\n\nProse.\n")
    monkeypatch.setattr(afterwards, "NUMS", (12,))
    run(afterwards, monkeypatch, folder)
    pieces = json.loads((folder / "tables_afterwards.json").read_text())["pieces"]
    assert set(pieces) == {*program.TABLES, *afterwards.FURTHER}
    assert all(set(ways) == set(afterwards.WAYS) for ways in pieces.values())
    text = (folder / "results.md").read_text()
    assert "| macro_jigsaw | medoids alone |" in text and "| 5 further | as frozen |" in text and "Prose." in text
    # The frozen way is the same choice, beside the same random ones, as in the proof itself.
    run(program, monkeypatch, folder, "--tables", "sss_cifar10", "--num", "12")
    kept = json.loads((folder / "out" / "sss_cifar10-12.json").read_text())["piece"]
    assert pieces["sss_cifar10"]["as frozen"]["12"]["less_random"] == afterwards.rounded(kept["less_random"])


# --- groups


def test_groups_are_of_equal_cost_and_of_the_size_that_was_fixed(program, folder):
    for name in program.TABLES:
        table = program.load(name, folder)
        for num in program.NUMS:
            for rows, first in program.groups_of(table, num, draws=5, seed=0, name=name):
                assert len(set(rows.tolist())) == len(rows) <= max(50, 32 if table.window is None else 0)
                if table.window is None:
                    assert len(rows) == 32 and 0 <= first < 32
                    continue
                assert first is None and len(rows) >= (50 if table.nearest else num + program.LEAST_LEFT)
                apart = np.log(table.cost_N[rows].max() / table.cost_N[rows].min())
                assert apart <= 2 * math.log1p((program.REACH if table.nearest else 1) * table.window) + 1e-9
        if name.startswith("macro"):  # 50 within the window: the same groups for every K
            groups = [program.groups_of(table, num, draws=4, seed=0, name=name) for num in (8, 24)]
            assert all((a[0] == b[0]).all() for a, b in zip(*groups, strict=True))


# --- figures of one group


def test_figures_of_an_order_by_hand(program):
    truth_N, predicted_N = np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([1.0, 5.0, 5.0, 0.0, -1.0])
    figures = program.judged(predicted_N, truth_N, [0], 1, np.random.default_rng(0))
    assert figures["tau"] == pytest.approx(5 / math.sqrt(5 * 6))  # of rows 1 to 4, two of them tied
    assert figures["regret"] == pytest.approx(5 - 3.5) and figures["with_more"] == 0
    assert figures["regret_std"] == pytest.approx(1.5 / truth_N.std())


@pytest.mark.parametrize("num", [1, 3, 7])
def test_the_best_of_random_ones_is_the_mean_over_all_choices(num, program):
    truth_N = np.random.default_rng(0).standard_normal(7)
    by_hand = np.mean([max(chosen) for chosen in itertools.combinations(truth_N, num)])
    assert program.best_of_random(truth_N, num) == pytest.approx(by_hand)


def test_a_draw_learns_the_sign_and_knows_what_a_wrong_prior_costs(program, folder):
    table = program.load("sss_cifar10", folder)
    ((rows, first),) = program.groups_of(table, 12, draws=1, seed=0, name="x")
    right = program.one_draw(table, rows, 12, np.random.default_rng(0), first=first)
    turned = table._replace(truth_N=-table.truth_N)
    wrong = program.one_draw(turned, rows, 12, np.random.default_rng(0), first=first)
    assert wrong["S"]["tau"] == -right["S"]["tau"] < -0.3
    assert min(draw["learned"]["tau"] for draw in (right, wrong)) > 0.6
    assert right["random"]["tau"] == pytest.approx(wrong["random"]["tau"], abs=1e-9)


def test_better_than_another_is_by_draw_and_in_the_sense_of_the_figure(program):
    draws = [{"learned": {"tau": 0.5, "regret": 1.0}, "random": {"tau": 0.4, "regret": 2.0}}] * 3
    draws.append({"learned": {"tau": 0.1, "regret": math.nan}, "random": {"tau": 0.4, "regret": 2.0}})
    better = program.less(draws, "random", ("tau", "regret"))
    assert better["tau"]["better"] == pytest.approx(0.0) and better["tau"]["worse_share"] == 0.25
    assert better["regret"]["better"] == better["regret"]["low"] == 1.0


# --- what is known of a network


def test_macs_of_macro_networks_are_those_of_torch(files):
    torch = pytest.importorskip("torch")
    macs = []

    def conv(in_channels, out_channels, kernel, stride):
        layer = torch.nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        layer.register_forward_hook(lambda *called: macs.append(called[2].numel() * layer.weight[0].numel()))
        return layer

    with torch.device("meta"):
        image = torch.nn.Sequential(conv(3, 32, 3, 2), conv(32, 64, 3, 2))(torch.empty(1, 3, 64, 64))
        channels = 64
        for digit in map(int, "1432"):
            width, stride = channels * (2 if digit in (2, 4) else 1), 2 if digit in (3, 4) else 1
            shortcut = conv(channels, width, 1, stride)(image) if digit > 1 else image
            image = conv(width, width, 3, 1)(conv(channels, width, 3, stride)(image)) + shortcut
            image = conv(width, width, 3, 1)(conv(width, width, 3, 1)(image)) + image
            channels = width
    macro = files.macro_of("1432", image_px=64)
    assert macro.macs == sum(macs) and macro.widths == (64, 128, 128, 256)


def test_parameters_of_a_mobile_network_are_those_of_torchvision(files):
    """MobileNetV2 of 1.0, 1000 outputs: 3,504,872 parameters, as torchvision publishes."""
    plain = zip((16, 24, 32, 64, 96, 160, 320), (1, 2, 3, 4, 3, 3, 1), strict=True)
    row = {"channel_multiplier": "1.0", "depth_multiplier": "1.0"}
    for stage, (width, depth) in enumerate(plain):
        row |= {f"c{stage}": width, f"r{stage}": depth, f"k{stage}": "3", f"e{stage}": "6" if stage else ""}
    assert files.mobile_of(row, outputs=1000).params == 3_504_872
    narrow = files.mobile_of({**row, "channel_multiplier": "0.25", "depth_multiplier": "0.75"})
    assert narrow.widths == (16, 8, 8, 16, 24, 40, 80) and narrow.depths == (1, 2, 3, 3, 3, 3, 1)


@pytest.mark.data
@pytest.mark.skipif("ZENNAS_DATA" not in os.environ, reason="ZENNAS_DATA does not name the folder of real data")
def test_the_published_macs_are_ours(files):
    folder = pathlib.Path(os.environ["ZENNAS_DATA"], "nas", "truth")
    rows = files.read(folder / "tnb101_macro.csv")
    assert [files.macro_of(row["code"]).macs for row in rows] == [int(row["macs"]) for row in rows]
