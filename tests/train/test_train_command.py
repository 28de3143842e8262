"""The command: end to end, stopped and resumed, and one clear line for whatever cannot be used, before the first
step."""

import json
import pathlib
import re
import signal

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from tests.train.conftest import (
    IMAGES_EACH,
    NUM_IDENTITIES,
    PX,
    STEPS_PER_EPOCH,
    differing,
    drawn_faces,
    kept_tensors,
    ran,
    tensors,
    trained,
    words_of,
    write_folder,
    write_records,
)
from tests.train.test_training import teacher_file
from zennas import checker
from zennas.embed.checkpoint import load_network
from zennas.embed.model import open_model
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.run_folder import lock_folder
from zennas.tasks.face.verify import open_set, verify
from zennas.tasks.identity import preparing
from zennas.tasks.table import task_of
from zennas.train import loop, prepare, rank
from zennas.train.checkpoints import checkpoints_in
from zennas.train.journal import read_metrics


def out_of(arguments):
    return arguments()[-1]


# --- from end to end -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(material, tmp_path_factory):
    """(folder, words, Ended) of a whole run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    words = [*words_of(material), "--out", out, "--json"]
    words += ["--verify", material.held_out, "--epochs", 1, "--set", "data.augment={}"]
    return out, words, ran(*words)


def test_a_run_says_what_it_made(finished, material):
    out, _, ended = finished
    assert ended.code == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result == json.loads((out / "result.json").read_text())
    about = result["training"]
    assert (about["steps"], about["num_images"], about["num_identities"]) == (STEPS_PER_EPOCH, 96, 12)
    assert (about["skipped_steps"], about["corrupt_images"], about["num_ranks"]) == (0, 0, 1)
    unused = "not used: 1 hidden or system files (.DS_Store)"
    assert about["data_notices"] == [unused] and ended.stderr.count(unused) == 1
    assert result["plan"]["epochs"] == 1 and result["plan"]["data"]["augment"] == {}
    assert {"metrics.jsonl", "report.html", "train.log", "network.pt", "model.onnx"} <= {
        path.name for path in out.iterdir()
    }
    assert list((out / "tensorboard").iterdir())
    assert "tensorboard --logdir" in ended.stderr and "winner  ir_se-8-8x1-16x1" in ended.stderr


def test_its_latency_is_measured_with_the_trained_weights(finished):
    latency = json.loads((finished[0] / "result.json").read_text())["latency"]
    assert latency["measured_ms"] == sorted(latency["raw_ms"])[latency["protocol"]["kth_fastest"] - 1]
    assert latency["within_budget"] == (latency["measured_ms"] <= latency["budget_ms"])
    assert latency["untrained_ms"] > 0 and "30 ms on a slow machine" in latency["origin"]


def test_network_onnx_and_checkpoint_are_the_same_network(finished, material):
    out = finished[0]
    network = load_network(out)
    kept = kept_tensors(out / "checkpoints" / f"step-{STEPS_PER_EPOCH:09d}")
    assert {f"network.{name}" for name in network.state_dict()} == {
        name for name in kept if name.startswith("network.")
    }
    for name, value in network.state_dict().items():
        # All but what is too near to zero for a runtime that crawls over denormals.
        torch.testing.assert_close(value, kept[f"network.{name}"], rtol=0, atol=1e-8)
    session = onnxruntime.InferenceSession((out / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        image_B3HW = torch.rand(1, 3, PX, PX, generator=generator) * 2 - 1
        (given_BD,) = session.run(None, {session.get_inputs()[0].name: image_B3HW.numpy()})
        with torch.no_grad():
            wanted_BD = network(image_B3HW).numpy()
        # Norms folded into convolutions: other float32 sums.
        np.testing.assert_allclose(given_BD, wanted_BD, rtol=1e-3, atol=1e-3 * np.abs(wanted_BD).max())


def test_its_accuracy_is_that_of_the_network_it_leaves(finished, material):
    """Asked as a teacher is asked, through other code than the loop's."""
    out = finished[0]
    teacher = open_model(out)
    found = verify(open_set(material.held_out), lambda image: teacher(image).embedding_BD, image_px=PX)
    (row,) = json.loads((out / "result.json").read_text())["accuracy"].values()
    assert found.accuracy == pytest.approx(
        row["student"]["accuracy"], abs=0.011
    )  # one pair in a hundred on the threshold
    course = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [entry["accuracy"] for entry in course if entry["kind"] == "verify/others"] == [
        row["untrained"],
        row["student"]["accuracy"],
    ]


