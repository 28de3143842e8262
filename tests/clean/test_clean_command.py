"""The command from end to end: what it leaves behind, what it refuses in one line, how it goes on."""

import json
import os
import signal
import time

import faiss
import numpy as np
import pandas as pd
import pytest

import zennas
from tests.pages import figure, numbers
from tests.processes import Forked
from tests.train.conftest import ran, untrained
from zennas.clean import steps
from zennas.clean.__main__ import main
from zennas.clean.options import Options
from zennas.clean.plan import CleanPlan
from zennas.clean.rounds import WORTH_WORKERS, wanted_workers
from zennas.clean.state import REASONS
from zennas.data.labels import DROPPED
from zennas.data.sources import open_source
from zennas.progress import silent
from zennas.provenance import num_cores
from zennas.run_folder import lock_folder


def test_what_it_leaves_behind(asked, faces, tmp_path):
    ended = asked("--json")
    assert ended.code == 0, ended.said
    out, summary = tmp_path / "out", json.loads(ended.stdout)
    table = pd.read_parquet(out / "decisions.parquet")
    source = open_source(faces.folder)
    assert table["name"].tolist() == [source.name(image) for image in range(96)]
    decided = table.set_index("image")
    assert decided.loc[26, "reason"] == REASONS[4] and decided.loc[26, "other_identity"] == "p03"
    assert decided.loc[35, "reason"] == REASONS[5] and decided.loc[35, "own_cosine"] < 0.25
    assert (decided.loc[90:, "new_identity"] == "p00").all() and (decided.loc[90:, "decision"] == "merged").all()
    others = decided.drop(index=[26, 35, *range(90, 96)])
    assert (others["decision"] == "kept").all() and (others["round"] == 0).all()
    assert summary["images"] == {"before": 96, "kept": 88, "merged": 6, "moved": 0, "dropped": 2}
    assert summary["identities"] == {"before": 16, "after": 15, "merges": 1}
    assert summary["plan"]["order"] == "inter-intra" and summary["largest"] == {"before": 6, "after": 12}
    # The new list is what zennas train takes.
    kept = open_source(faces.folder, labels=out / "labels.npz")
    assert (kept.num_images, kept.num_identities) == (94, 15)
    assert kept.label_N.tolist() == sorted(kept.label_N.tolist()[:88]) + [0] * 6
    with np.load(out / "labels.npz") as file:
        assert file["label_N"][[26, 35]].tolist() == [DROPPED, DROPPED]
    assert (
        not (out / "round-1" / "parts").exists()
        and "94 of 96 images of 15 identities" in (out / "clean.log").read_text()
    )
    assert "zennas.train" in ended.stderr and "--track" not in ended.stderr and "report.html" in ended.stderr


def test_torch_keeps_its_threads(asked, tmp_path):
    """FAISS has all cores meanwhile, and both may count threads in one place."""
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        assert asked("--json").code == 0 and faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_the_page_shows_what_was_decided(asked, tmp_path):
    asked()
    text = (tmp_path / "out" / "report.html").read_text()
    assert "default-src 'none'; img-src data:;" in text and "http://" not in text.split("</script>")[-1]
    traces, _ = figure(text, "kept-at")
    kept = numbers(traces[0]["y"])
    edges = numbers(traces[0]["x"])
    assert (np.diff(kept) <= 0).all() and kept[0] == pytest.approx(100 * 95 / 96)  # one was gone before the last step
    assert kept[np.searchsorted(edges, 0.25)] == pytest.approx(100 * 94 / 96)
    for word in ("p04", "p05", "Far from its identity", "Nearer to another identity", "tau_intra 0.25"):
        assert word in text
    assert text.count("data:image/jpeg;base64,") >= 4
    traces, _ = figure(text, "sizes")
    assert [sum(trace["y"]) for trace in traces] == [16, 15]


def test_one_identity_can_be_looked_at(asked, tmp_path):
    asked()
    ended = asked("--look", "p04")
    assert ended.code == 0, ended.said
    text = (tmp_path / "out" / "look-p04.html").read_text()
    assert text.count("<figure") == 6 and text.count("class='gone'") == 1 and "nearer to another identity" in text
    elsewhere = asked("--look", "p04", out="elsewhere")
    assert elsewhere.code == 2 and "holds no run" in elsewhere.stderr
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "run.json").write_text('{"format": 1, "settings": {}}')
    assert "a run of another command" in asked("--look", "p04", out="elsewhere").stderr
    unknown = asked("--look", "Ada")
    assert unknown.code == 2 and "has no such identity; known: p00" in unknown.stderr
    into = asked("--look", "p00")
    assert into.code == 0 and (tmp_path / "out" / "look-p00.html").read_text().count("<figure") == 12


