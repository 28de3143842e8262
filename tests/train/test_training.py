"""The loop: it learns, it does the same again, it bears what is broken, and every row of every table goes through
it."""

import json
import pathlib
import re

import cv2
import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from tests.shapes import square
from tests.train.conftest import (
    IMAGES_EACH,
    NUM_IDENTITIES,
    PX,
    RECIPE,
    STEPS_PER_EPOCH,
    differing,
    drawn_faces,
    kept_tensors,
    tensors,
    trained,
    training,
    write_folder,
)
from zennas.data.images import AUGMENTATIONS
from zennas.data.inputs import normalised
from zennas.embed.checkpoint import save_network
from zennas.embed.model import open_model
from zennas.export.onnx_file import export
from zennas.progress import Progress, duration
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build, calibrate
from zennas.tasks.identity import head
from zennas.tasks.identity.distill import DISTILLATIONS
from zennas.tasks.identity.losses import LOSSES
from zennas.train import loop
from zennas.train.checkpoints import checkpoints_in
from zennas.train.journal import read_metrics
from zennas.train.optimizers import OPTIMIZERS, SCHEDULES

TWO_STEPS = f"epochs={2 / STEPS_PER_EPOCH}"


def entries(one, kind):
    return [entry for entry in read_metrics(one.out) if entry["kind"] == kind]


def test_it_learns_what_it_has_never_seen(options, material):
    """Pairs of other people: the untrained network sees the light alone, the trained one the colours."""
    one = trained(options("epochs=6", verify=(material.held_out,)))
    losses = [entry["loss"] for entry in entries(one, "train")]
    assert len(losses) == 6 * STEPS_PER_EPOCH
    assert np.mean(losses[-6:]) < 0.1 * np.mean(losses[:3])
    course = entries(one, "verify/others")
    assert [entry["step"] for entry in course] == [STEPS_PER_EPOCH * epoch for epoch in range(7)]
    # Of 200 pairs: chance is 0.5 +- 0.035, the untrained network about 0.8, the trained one above 0.97 with three
    # seeds.
    assert course[0]["accuracy"] < 0.9
    assert course[-1]["accuracy"] > 0.94
    rates = [entry["lr"] for entry in entries(one, "train")]
    assert rates[0] == 0.05 and rates == sorted(rates, reverse=True)


SAME = ("data.augment={flip: {}, photometric: {}}", "loss.sampling_rate=0.5", "loss.name=adaface", TWO_STEPS)


def test_a_seed_decides_every_bit(options, material):
    first = tensors(trained(options(*SAME)))
    assert any(torch.is_tensor(value) and value.is_floating_point() for value in first.values())
    same = {
        "again": {},
        "decoded by another process": {"changes": ("data.workers=1",)},
        "from a tar": {"data": material.tar},
        "from RecordIO": {"data": material.records},
    }
    for what, others in same.items():
        more = others.pop("changes", ())
        assert differing(first, tensors(trained(options(*SAME, *more, out=what, **others)))) == [], what
    other = tensors(trained(options(*SAME, "seed=1", out="other")))
    assert {"network.neck.3.weight", "head.centre"} & set(first) <= set(differing(first, other))


# --- what is broken --------------------------------------------------------------------------------------------------


def poisoned(monkeypatch, bad_calls):
    """Let the network see NaN in these of the loop's batches."""
    calls, real = [0], head.normalised

    def normalised(*args, **options):
        calls[0] += 1
        image_B3HW = real(*args, **options)
        return image_B3HW.fill_(torch.nan) if calls[0] in bad_calls else image_B3HW

    monkeypatch.setattr(head, "normalised", normalised)


@pytest.mark.parametrize("changes", [(), ("accumulate=2",), ("optimizer.name=adamw", "loss.sampling_rate=0.5")])
def test_a_step_without_finite_numbers_changes_nothing(options, monkeypatch, changes):
    num = 2 if changes == ("accumulate=2",) else 1  # the first micro-batch of step 2 has been added up by then
    poisoned(monkeypatch, {2 * num})
    one = training(options(TWO_STEPS, *changes))
    kept, step = [], one._step

    def watched(batch, **others):
        result = step(batch, **others)
        kept.append({name: value.clone() for name, value in tensors(one).items()})
        return result

    one._step = watched
    one.run()
    first, second = kept
    # BatchNorm counts its batches, and with a fixed momentum does nothing with the number.
    assert [name for name in differing(first, second) if "num_batches_tracked" not in name] == []
    assert all(value.isfinite().all() for value in second.values())
    assert (one.num_skipped, one.skipped_in_a_row, one.head.classifier.num_steps) == (1, 1, 2)
    (said,) = entries(one, "skipped")
    assert said["step"] == 2 and "step 1: loss nan" in said["why"] and "skipped (1 so far)" in said["why"]