def test_a_finished_run_is_not_trained_again(finished, monkeypatch):
    out, words, ended = finished
    before = (out / "result.json").stat().st_mtime_ns
    monkeypatch.setattr(prepare, "prepare", None)
    again = ran(*words)
    assert again.code == 0 and json.loads(again.stdout) == json.loads(ended.stdout)
    assert "this training is done; --fresh trains again" in again.stderr
    assert (out / "result.json").stat().st_mtime_ns == before


def test_fresh_moves_it_aside(finished, arguments, material):
    first = ran(*arguments("--any-size", "--epochs", 0.2))
    second = ran(*arguments("--any-size", "--epochs", 0.4, "--fresh"))
    assert first.code == second.code == 0
    out = out_of(arguments)
    assert out.with_name("run.old-1").is_dir()
    assert json.loads((out / "result.json").read_text())["plan"]["epochs"] == 0.4


def test_a_student_learns_of_a_run(finished, arguments, material):
    """The folder of a run is a teacher."""
    ended = ran(
        *arguments("--any-size", "--epochs", 0.4, "--teacher", finished[0], "--verify", material.held_out, "--json")
    )
    assert ended.code == 0, ended.stderr
    (row,) = json.loads(ended.stdout)["accuracy"].values()
    assert row["teacher"]["accuracy"] == json.loads(finished[2].stdout)["accuracy"]["others"]["student"]["accuracy"]


def test_a_network_over_the_budget_is_trained_only_where_it_is_meant(arguments):
    words = arguments("--epochs", 0.2, "--budget-ms", 0.001)
    refused = ran(*words)
    assert refused.code == 2
    assert re.search(r"takes [\d.]+ ms here, untrained; the budget is 0.001 ms .*--any-size", refused.stderr)
    assert not (out_of(arguments) / "checkpoints").exists()
    assert ran(*words, "--any-size").code == 0


# --- stopped ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_command_ends_with_130_and_goes_on(start, arguments, options, tmp_path, number):
    words = arguments("--any-size", "--set", "epochs=5", "--set", "data.workers=1")
    child = start(*words)
    metrics = tmp_path / "run" / "metrics.jsonl"
    child.until(lambda: metrics.is_file() and len(metrics.read_bytes().splitlines()) >= 3)
    child.signal(number)
    assert child.end() == 130, child.log.read_text()
    said = child.log.read_text()
    assert "Traceback" not in said and "give the same command again to go on" in said
    (kept,) = checkpoints_in(tmp_path / "run" / "checkpoints")
    ended = ran(*words, "--resume")
    assert ended.code == 0 and f"going on from {kept}" in ended.said
    whole = trained(options("epochs=5", out="whole"))
    last = checkpoints_in(tmp_path / "run" / "checkpoints")[-1]
    assert differing(tensors(whole), kept_tensors(last)) == []


def test_an_end_between_training_and_export_costs_no_step(arguments, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    words = arguments("--any-size", "--epochs", 0.4)
    with monkeypatch.context() as patch:
        patch.setattr(rank, "finish", killed)
        assert ran(*words).code == 130
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "_step", None)
        ended = ran(*words)
    assert ended.code == 0 and (out_of(arguments) / "report.html").is_file()