def test_decisions_are_taken_back(asked, faces, tmp_path):
    asked()
    name = open_source(faces.folder).name(26)
    ended = asked("--take-back", f"image:{name}", "--take-back", "identity:p15", "--json")
    assert ended.code == 0, ended.said
    summary = json.loads(ended.stdout)
    assert (
        summary["images"]["dropped"] == 1
        and summary["identities"]["after"] == 16
        and summary["taken_back"]["images"] == 1
    )
    table = pd.read_parquet(tmp_path / "out" / "decisions.parquet")
    assert table.loc[26, "new_identity"] == "p04" and (table.loc[90:, "new_identity"] == "p15").all()
    assert open_source(faces.folder, labels=tmp_path / "out" / "labels.npz").num_images == 95
    assert table.loc[26, ["decision", "reason", "round"]].tolist() == ["kept", "taken back", 0]
    assert summary["reasons"]["taken back"] == 1 and "taken back: 1 image(s), 1 identity" in ended.stderr
    unknown = asked("--take-back", "image:p99/none.png")
    assert unknown.code == 2 and "has no such image" in unknown.stderr
    more = asked("--take-back", "image:35", "--json")
    assert json.loads(more.stdout)["images"]["dropped"] == 0  # what was taken back before stays so
    assert (tmp_path / "out" / "taken-back.txt").read_text().splitlines() == [
        f"image:{name}",
        "identity:p15",
        "image:35",
    ]


def test_a_finished_cleaning_is_not_done_again(asked, tmp_path):
    first = asked("--json")
    before = (tmp_path / "out" / "decisions.parquet").stat().st_mtime_ns
    again = asked("--json")
    assert again.code == 0 and json.loads(again.stdout) == json.loads(first.stdout) and "is done" in again.stderr
    assert (tmp_path / "out" / "decisions.parquet").stat().st_mtime_ns == before
    other = asked("--tau-intra", "0.3")
    assert other.code == 2 and "tau_intra: 0.25, now 0.3" in other.stderr and "--fresh" in other.stderr
    assert asked("--tau-intra", "0.3", "--fresh").code == 0 and (tmp_path / "out.old-1" / "decisions.parquet").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tau-intra", "1.5"], "--tau-intra: given 1.5, allowed: less than 1"),
        (["--tau-merge", "much"], "--tau-merge: given 'much', allowed: a cosine between -1 and 1, or none"),
        (["--order", "both"], "--order: given 'both', allowed: inter-intra, intra-inter"),
        (["--dbscan-eps", "0"], "--dbscan-eps: given 0.0, allowed: greater than 0"),
        (["--dbscan-min-samples", "0"], "--dbscan-min-samples: given 0"),
        (["--rounds", "0"], "--rounds: given 0, allowed: 1 or more"),
        (["--rounds", "2"], "--embeddings brings no"),
        (["--start", "middle"], "--start: given 'middle', allowed: raw, previous"),
        (["--workers", "0"], "--workers: given 0"),
        (["--track", "lfw-smoke"], "give --rounds 2 or more"),
        (["--device", "tpu"], "--device: given 'tpu', allowed: cpu, cuda"),
        (["--embeddings-from", "x.onnx"], "give one of the two"),
        (["--take-back", "image:1"], "holds no run"),
        (["--look", "p00"], "holds no run"),
        (["--look", "p00", "--take-back", "image:1"], "--look p00: decides nothing"),
        (["--workers", "2", "--address", "auto"], "are processes of this machine"),
        (["--order", "intra-inter", "--tau-intra", "0.99999"], "nothing is left of 96 images"),
        (["--resume", "--fresh"], "--resume and --fresh exclude each other"),
        (["--resume"], "holds no run to resume"),
        (["--tau-intra", "0.99999"], "nothing is left of 96 images"),
    ],
)
def test_what_cannot_be_used_is_one_line(asked, words, said):
    ended = asked(*words)
    assert ended.code == 2 and said in ended.stderr, ended.said
    assert ended.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in ended.said


def test_what_left_nothing_leaves_the_folder_free(asked, tmp_path):
    assert "nothing is left" in asked("--min-images", "100").stderr and not (tmp_path / "out").exists()
    assert asked().code == 0
    nothing = asked("--take-back", "image:1", out="nowhere")
    assert nothing.code == 2 and "holds no run" in nothing.stderr and not (tmp_path / "nowhere").exists()