def test_training_goes_on_after_a_skipped_step(options, monkeypatch):
    poisoned(monkeypatch, {2})
    one = trained(options(f"epochs={4 / STEPS_PER_EPOCH}", "max_skipped_in_a_row=2"))
    assert (one.num_skipped, one.skipped_in_a_row) == (1, 0)
    assert [entry["step"] for entry in entries(one, "train")] == [1, 2, 3, 4]
    assert all(value.isfinite().all() for value in tensors(one).values())


def test_a_diverged_training_stops_and_names_its_last_good_checkpoint(options, monkeypatch):
    poisoned(monkeypatch, set(range(4, 100)))
    one = training(options("checkpoint_minutes=1e-9", "max_skipped_in_a_row=3", "keep_checkpoints=9"))
    with pytest.raises(UserError, match="3 steps in a row without a finite loss") as error:
        one.run()
    (named,) = re.findall(r"the last good checkpoint is (\S+);", str(error.value))
    assert named == str(checkpoints_in(one.out / "checkpoints")[-1])
    kept = kept_tensors(pathlib.Path(named))
    assert all(value.isfinite().all() for value in kept.values())
    # What the steps in between changed is nothing.
    third = kept_tensors(one.out / "checkpoints" / "step-000000003")
    assert [name for name in differing(kept, third) if "num_batches_tracked" not in name] == []


def test_a_far_too_high_rate_is_a_clear_end(options):
    changes = ("optimizer.lr=1e30", "optimizer.clip_norm=null", "max_skipped_in_a_row=3", "epochs=4")
    with pytest.raises(
        UserError, match=r"3 steps in a row without a finite loss; .*; try a lower optimizer\.lr, a longer warm-up"
    ):
        trained(options(*changes))


def with_corrupt(folder, places):
    faces = list(drawn_faces(NUM_IDENTITIES, IMAGES_EACH, seed=0))
    write_folder(folder, faces)
    paths = sorted(folder.glob("*/*.png"))
    for place in places:
        paths[place].write_bytes(paths[place].read_bytes()[:200])
    return [paths[place] for place in places]


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_images_are_skipped_counted_and_listed_once(options, tmp_path, workers):
    broken = with_corrupt(tmp_path / "faces", [0, 17, 18])
    one = trained(options("epochs=2", f"data.workers={workers}", data=tmp_path / "faces"))
    assert len(one.corrupt) == 3
    listed = [json.loads(line) for line in (one.out / "corrupt-0.jsonl").read_text().splitlines()]
    assert sorted(entry["where"] for entry in listed) == sorted(f"{path.parent.name}/{path.name}" for path in broken)
    assert all(entry["why"] for entry in listed)
    assert all(value.isfinite().all() for value in tensors(one).values())


def test_a_corrupt_image_is_counted_once_however_often_the_run_is_begun(options, tmp_path):
    with_corrupt(tmp_path / "faces", [5, 40])
    one = trained(options("epochs=1", data=tmp_path / "faces"))
    with open(one.out / "corrupt-0.jsonl", "a") as file:
        file.write('{"where": "p0')  # a kill tore it
    again = trained(options("epochs=2", data=tmp_path / "faces"))
    assert again.first_step == STEPS_PER_EPOCH and again.corrupt == one.corrupt and len(one.corrupt) == 2
    assert len((one.out / "corrupt-0.jsonl").read_text().splitlines()) == 3


def test_data_without_any_image_that_decodes_is_refused(options, tmp_path):
    with_corrupt(tmp_path / "faces", range(NUM_IDENTITIES * IMAGES_EACH))
    with pytest.raises(UserError, match="the first ten images are corrupt"):
        training(options(data=tmp_path / "faces"))


def test_few_images_of_which_none_decodes_are_refused(options, tmp_path):
    write_folder(tmp_path / "few", list(drawn_faces(2, 2, seed=0)))
    paths = sorted((tmp_path / "few").glob("*/*.png"))
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=f"all {len(paths)} images are corrupt; the last: "):
        training(options(data=tmp_path / "few"))


