"""The command as a user meets it: whole searches, by subprocess, with the real Ray, SQLite, ONNX Runtime and
Chromium."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import numpy as np
import onnxruntime
import optuna
import pandas
import pytest

from tests.search.conftest import CANDIDATES, write_tiny
from zennas.checker import checker_problems
from zennas.export.onnx_file import metadata_of
from zennas.search.ledger import open_ledger
from zennas.search.store import Store
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.space import effectiveness
from zennas.track import load_experiment

pytestmark = pytest.mark.slow

LONG = 160
# Long enough to be stopped in the middle: a candidate takes about 30 ms of a processor instead of 2.
SLOW_SCORE = {"image_px": 32, "batch": 32, "repeats": 4, "final_repeats": 4}


def rows_of(out):
    return pandas.read_parquet(out / "scored.parquet")


def lines_of(out):
    return (out / "measured.jsonl").read_text().splitlines()


def winners_of(out):
    return json.loads((out / "winners.json").read_text())


def state_of(out):
    return json.loads((out / "run.json").read_text())


def refused(ended):
    """The one line on standard error of a command that ended with exit code 2."""
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.code == 2 and len(errors) == 1 and "Traceback" not in ended.said, ended.said
    return errors[0]


def assert_complete(out, *, num_candidates):
    """A run that ended well, whatever happened on the way: nothing twice, nothing lost, nothing left lying about."""
    rows, winners = rows_of(out), winners_of(out)
    assert len(rows) >= num_candidates and rows["key"].is_unique
    assert winners and all(entry["key"] in set(rows["key"]) for entry in winners)
    assert state_of(out)["finished"]
    study = optuna.load_study(study_name=out.name, storage=f"sqlite:///{out / 'study.db'}")
    keys = [trial.user_attrs["key"] for trial in study.trials]
    assert len(keys) == len(set(keys)) and not [trial for trial in study.trials if not trial.state.is_finished()]
    expected = {
        "winners.json",
        "report.html",
        "study.db",
        "search.log",
        "run.json",
        "scored.parquet",
        "measured.jsonl",
        "artifacts",
    }
    expected |= {f"{entry['name']}{suffix}" for entry in winners for suffix in (".yaml", ".onnx")}
    assert {path.name for path in out.iterdir()} == expected


# --- a whole run ------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_does_and_what_it_found(finished):
    for word in (
        "track  tiny: a track for the tests",
        "space  tiny: block ir_se, 5 genes",
        "backend onnxruntime-cpu",
        "value 2 of 10 runs",
        f"{CANDIDATES} candidates, seed 0",
        f"budget  {finished.budget_ms:.2f} ms here: --budget-ms",
        "searched: screened",
        "winner-1",
        "IR-SE-small",
        "IR [2,3]",
        "A Zen-Score is not an accuracy",
        "optuna-dashboard sqlite:///",
        "report.html",
        "zennas.score",
    ):
        assert word in finished.ended.stdout, finished.ended.said
    assert "Traceback" not in finished.ended.said and finished.ended.stderr.strip() == ""
    assert_complete(finished.out, num_candidates=CANDIDATES)


def test_winners_json_is_what_the_issue_says(finished):
    _, track, space = load_experiment(str(finished.experiment))
    winners = winners_of(finished.out)
    assert [entry["name"] for entry in winners] == [f"winner-{rank}" for rank in range(1, len(winners) + 1)]
    for entry in winners:
        candidate, latency = Candidate(**entry["candidate"]), entry["latency"]
        spent = cost(candidate, space.shape)
        assert space.contains(candidate) and entry["key"] == candidate.key
        assert (entry["params"], entry["macs"], entry["num_blocks"]) == (spent.params, spent.macs, candidate.num_blocks)
        assert math.isfinite(entry["score_mean"]) and entry["score_std"] >= 0
        assert latency["measured_ms"] == sorted(latency["raw_ms"])[track.protocol.kth_fastest - 1] <= finished.budget_ms
        assert (
            latency["budget_ms"] == finished.budget_ms and latency["stand_in"] is None and latency["predicted_ms"] > 0
        )
        assert len(latency["raw_ms"]) == track.protocol.num_runs and latency["protocol"] == track.protocol.model_dump()
        assert entry["onnx"] == f"{entry['name']}.onnx" and (finished.out / entry["onnx"]).is_file()


def test_each_winner_is_of_its_band_and_not_better_than_what_is_proven_of_it(finished):
    """Two winners: what is deeper than half of the optimum, and what is not."""
    state, winners = state_of(finished.out), winners_of(finished.out)
    assert [each["band"] for each in state["optima"]] == list(state["bands"]) == ["deep", "middle"]
    assert state["bands"]["deep"] is None
    optima = {each["band"]: each["optimum"] for each in state["optima"]}
    assert optima["deep"]["closed_form"] == state["optimum"]["closed_form"]
    assert [entry["band"] for entry in winners] == [name for name in optima if name in {e["band"] for e in winners}]
    for entry in winners:
        rho = effectiveness(Candidate(**entry["candidate"]))
        assert entry["band"] == ("middle" if rho <= state["bands"]["middle"] else "deep")
        assert entry["gap"] == pytest.approx(optima[entry["band"]]["closed_form"] - entry["closed_form"], abs=1e-3)
        # One that was measured before a later correction may be more than the corrected table allows.
        corrected = [event for event in state["events"] if "factor" in event][-1]
        factor = corrected.get("of_bands", {}).get(entry["band"], corrected["factor"])
        assert entry["gap"] >= -1e-3 or entry["latency"]["table_ms"] * factor > finished.budget_ms
        assert f"the best of band {entry['band']}" in (finished.out / f"{entry['name']}.yaml").read_text()
        assert entry["band"] in finished.ended.stdout and entry["band"] in (finished.out / "report.html").read_text()
    missing = set(optima) - {entry["band"] for entry in winners}
    assert all(f"no winner of band {name}" in finished.ended.stdout for name in missing)


def test_every_file_says_what_made_it(finished):
    command = f"python -m zennas.search {' '.join(map(str, finished.arguments))}"
    made_by = state_of(finished.out)["made_by"]
    assert (
        made_by["command"] == command and made_by["seed"] == 0 and made_by["machine"] and made_by["versions"]["torch"]
    )
    assert all(entry["made_by"] == made_by for entry in winners_of(finished.out))
    for name in ("winner-1.yaml", "report.html", "search.log"):
        text = (finished.out / name).read_text()
        assert made_by["machine"] in text and (command in text or name == "search.log"), name
    metadata = metadata_of((finished.out / "winner-1.onnx").read_bytes())
    assert json.loads(metadata["zennas"]) == made_by and metadata["trained"] == "no"
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{finished.out / 'study.db'}")
    assert any(
        command in str(value)
        for value in (study.user_attrs | study._storage.get_study_system_attrs(study._study_id)).values()
    )


def test_a_winners_onnx_runs_alone_and_in_a_batch(finished):
    path = finished.out / "winner-1.onnx"
    assert checker_problems(path.read_bytes(), max_embedding_size=64, max_mb=10) == []
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image_B3HW = np.random.default_rng(0).standard_normal((5, 3, 32, 32), dtype=np.float32)
    (together_BD,) = session.run(None, {session.get_inputs()[0].name: image_B3HW})
    alone_BD = np.concatenate([session.run(None, {session.get_inputs()[0].name: image_B3HW[[b]]})[0] for b in range(5)])
    assert together_BD.shape == (5, 64) and np.isfinite(together_BD).all()
    np.testing.assert_allclose(together_BD, alone_BD, atol=1e-4 * np.abs(alone_BD).max())  # another order of the sums


def test_a_winner_scores_by_the_command_that_the_run_ended_with(finished, start):
    path = finished.out / "winner-1.yaml"
    command = [path, "--track", finished.experiment, "--json", "--measure", "--budget-ms", finished.budget_ms]
    ended = start("score", *command).end()
    (row,), winner = json.loads(ended.stdout), winners_of(finished.out)[0]
    assert ended.code == 0 and row["key"] == winner["key"] and row["candidate"] == winner["candidate"]
    assert (row["params"], row["macs"], row["num_blocks"]) == (winner["params"], winner["macs"], winner["num_blocks"])
    assert row["budget_ms"] == finished.budget_ms and row["outside_space"] is None and row["error"] is None
    # Other random numbers: the mean of 8 lies within a few standard deviations of the mean of 2.
    assert abs(row["scores"]["zen"] - winner["score_mean"]) < 8 * max(winner["score_std"], 0.05)
    assert (
        1 / 3 < row["measured_ms"] / winner["latency"]["measured_ms"] < 3
    )  # the same file on a machine of other noise


def test_the_same_command_again_repeats_nothing_and_json_is_the_winners(finished, start):
    rows, lines, files = rows_of(finished.out), lines_of(finished.out), sorted(finished.out.rglob("*"))
    begin = time.monotonic()
    ended = start("search", *finished.arguments, "--json").end()
    assert ended.code == 0 and json.loads(ended.stdout) == winners_of(finished.out)
    assert "this run is finished" in ended.stderr and "winner-1" in ended.stderr and "IR-SE-small" in ended.stderr
    assert time.monotonic() - begin < 30  # no Ray was started: a few seconds of imports
    assert rows_of(finished.out).equals(rows) and lines_of(finished.out) == lines
    assert sorted(finished.out.rglob("*")) == files


def test_more_candidates_go_on_with_a_finished_run(finished, start, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished.out, out)
    arguments = [out if value == finished.out else value for value in finished.arguments]
    arguments[arguments.index(CANDIDATES)] = CANDIDATES + 100
    ended = start("search", *arguments).end()
    assert ended.code == 0, ended.said
    before, after = rows_of(finished.out), rows_of(out)
    assert len(after) >= CANDIDATES + 100 and after["key"].is_unique
    assert after["key"].tolist()[: len(before)] == before["key"].tolist()
    assert after["score"].max() >= before["score"].max()


def test_the_same_seed_proposes_the_same_and_json_is_alone_on_standard_output(finished, start, tmp_path):
    # A budget that refuses nothing: what is refused hangs on latencies, which vary by their noise from run to run.
    arguments = ["--track", finished.experiment, "--candidates", 40, "--budget-ms", 1000, "--workers", 2, "--json"]
    seeds = {"one": 5, "two": 5, "other": 6}
    begun = {
        name: start("search", *arguments, "--seed", seed, "--out", tmp_path / name) for name, seed in seeds.items()
    }
    proposed = {}
    for name, command in begun.items():
        ended = command.end()
        assert ended.code == 0 and json.loads(ended.stdout) == winners_of(tmp_path / name), ended.said
        assert (
            "searched: screened" in ended.stderr and "block measurements kept" not in ended.stderr
        )  # the table was kept
        proposed[name] = rows_of(tmp_path / name)["key"].tolist()[:40]
    assert proposed["one"] == proposed["two"] != proposed["other"]


# --- stopped in the middle --------------------------------------------------------------------------------------------


@pytest.fixture
def long_run(start, tmp_path, finished):
    """begin() -> a search that takes some ten seconds of scoring, the same each time, and its --out."""
    experiment, out = write_tiny(tmp_path / "tiny", score=SLOW_SCORE, num_winners=1, max_finalists=1), tmp_path / "run"

    def begin():  # with a budget that every finalist keeps, however noisy the machine is just then
        arguments = ["--track", experiment, "--out", out, "--candidates", LONG, "--budget-ms", 1000, "--workers", 2]
        return start("search", *arguments)

    return begin, out


def searching(out):
    """Whether the search proper has begun."""
    with contextlib.suppress(OSError, ValueError):
        return any(event["why"] == "baselines" for event in state_of(out)["events"])
    return False


def kept_part(out):
    return any((out / "scored.parquet").glob("part-*.parquet"))


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(long_run):
    begin, out = long_run
    command = begin()
    command.until(lambda: kept_part(out))
    command.press_ctrl_c()
    pressed = time.monotonic()
    ended = command.end()
    assert ended.code == 130 and "Traceback" not in ended.said, ended.said
    assert f"everything computed is kept in {out}: give the same command again to go on" in ended.stdout
    assert time.monotonic() - pressed < 15  # two seconds for the batches in flight, some for Ray to stop
    before, lines = rows_of(out), lines_of(out)
    assert 0 < len(before) < LONG and not state_of(out)["finished"]
    ended = begin().end()
    assert ended.code == 0 and f"{len(before)} scored and {len(lines)} measured before" in ended.stdout, ended.said
    assert_complete(out, num_candidates=LONG)
    after = rows_of(out)
    assert after["key"].tolist()[: len(before)] == before["key"].tolist()
    assert after["score"].max() >= before["score"].max()
    assert lines_of(out)[: len(lines)] == lines  # baselines are not measured again


def test_a_killed_driver_loses_seconds_and_no_more(long_run):
    begin, out = long_run
    command = begin()
    command.until(lambda: kept_part(out))
    command.kill()
    command.process.wait()
    before = rows_of(out)
    assert 0 < len(before) < LONG
    ended = begin().end()
    assert ended.code == 0, ended.said
    assert_complete(out, num_candidates=LONG)
    assert rows_of(out)["key"].tolist()[: len(before)] == before["key"].tolist()


def scorers_of(pid, title=b"ray::_score_batch"):
    """The processes in which Ray is scoring for the driver `pid`, by their titles."""
    found, parents = [], {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(title):
                found.append(int(folder.name))

    def is_below(one):
        while one in parents and one != pid:
            one = parents[one]
        return one == pid

    return [one for one in found if is_below(one)]


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="finds processes by /proc")
def test_a_search_survives_the_death_of_its_scorers(long_run):
    begin, out = long_run
    command = begin()
    command.until(lambda: searching(out))
    for _ in range(3):
        command.until(lambda: scorers_of(command.process.pid))
        for pid in scorers_of(command.process.pid):
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    ended = command.end()
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    assert_complete(out, num_candidates=LONG)
    assert rows_of(out)["error"].isna().all()  # what a worker died over was scored again


# --- what cannot be used ----------------------------------------------------------------------------------------------


def test_an_impossible_budget_names_the_cheapest_candidate(finished, start, tmp_path):
    space = load_experiment(str(finished.experiment))[2]
    arguments = ["--track", finished.experiment, "--out", tmp_path / "run", "--candidates", 20]
    line = refused(start("search", *arguments, "--budget-ms", "0.001").end())
    assert space.cheapest().text in line and "below the cheapest candidate" in line and "--budget-ms" in line


def test_a_storage_that_cannot_be_used_is_refused_and_nothing_is_lost(finished, start, tmp_path):
    arguments = [
        "--track",
        finished.experiment,
        "--out",
        tmp_path / "run",
        "--candidates",
        20,
        "--budget-ms",
        finished.budget_ms,
    ]
    assert "--storage nonsense: cannot be used" in refused(start("search", *arguments, "--storage", "nonsense").end())
    locked = f"sqlite:///{tmp_path / 'locked.db'}"
    optuna.create_study(storage=locked)
    with contextlib.closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in refused(start("search", *arguments, "--storage", locked).end())
    of_another = f"sqlite:///{finished.out / 'study.db'}"
    assert "belongs to another run" in refused(start("search", *arguments, "--storage", of_another).end())
    ended = start("search", *arguments).end()  # without it the same run goes well
    assert ended.code == 0, ended.said
    assert_complete(tmp_path / "run", num_candidates=20)


def test_a_full_disk_is_one_message_and_with_more_room_the_run_goes_on(finished, start, small_disk):
    out = small_disk.path / "run"
    # A budget that a finalist keeps also where other work makes it three times as slow.
    arguments = [
        "--track",
        finished.experiment,
        "--out",
        out,
        "--candidates",
        20,
        "--budget-ms",
        4 * finished.budget_ms,
    ]
    line = refused(start("search", *arguments).end())
    assert "No space left" in line or "disk is full" in line
    assert str(out) in line and "what was computed before is kept" in line
    small_disk.resize(50)
    ended = start("search", *arguments).end()
    assert ended.code == 0, ended.said
    assert_complete(out, num_candidates=20)


# --- what is looked at ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width_px", [1280, 390])
def test_the_report_opens_offline_and_is_drawn(finished, chromium, tmp_path, width_px):
    context = chromium.new_context(viewport={"width": width_px, "height": 900}, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{finished.out / 'report.html'}")
    page.wait_for_selector(".js-plotly-plot svg.main-svg")
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert said == [] and asked == [f"file://{finished.out / 'report.html'}"]
    for name in ("pareto", "course", "prediction"):
        plot = page.locator(f"#{name}.js-plotly-plot")
        assert plot.locator("svg.main-svg").count() > 0 and plot.locator("path.point").count() > 0
        box = plot.bounding_box()
        assert box["width"] > 0.7 * width_px and box["height"] > 300
    assert page.locator("svg path title").count() > 0  # winners, stage by stage
    for word in ("winner-1", "IR-SE-small", "Zen-Score is not an accuracy", f"{finished.budget_ms:.2f} ms"):
        assert page.get_by_text(word).first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px  # nothing sticks out
    context.close()


@pytest.fixture
def dashboard(finished, tmp_path):
    """The address of optuna-dashboard over a copy of the finished study, to which a failure was added."""
    shutil.copy(finished.out / "study.db", tmp_path / "study.db")
    ledger = open_ledger(finished.out, state_of(finished.out)["settings"])
    url = f"sqlite:///{tmp_path / 'study.db'}"
    space, row = load_experiment(str(finished.experiment))[2], ledger.rows[0]
    study = optuna.load_study(study_name="run", storage=url)
    note = [
        value for name, value in study._storage.get_study_system_attrs(study._study_id).items() if "note_str" in name
    ]
    store = Store(space, url, "run")
    store.begin(ledger.run_id, note="".join(note))
    store.add_failed(row._replace(key="a failure", score=None, stage="score", error="FloatingPointError: inf"))
    assert store.close() is None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = pathlib.Path(sys.executable).parent / "optuna-dashboard"
    command = [program, url, "--port", str(port), "--artifact-dir", finished.out / "artifacts"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(300):
        with contextlib.suppress(OSError), opener.open(f"http://127.0.0.1:{port}/api/studies", timeout=5):
            break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/dashboard"
    process.terminate()
    process.wait()


def test_the_dashboard_shows_a_study_that_helps(finished, chromium, dashboard, tmp_path):
    context = chromium.new_context(viewport={"width": 1500, "height": 1100})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{dashboard}/studies/1")
    page.get_by_text("Zen-Score").first.wait_for()
    page.wait_for_selector(".js-plotly-plot svg.main-svg")
    page.get_by_text("stage2_depth").first.wait_for()  # in the plot of importances, the slowest
    page.wait_for_timeout(500)  # plots move into place
    page.screenshot(path=tmp_path / "study.png", full_page=True)
    assert page.get_by_text("latency (ms)").first.is_visible()
    page.goto(f"{dashboard}/studies/1/note")
    page.get_by_role("heading", name=finished.experiment.parent.name).first.wait_for()
    assert page.get_by_text("Zen-Score is not an accuracy").first.is_visible()
    page.screenshot(path=tmp_path / "note.png")
    page.goto(f"{dashboard}/studies/1/trials")
    page.get_by_text("Complete").first.wait_for()
    page.screenshot(path=tmp_path / "trials.png")
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path / 'study.db'}")
    failed = next(trial.number for trial in study.trials if trial.state == optuna.trial.TrialState.FAIL)
    page.goto(f"{dashboard}/studies/1/trials?numbers={failed}")
    page.get_by_text("FloatingPointError: inf").first.wait_for()
    assert page.get_by_text("stage").first.is_visible() and page.get_by_text("Fail").first.is_visible()
    page.screenshot(path=tmp_path / "failed.png")
    page.goto(f"{dashboard}/studies/1")
    page.get_by_text("winner-1.onnx").first.wait_for()
    page.screenshot(path=tmp_path / "winner.png")
    assert errors == []
    context.close()