def test_data_and_embeddings_that_do_not_fit(asked, faces, tmp_path):
    assert "no such file or folder" in asked(data=tmp_path / "nowhere").stderr
    np.save(tmp_path / "short.npy", faces.row_ND[:90])
    assert "holds 90 x 64 of float32; allowed: one row" in asked(embeddings=tmp_path / "short.npy").stderr
    np.save(tmp_path / "whole.npy", np.arange(96 * 4).reshape(96, 4))
    assert "of int64; allowed: one row of floating" in asked(embeddings=tmp_path / "whole.npy").stderr
    (tmp_path / "text.npy").write_text("no array")
    assert "cannot be read as an .npy file" in asked(embeddings=tmp_path / "text.npy").stderr
    assert "cannot be read as an .npy file" in asked(embeddings=tmp_path / "missing.npy").stderr
    (tmp_path / "empty.npy").touch()
    assert "cannot be read as an .npy file" in asked(embeddings=tmp_path / "empty.npy").stderr
    np.savez(tmp_path / "several.npz", rows=faces.row_ND)
    assert "give one, as an .npy file" in asked(embeddings=tmp_path / "several.npz").stderr
    np.save(tmp_path / "same.npy", np.ones((96, 8), np.float32))
    ended = asked(embeddings=tmp_path / "same.npy")
    assert ended.code == 2 and "all 96 embeddings are the same" in ended.stderr
    np.save(tmp_path / "nan.npy", np.full((96, 8), np.nan, np.float32))
    assert "none of 96 embeddings is finite" in asked(embeddings=tmp_path / "nan.npy", out="other").stderr


def test_some_embeddings_that_are_not_finite_are_counted_and_left_out(asked, faces, tmp_path):
    row_ND = faces.row_ND.copy()
    row_ND[[7, 8]] = np.nan
    np.save(tmp_path / "holes.npy", row_ND)
    ended = asked("--json", embeddings=tmp_path / "holes.npy")
    assert ended.code == 0 and json.loads(ended.stdout)["reasons"]["no embedding"] == 2
    table = pd.read_parquet(tmp_path / "out" / "decisions.parquet")
    refused = asked("--take-back", "image:7", embeddings=tmp_path / "holes.npy")
    assert (
        refused.code == 2
        and "has no embedding" in refused.stderr
        and not (tmp_path / "out" / "taken-back.txt").exists()
    )
    assert (table.loc[[7, 8], "reason"] == "no embedding").all() and table.loc[[7, 8], "own_cosine"].isna().all()


def test_images_that_do_not_decode_are_named_and_left_out(faces, tmp_path, material):
    bad = sorted(faces.folder.glob("p02/*"))[1]
    bad.write_bytes(b"no image at all")
    model = untrained(material, tmp_path / "model")
    words = ["--data", faces.folder, "--embeddings-from", model, "--out", tmp_path / "out", "--tau-merge", "none"]
    ended = ran(*words, "--tau-other", "none", "--json", command=main)
    assert ended.code == 0, ended.said
    summary = json.loads(ended.stdout)
    assert summary["reasons"]["no embedding"] == 1 and bad.name in summary["rounds"][0]["notices"][0]
    assert "1 images cannot be read" in (tmp_path / "out" / "report.html").read_text()