@pytest.mark.parametrize(("precision", "smallest"), [("float16", 0.99999), ("int8", 0.99)])
def test_what_is_handed_on_has_the_tracks_precision(precision, smallest, material, tmp_path):
    """Int8's ranges come from the faces that it was trained on; network.pt stays what was trained."""
    experiment = yaml.safe_load(material.experiment.read_text())
    track = yaml.safe_load(pathlib.Path(experiment["track"]).read_text())
    track["protocol"]["precision"] = precision
    track["limits"]["initializer_dtype"] = ["float32", precision]
    (tmp_path / "track.yaml").write_text(yaml.safe_dump(track))
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment | {"track": str(tmp_path / "track.yaml")}))
    words = [*words_of(material, track=tmp_path / "experiment.yaml"), "--any-size", "--budget-ms", 1000]
    ended = ran(*words, "--out", tmp_path / "run", "--epochs", 1, "--json")
    assert ended.code == 0, ended
    onnx_bytes = (tmp_path / "run" / "model.onnx").read_bytes()
    assert checker.precision_of(onnx_bytes) == precision
    assert json.loads(ended.stdout)["export"]["checker"] == []
    network = load_network(tmp_path / "run" / "network.pt").eval()
    faces = np.stack([image_HW3 for _, _, image_HW3 in drawn_faces(8, 1, seed=3)])
    image_B3HW = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (answer_BD,) = session.run(None, {session.get_inputs()[0].name: image_B3HW.numpy()})
    cosine_B = torch.cosine_similarity(torch.from_numpy(answer_BD.astype(np.float32)), network(image_B3HW).detach())
    assert cosine_B.min() > smallest  # measured: 1 - 1e-7 and 0.9998


# --- what cannot be used ---------------------------------------------------------------------------------------------


def text_file(folder, text, name="file.txt"):
    (folder / name).write_text(text)
    return folder / name


def one_person(folder):
    return write_folder(folder / "one", list(drawn_faces(1, 20, seed=0)))


def records(folder, **options):
    return write_records(folder / "records", drawn_faces(NUM_IDENTITIES, IMAGES_EACH, seed=0), **options)


def truncated(folder):
    path = records(folder) / "train.rec"
    path.write_bytes(path.read_bytes()[:-3000])
    return path.parent


def space_of(folder, material, old, new):
    return text_file(folder, (material.experiment.parent / "space.yaml").read_text().replace(old, new), "other.yaml")