def test_the_journal_closes_where_a_training_ends_early(options, monkeypatch):
    closed, close = [], loop.Journal.close

    def noted(journal):
        closed.append(journal)
        close(journal)

    monkeypatch.setattr(loop.Journal, "close", noted)
    with pytest.raises(UserError, match="without a finite loss"):
        trained(options("optimizer.lr=1e30", "optimizer.clip_norm=null", "max_skipped_in_a_row=3", "epochs=4"))
    assert len(closed) == 1


# --- ways to go a step -----------------------------------------------------------------------------------------------


def test_micro_batches_add_up_to_the_batch(options):
    """Where the norms take no statistics of the batch, two halves have the gradient of the whole."""
    found = []
    for accumulate in (1, 2, 4):
        changes = ("loss.name=cosface", "loss.knobs={scale: 16.0}", f"accumulate={accumulate}", TWO_STEPS)
        one = training(options(*changes, out=f"run-{accumulate}"))
        calibrate(one.network, torch.randn(64, 3, PX, PX, generator=torch.Generator().manual_seed(0)))
        one.network.eval()
        before = {name: value.clone() for name, value in tensors(one).items()}
        one.run()
        found.append(tensors(one))
    for other in found[1:]:
        for name, value in found[0].items():
            # Sums of float32 in another order, through two steps.
            torch.testing.assert_close(
                other[name], value, rtol=2e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert "head.centre" in differing(before, found[-1])


def moves(one):
    """Run a Training; assert that all of it moved, and that nothing was skipped."""
    before = {name: value.clone() for name, value in tensors(one).items()}
    one.run()
    after = tensors(one)
    # The counts of images are what a checkpoint holds, and never move.
    still = [name for name in before if torch.equal(before[name], after[name]) and "running" not in name]
    assert set(still) <= {"head.log_count"} and one.num_skipped == 0
    assert all(value.isfinite().all() for value in after.values())
    return one


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(options, name):
    one = moves(training(options(f"loss.name={name}", TWO_STEPS)))
    assert [entry["step"] for entry in entries(one, "train")] == [1, 2]
    assert set(LOSSES[name].buffers) <= set(entries(one, "train")[0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(options, name):
    moves(training(options(f"optimizer.name={name}", TWO_STEPS)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_trains(options, name):
    changes = ["schedule.name=" + name, "schedule.warmup_epochs=0.5", "epochs=1"]
    changes += ["schedule.milestones=[0.6]"] if name == "step" else []
    one = moves(training(options(*changes)))
    rates = [entry["lr"] for entry in entries(one, "train")]
    assert rates[:3] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05], abs=1e-6)  # metrics keep six places
    assert (rates[-1] < 0.05) == (name != "constant")


def test_a_recipe_in_steps_trains_the_same(options, material):
    """Eight steps, judged every three, warmed up for two, dropped after five: to the last bit what epochs give."""
    given = {"verify": (material.held_out,)}
    step = (
        "steps=8",
        "verify_steps=3",
        "schedule.name=step",
        "schedule.warmup_steps=2",
        "schedule.milestone_steps=[5]",
    )
    one = trained(options(*step, **given))
    assert [entry["step"] for entry in entries(one, "verify/others")] == [0, 3, 6, 8]
    rates = [entry["lr"] for entry in entries(one, "train")]
    assert rates == pytest.approx([0.025, 0.05, 0.05, 0.05, 0.05, 0.005, 0.005, 0.005])
    assert [entry["epoch"] for entry in entries(one, "train")] == pytest.approx([n / 6 for n in range(1, 9)], abs=1e-6)
    epoch = [f"epochs={8 / STEPS_PER_EPOCH}", f"verify_epochs={3 / STEPS_PER_EPOCH}", "schedule.name=step"]
    epoch += [f"schedule.warmup_epochs={2 / STEPS_PER_EPOCH}", f"schedule.milestones=[{5 / STEPS_PER_EPOCH}]"]
    assert differing(tensors(one), tensors(trained(options(*epoch, out="epochs", **given)))) == []


@pytest.mark.parametrize("changes", [("steps=3", "schedule.warmup_epochs=1"), ("schedule.warmup_steps=12",)])
def test_a_warm_up_longer_than_the_training_is_refused(options, changes):
    with pytest.raises(
        UserError, match=r"the warm-up \(\d+ steps\) must be shorter than the training .*; 6 are an epoch"
    ):
        training(options(*changes))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_trains(options, name):
    plain = trained(options(TWO_STEPS, "data.augment={}", out="plain"))
    changed = trained(options(TWO_STEPS, f"data.augment={{{name}: {{p: 1.0}}}}"))
    assert differing(tensors(plain), tensors(changed))


@pytest.mark.parametrize(
    "changes",
    [
        ("precision=bf16",),
        ("channels_last=false",),
        ("data.images_per_identity=4",),
        ("loss.sampling_rate=0.4", "loss.correct_sampling=true", "loss.filter_threshold=0.5"),
        ("optimizer.clip_norm=null", "optimizer.decay_norms=false"),
        ("optimizer.clip_norm=0.01",),
    ],
    ids=" ".join,
)
def test_other_choices_train(options, changes):
    moves(training(options(*changes, TWO_STEPS)))


@pytest.mark.slow
def test_a_compiled_network_trains(options):
    """torch.compile orders sums differently: the losses are near, not the same."""
    found = [entries(trained(options(TWO_STEPS, f"compile={flag}", out=flag)), "train") for flag in ("true", "false")]
    assert [entry["loss"] for entry in found[0]] == pytest.approx([entry["loss"] for entry in found[1]], rel=1e-2)


def test_class_weights_and_clipping_bound_the_step(options):
    """The norm that is told is the one before clipping; what is applied is not longer than clip_norm."""
    changes = ("optimizer.clip_norm=0.01", "optimizer.momentum=0", "optimizer.weight_decay=0", "epochs=0.1")
    one = training(options(*changes))
    before = [weight.detach().clone() for weight in one.student.parameters()]
    one.run()
    (entry,) = entries(one, "train")
    moved = sum((new - old).square().sum() for new, old in zip(one.student.parameters(), before, strict=True)).sqrt()
    assert entry["gradient"] > 1
    assert moved.item() == pytest.approx(0.05 * 0.01, rel=1e-2)  # the differences of float32 weights have few digits


# --- a teacher -------------------------------------------------------------------------------------------------------


def teacher_file(folder, *, embedding_size=64, block="ir_cbam", px=PX, onnx=False):
    """A teacher whose answers differ between faces: built, calibrated, saved."""
    folder.mkdir(parents=True, exist_ok=True)
    candidate = Candidate.parse({"block": block, "stem": 8, "widths": [8, 16], "depths": [1, 1]}, "here")
    generator = torch.Generator().manual_seed(7)
    network = build(candidate, square(px, embedding_size), generator=generator)
    calibrate(network, torch.randn(32, 3, px, px, generator=generator))
    network.eval()
    if onnx:
        (folder / "teacher.onnx").write_bytes(export(network, square(px)).onnx_bytes)
        return folder / "teacher.onnx"
    save_network(folder / "network.pt", network)
    return folder


@pytest.fixture
def cbam_winner(tmp_path):
    path = tmp_path / "cbam.yaml"
    path.write_text("{block: ir_cbam, stem: 8, widths: [8, 16], depths: [1, 1]}\n")
    return path


@pytest.mark.parametrize("name", DISTILLATIONS)
@pytest.mark.parametrize("precompute", [True, False])
def test_every_distillation_trains(options, tmp_path, cbam_winner, name, precompute):
    if DISTILLATIONS[name].needs == "neighbours_BKD" and not precompute:
        pytest.skip("refused: it mines the embeddings before")
    changes = (f"distill.name={name}", f"distill.precompute={precompute}", TWO_STEPS)
    taught = options(*changes, teacher=teacher_file(tmp_path / "teacher"), winner=cbam_winner, out="taught")
    alone = options(TWO_STEPS, winner=cbam_winner, out="alone")
    one, other = moves(training(taught)), trained(alone)
    assert "network.neck.2.weight" in differing(tensors(one), tensors(other))
    assert (list(taught.out.glob("teacher-*.npy")) != []) == (precompute and name != "attention")


@pytest.mark.parametrize("name", [name for name in DISTILLATIONS if name != "attention"])
def test_a_teacher_of_another_size_is_met_by_a_projection(options, tmp_path, name):
    """As ONNX, with 48 numbers where the student has 64, at 40 px where it has 32."""
    teacher = teacher_file(tmp_path / "teacher", embedding_size=48, px=40, onnx=True)
    one = moves(training(options(f"distill.name={name}", "distill.class_weight=0.5", TWO_STEPS, teacher=teacher)))
    assert tensors(one)["projection.weight"].shape == (48, 64)


def test_distillation_alone_brings_the_student_nearer_to_its_teacher(options, tmp_path):
    changes = ("distill.name=angular", "distill.class_weight=0", "epochs=4", "optimizer.lr=0.2")
    one = trained(options(*changes, teacher=teacher_file(tmp_path / "teacher")))
    losses = [entry["loss"] for entry in entries(one, "train")]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_a_distillation_that_cannot_be_is_refused(options, tmp_path):
    teacher = teacher_file(tmp_path / "teacher")
    with pytest.raises(UserError, match="precompute must be true"):
        training(options("distill.name=coupleface", "distill.precompute=false", teacher=teacher))
    with pytest.raises(UserError, match="nothing is left to learn from"):
        training(options("distill.class_weight=0"))
    other = teacher_file(tmp_path / "other", px=40)
    with pytest.raises(UserError, match="images of 40 x 40, the student of 32 x 32"):
        training(options("distill.precompute=false", teacher=other))
    with pytest.raises(UserError, match=r"takes images of 40 x 40; distill\.teacher\.image_px says 48"):
        training(options("distill.teacher.image_px=48", teacher=other))


def test_faces_look_as_they_are_meant_to():
    """What the tests above hang on: the light differs more between images of a person than the colours do between
    people.
    """
    faces = [(identity, image_HW3.astype(float)) for identity, _, image_HW3 in drawn_faces(6, 6, seed=3)]
    light_NP = np.array([cv2.resize(image.mean(2), (4, 4)).ravel() for _, image in faces])
    colour_NP = np.array([cv2.resize(image - image.mean(2, keepdims=True), (4, 4)).ravel() for _, image in faces])
    assert light_NP.std(0).mean() > 1.5 * colour_NP.std(0).mean()
    assert RECIPE["batch"] < len(faces)


@pytest.mark.parametrize(("channels", "image_px"), [(1, [32, 16]), (3, [16, 32])])
def test_a_step_with_images_that_are_grey_or_no_squares(options, material, tmp_path, channels, image_px):
    """Read, turned grey, seen by the network, judged on pairs and kept: at the space's own shape."""
    values = yaml.safe_load((material.experiment.parent / "space.yaml").read_text())
    values |= {"image_px": image_px, "channels": channels}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(values))
    made = training(options("epochs=0.1", space=str(tmp_path / "space.yaml"), verify=(material.held_out,)))
    made.run()
    assert made.job.network.input_shape == (channels, *image_px)
    save_network(tmp_path / "network.pt", made.job.network)
    model = open_model(tmp_path / "network.pt")
    images = torch.randint(0, 256, (2, *image_px, 3), dtype=torch.uint8)
    seen = normalised(images, torch.device("cpu"), channels=channels)
    with torch.no_grad():
        expected = made.job.network.eval()(seen)
    assert model.input_hw == tuple(image_px) and torch.allclose(model(images).embedding_BD, expected, atol=1e-5)
    exported = export(made.job.network, made.job.network.shape).onnx_bytes
    (tmp_path / "model.onnx").write_bytes(exported)
    assert torch.allclose(open_model(tmp_path / "model.onnx")(images).embedding_BD, expected, atol=1e-4)


class Shown(Progress):
    """Keeps what a training says of its steps."""

    def __init__(self):
        super().__init__(Console(quiet=True))
        self.fields = []

    def update(self, fields):
        self.fields.append(dict(fields))


def test_the_time_that_is_left_heeds_no_first_step(options, monkeypatch):
    """The first one compiles the network: 1,000 seconds here, where all others take one."""
    monkeypatch.setattr(loop.Training, "_clock", lambda self: 1000.0 * (self.step > 0) + self.step)
    one = training(options("epochs=1"), progress=Shown())
    one.run()
    steps = [fields for fields in one.progress.fields if "step" in fields]
    assert "left" not in steps[0] and len(steps) == STEPS_PER_EPOCH
    lefts = [fields["left"] for fields in steps[1:]]
    assert lefts == [duration(STEPS_PER_EPOCH - step) for step in range(2, STEPS_PER_EPOCH + 1)]