SLOW = """
import time
from zennas.clean import parts, steps
steps.PART = 12
once = parts.centres
def slowly(*given):
    time.sleep(0.3)
    return once(*given)
parts.centres = slowly
from zennas.clean import steps
from zennas.clean.__main__ import main
from zennas.clean.rounds import WORTH_WORKERS, wanted_workers
main()
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 130, marks=pytest.mark.slow)],
)
def test_a_stop_costs_no_more_than_the_parts_under_way(asked, faces, tmp_path, monkeypatch, number, code):
    """Stopped when it kept its first centres; what it kept is not computed again, and the end is what it would have
    been.
    """
    out = tmp_path / "stopped"
    words = ["--data", faces.folder, "--embeddings", faces.rows, "--out", out]
    child = Forked(SLOW, *words)
    deadline = time.monotonic() + 60
    while len(list(out.glob("round-1/parts/*centres-0*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    said = "".join(child.communicate(timeout=60))
    assert child.returncode == code and "Traceback" not in said
    assert number == signal.SIGKILL or "give the same command again to go on" in " ".join(said.split())
    kept = list(out.glob("round-1/parts/*centres-0*.npz"))
    assert 2 <= len(kept) < 8
    done, once = [], steps.parts.centres
    monkeypatch.setattr(steps, "PART", 12)
    monkeypatch.setattr(steps.parts, "centres", lambda *given: done.append(1) or once(*given))
    assert asked(out="whole").code == 0
    num_whole = len(done)
    assert ran(*words, command=main).code == 0
    assert len(done) - num_whole == num_whole - len(kept)
    tables = [pd.read_parquet(folder / "decisions.parquet") for folder in (out, tmp_path / "whole")]
    pd.testing.assert_frame_equal(*tables)


def test_workers_are_for_what_takes_long():
    assert wanted_workers(3, 10) == 3 and wanted_workers(None, WORTH_WORKERS - 1) == 1
    assert wanted_workers(None, WORTH_WORKERS) == num_cores()


def test_a_stop_before_all_is_written_is_no_end(asked, tmp_path, monkeypatch):
    def stopped(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("zennas.clean.rounds.write_outcome", stopped)
        assert asked().code == 130
    assert not (tmp_path / "out" / "decisions.parquet").exists()
    ended = asked("--json")
    assert ended.code == 0 and "is done" not in ended.stderr and (tmp_path / "out" / "decisions.parquet").exists()


def test_two_at_once_in_one_folder_are_refused(asked, tmp_path):
    lock = lock_folder(tmp_path / "out")
    try:
        ended = asked()
    finally:
        lock.release()
    assert ended.code == 2 and "another run is under way" in ended.stderr


@pytest.mark.slow
def test_rounds_train_the_next_network(faces, material, tmp_path, monkeypatch):
    """Round 2 asks the network that was trained on what round 1 left; a third round goes on from there."""
    model = untrained(material, tmp_path / "model", bias=1.0)
    words = [
        "--data",
        faces.folder,
        "--embeddings-from",
        model,
        "--out",
        tmp_path / "out",
        "--track",
        material.experiment,
    ]
    words += ["--tau-merge", "none", "--tau-intra", "0.1", "--set", "epochs=2"]
    without, words = words, [*words, "--winner", material.winner, "--json"]
    ended = ran(*words, "--rounds", "2", command=main)
    assert ended.code == 0, ended.said
    summary = json.loads(ended.stdout)
    trained = tmp_path / "out" / "round-1" / "trained"
    assert [one["embeddings_from"] for one in summary["rounds"]] == [str(model), str(trained)]
    assert (trained / "network.pt").is_file()
    settings = json.loads((trained / "run.json").read_text())["settings"]
    assert settings["num_images"] == summary["rounds"][0]["kept"]
    before = os.stat(trained / "network.pt").st_mtime_ns

    def stopped(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:  # when the third round is done, and not all is written
        context.setattr("zennas.clean.rounds.write_outcome", stopped)
        assert ran(*words, "--rounds", "3", "--start", "previous", command=main).code == 130
    again = ran(*words, "--rounds", "3", command=main)
    assert again.code == 0 and [entry["start"] for entry in json.loads(again.stdout)["rounds"]] == [
        "raw",
        "raw",
        "previous",
    ]
    # A line while it runs, and the whole at the end.
    assert f"trained: {trained / 'model.onnx'}" in (tmp_path / "out" / "clean.log").read_text()
    assert "steps in" in ended.stderr and ended.stderr.index("steps in") > ended.stderr.index("round 2:")
    assert os.stat(trained / "network.pt").st_mtime_ns == before
    assert (tmp_path / "out" / "round-2" / "trained" / "network.pt").is_file()
    refused = ran(*without, "--rounds", "2", "--winner", tmp_path / "none.yaml", "--fresh", command=main)
    assert refused.code == 2 and "no such file" in refused.stderr and len(list(tmp_path.glob("out.old-*"))) == 0


def test_what_the_help_says_of_a_plan_is_what_the_plan_holds():
    told = {name: option.extra.get("unset") for name, option in Options.declared().items()}
    plan = CleanPlan()
    assert {name: told[name] for name in dict(plan) if name != "move"} == {
        name: str(value) for name, value in plan if name != "move"
    }
    assert set(Options.declared()["order"].choices) == set(steps.ORDERS)


def test_who_makes_a_progress_closes_it(faces, tmp_path):
    progress = silent()
    zennas.clean(data=faces.folder, embeddings=faces.rows, out=tmp_path / "out", progress=progress)
    progress.say("and after it")
    progress.close()
    assert "and after it" in (tmp_path / "out" / "clean.log").read_text()


def test_what_to_type_next_is_quoted(asked, tmp_path):
    """A path with a blank is one word."""
    said = " ".join(asked(out="out here").stdout.split())
    folder = tmp_path / "out here"
    assert f"open '{folder / 'report.html'}'" in said and f"--labels '{folder / 'labels.npz'}'" in said