CANDIDATE = "{block: ir_se, stem: 8, widths: [8, 16], depths: [1, 1]}"
SIX_STAGES = "{block: ir_se, stem: 8, widths: [8, 8, 8, 8, 8, 8], depths: [1, 1, 1, 1, 1, 1]}"
# what -> (more words of the command, what it says), given a folder and the material
BAD = {
    "no winner": (lambda f, m: ["--winner", f / "none.yaml"], "none.yaml: no such file; .*zennas.search"),
    "two winners": (
        lambda f, m: ["--winner", text_file(f, f"- {CANDIDATE}\n- {CANDIDATE}\n", "w.yaml")],
        "holds 2 candidates",
    ),
    "no candidate": (lambda f, m: ["--winner", text_file(f, "hello\n", "w.yaml")], "w.yaml"),
    "unknown block": (
        lambda f, m: ["--winner", text_file(f, CANDIDATE.replace("ir_se", "ir_sf"), "w.yaml")],
        "ir_sf.*ir_se",
    ),
    "too deep for its images": (lambda f, m: ["--winner", text_file(f, SIX_STAGES, "w.yaml")], "w.yaml.*32"),
    "unknown track": (lambda f, m: ["--track", "webface-sfrr"], "webface-sfrr.*webface-sfr"),
    "no data": (lambda f, m: ["--data", f / "none"], "--data .*none: no such file or folder"),
    "data of no layout": (lambda f, m: ["--data", text_file(f, "hello")], "file of no known layout"),
    "one person": (lambda f, m: ["--data", one_person(f)], "1 identity; telling faces apart takes at least 2"),
    "truncated records": (lambda f, m: ["--data", truncated(f)], r"train\.rec"),
    "labels beyond the classes": (lambda f, m: ["--data", records(f, num_classes=3)], "3"),
    "unknown people": (lambda f, m: ["--identities", text_file(f, "nobody\n")], "nobody"),
    "no labels": (lambda f, m: ["--labels", f / "none"], "--labels .*none: no such file"),
    "something else as labels": (lambda f, m: ["--labels", text_file(f, "0 0 1\n")], "holds no labels"),
    "no list of people": (lambda f, m: ["--identities", f / "none"], "--identities .*none: no such file"),
    "no teacher": (lambda f, m: ["--teacher", f / "none"], "--teacher .*none: no such file"),
    "a teacher of text": (lambda f, m: ["--teacher", text_file(f, "hello", "teacher.onnx")], r"teacher\.onnx"),
    "a teacher without a network": (lambda f, m: ["--teacher", m.faces], "network.pt"),
    "a teacher of other images": (
        lambda f, m: ["--teacher", teacher_file(f / "t", px=40), "--set", "distill.precompute=false"],
        "takes images of 40 x 40, the student of 32 x 32",
    ),
    "attention of none": (
        lambda f, m: ["--teacher", teacher_file(f / "t", onnx=True), "--set", "distill.name=attention"],
        "the teacher has no attention maps",
    ),
    "unknown key": (lambda f, m: ["--set", "optimizer.sped=1"], "optimizer.*sped"),
    "wrong value": (lambda f, m: ["--set", "epochs=many"], "epochs.*many"),
    "no value": (lambda f, m: ["--set", "epochs"], "--set epochs: expected KEY=VALUE"),
    "no key": (lambda f, m: ["--set", "=3"], "--set =3: expected KEY=VALUE"),
    "no yaml": (lambda f, m: ["--set", "data.augment={flip"], "not valid YAML"),
    "a key of a value": (lambda f, m: ["--set", "epochs.of=3"], "'epochs' holds a value"),
    "endless": (lambda f, m: ["--set", "epochs=.inf"], "--set epochs=.inf: given inf, allowed: a finite number"),
    "never verified": (
        lambda f, m: ["--set", "verify_epochs=.inf"],
        "--set verify_epochs=.inf: given inf, allowed: a finite number",
    ),
    "no number": (lambda f, m: ["--set", "optimizer.lr=.nan"], "lr"),
    "backwards": (lambda f, m: ["--epochs", "-1"], "epochs"),
    "half a batch": (lambda f, m: ["--batch", "1.5"], "batch"),
    "unknown loss": (lambda f, m: ["--set", "loss.name=arcfaec"], "arcfaec.*arcface"),
    "unknown knob": (lambda f, m: ["--set", "loss.knobs={margn_rad: 0.2}"], "margn_rad.*margin_rad"),
    "impossible knob": (lambda f, m: ["--set", "loss.knobs.scale=-1"], "scale.*above 0"),
    "unknown augmentation": (lambda f, m: ["--set", "data.augment={flap: {}}"], "flap.*flip"),
    "unknown distillation": (lambda f, m: ["--set", "distill.name=l3"], "l3"),
    "unknown optimizer": (lambda f, m: ["--set", "optimizer.name=sdg"], "sdg.*sgd"),
    "unknown schedule": (lambda f, m: ["--set", "schedule.name=linear"], "linear.*polynomial"),
    "all warm-up": (lambda f, m: ["--set", "schedule.warmup_epochs=2"], "warmup_epochs 2 must be less than epochs 2"),
    "batch larger than the data": (lambda f, m: ["--batch", 4096], "batch 4096 is larger than an epoch of 96 images"),
    "uneven micro-batches": (
        lambda f, m: ["--batch", 15, "--set", "accumulate=2"],
        "15 must be a multiple of accumulate 2",
    ),
    "micro-batches of one": (lambda f, m: ["--set", "accumulate=16"], "at least 2"),
    "fp16 on a processor": (
        lambda f, m: ["--set", "precision=fp16", "--device", "cpu"],
        "fp16 is for GPUs; .*fp32 or bf16",
    ),
    "too long embeddings": (
        lambda f, m: ["--space", space_of(f, m, "embedding_size: 64", "embedding_size: 128")],
        "embeddings of 128 numbers; track tiny allows at most 64",
    ),
    "pairs without images": (lambda f, m: ["--verify", text_file(f, "1 1\n")], "say where its images are: .*@SOURCE"),
    "no pairs": (lambda f, m: ["--verify", f"{f / 'none.txt'}@{m.faces}"], "none.txt: cannot be read"),
    "no set": (lambda f, m: ["--verify", f / "none.bin"], "none.bin"),
    "nothing to resume": (lambda f, m: ["--resume"], "holds no run to resume"),
    "both": (lambda f, m: ["--resume", "--fresh"], "exclude each other"),
    "no rank": (lambda f, m: ["--ray", 0], "--ray: given 0, allowed: 1 or more"),
    "where but not how many": (lambda f, m: ["--address", "auto"], "--address auto: .*give both"),
    "unknown device": (lambda f, m: ["--device", "gpu"], "--device: given 'gpu', allowed: cpu, cuda"),
    "unknown backend": (lambda f, m: ["--backend", "tensorrt"], "tensorrt"),
    "no budget": (lambda f, m: ["--budget-ms", 0], "--budget-ms: given 0, allowed: more than 0"),
    "a file in the way": (lambda f, m: ["--out", text_file(f, "hello")], "is a file; --out takes a folder"),
    "a folder in the way": (lambda f, m: ["--out", m.faces], "is not empty and holds no run of zennas"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line(what, arguments, material, tmp_path):
    more, says = BAD[what]
    ended = ran(*arguments(*more(tmp_path, material)))
    lines = ended.stderr.strip().splitlines()
    assert ended.code == 2, ended.stderr
    assert lines[-1].startswith("error: ") and re.search(says, lines[-1]), ended.stderr
    assert not [line for line in lines[:-1] if line.startswith("error: ")]
    assert "error" not in ended.stdout
    assert read_metrics(tmp_path / "run") == [] and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(arguments):
    ended = ran(*arguments("--device", "cuda"))
    assert ended.code == 2 and "finds 0 GPU(s)" in ended.stderr


def test_a_run_goes_on_only_as_what_it_was(arguments):
    first = ran(*arguments("--any-size", "--epochs", 0.2))
    other = ran(*arguments("--any-size", "--epochs", 0.2, "--set", "loss.knobs.margin_rad=0.3", "--resume"))
    assert first.code == 0 and other.code == 2
    assert (
        "holds a run with other settings (loss.knobs.margin_rad: 0.2, now 0.3)" in other.stderr
        and "or --fresh" in other.stderr
    )
    # What moves no weight may change.
    kept = ran(*arguments("--any-size", "--epochs", 0.2, "--set", "checkpoint_minutes=1", "--set", "data.workers=1"))
    assert kept.code == 0 and "this training is done" in kept.said


def test_one_run_at_a_time(arguments):
    out = out_of(arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(out)
    ended = ran(*arguments())
    lock.release()
    assert ended.code == 2 and "another run is under way there" in ended.stderr


def test_centres_beyond_the_memory_are_refused(options, monkeypatch):
    monkeypatch.setattr(preparing, "free_memory", lambda device: 1000)
    with pytest.raises(
        UserError, match=r"12 class centres of 64 numbers take .* are free; give more ranks, or a lower"
    ):
        trained(options())


@pytest.mark.parametrize("layout", ["faces", "tar", "records"])
def test_pairs_of_faces_that_are_trained_on_are_told(material, options, layout, tmp_path):
    """Whatever the layout; of people who are not among them nothing is said."""
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1\t1\n" + "p00\t1\t2\np00\t3\tp05\t2\n")
    request = options(data=getattr(material, layout), verify=(f"{pairs}@{material.faces}", material.held_out))
    data = task_of("face").open_data(request, silent())
    sets = prepare.open_sets(request, Ranks())
    *_, notice = prepare.noticed(request, data, sets, silent()).notices
    assert notice.startswith(f"--verify {pairs}@{material.faces}: 4 of its 4 images are trained on, too, the first: ")
    assert prepare.noticed(request, data, sets[1:] * 2, silent()) == data
