"""How a training goes on: from an older checkpoint, from another run's, after a verification that failed."""

import json

import numpy as np
import pytest
import torch

from tests.embed.public_networks import IResNet, seeded_state
from tests.train.conftest import STEPS_PER_EPOCH, differing, tensors, trained, training
from zennas.embed.checkpoint import load_network, save_network
from zennas.embed.model import open_model
from zennas.progress import silent
from zennas.ranks import EveryRankError, Ranks
from zennas.records import UserError
from zennas.space.network import build
from zennas.tasks.face import verify as face_verify
from zennas.tasks.face.verify import open_set, verify
from zennas.tasks.identity.guide import Guide
from zennas.train import checkpoints, loop, rank
from zennas.train.journal import TRAIN, read_metrics
from zennas.train.options import Options
from zennas.train.rank import train_on


def test_a_damaged_checkpoint_is_passed_over(options):
    whole = trained(options("checkpoint_minutes=1e-9", "keep_checkpoints=3"))
    folder = whole.out / "checkpoints"
    newest = checkpoints.checkpoints_in(folder)[-1]
    (newest / "common.pt").write_bytes(b"torn")
    again = training(whole.job.request)
    again.run()
    assert again.first_step == 2 * STEPS_PER_EPOCH - 1
    assert differing(tensors(again), tensors(whole)) == []


def test_where_no_checkpoint_can_be_read_it_is_said(options):
    whole = trained(options())
    for path in checkpoints.checkpoints_in(whole.out / "checkpoints"):
        (path / "common.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read: --fresh begins anew"):
        trained(whole.job.request)


def test_from_begins_with_the_weights_of_another_run(options):
    one = trained(options("epochs=1"))
    (kept,) = checkpoints.checkpoints_in(one.out / "checkpoints")
    other = training(options("epochs=2", "optimizer.lr=0.01", out="other", from_=kept))
    other._resume()
    assert other.first_step == STEPS_PER_EPOCH and differing(tensors(other), tensors(one)) == []
    other = trained(options("epochs=2", "optimizer.lr=0.01", out="other", from_=kept))
    assert other.first_step == STEPS_PER_EPOCH and differing(tensors(other), tensors(one)) != []


def test_from_a_checkpoint_beyond_the_end_is_refused(options, tmp_path):
    one = trained(options("epochs=2"))
    (kept,) = checkpoints.checkpoints_in(one.out / "checkpoints")
    with pytest.raises(UserError, match=r"is at step 12, and this training ends at step 6: nothing would be trained"):
        trained(options("epochs=1", out="other", from_=kept))
    with pytest.raises(UserError, match=r"--from .*: no checkpoint; give a folder such as OUT/checkpoints/step-0"):
        trained(options(out="third", from_=one.out))


def test_another_number_of_micro_batches_goes_on(options):
    """Eight ranks become one with eight micro-batches: the same run."""
    data, one = training(options()).job.data, options()
    other = options("accumulate=4", "channels_last=false", "verify_epochs=2")
    assert one.settings(data, None) == other.settings(data, None)
    assert one.settings(data, None) != options("optimizer.lr=1").settings(data, None)


def test_another_teacher_of_the_same_name_is_another_run(options, tmp_path):
    folders = []
    for seed in (1, 2):
        folders.append(tmp_path / str(seed) / "teacher")
        folders[-1].mkdir(parents=True)
        save_network(folders[-1] / "network.pt", training(options(f"seed={seed}", out=f"t{seed}")).network)
    train_on(options("epochs=1", teacher=folders[0]), Ranks(), silent())
    with pytest.raises(UserError, match=r"holds a run with other settings .*teacher"):
        train_on(options("epochs=1", teacher=folders[1]), Ranks(), silent())


def test_a_finished_training_is_measured_anew_where_that_is_asked(options, monkeypatch):
    first = train_on(options("epochs=1"), Ranks(), silent())
    steps = []
    monkeypatch.setattr(loop.Training, "_step", lambda *_: steps.append(1))
    again = train_on(options("epochs=1", budget_ms=5.0), Ranks(), silent())
    assert steps == [] and again["latency"]["budget_ms"] == 5.0 != first["latency"]["budget_ms"]
    monkeypatch.setattr(rank, "finish", None)  # and not measured again without a reason
    assert train_on(options("epochs=1", budget_ms=5.0), Ranks(), silent()) == again


def test_a_verification_that_fails_ends_no_training(options, material, monkeypatch):
    calls = []

    def failing(*arguments, **others):
        calls.append(1)
        if len(calls) == 2:
            raise UserError("the network gives embeddings that are not finite")
        return verify(*arguments, **others)

    monkeypatch.setattr(face_verify, "verify", failing)
    one = trained(options(verify=(material.held_out,)))
    entries = [json.loads(line) for line in (one.out / "metrics.jsonl").read_text().splitlines()]
    accuracies = [entry["accuracy"] for entry in entries if entry["kind"].startswith("verify/")]
    assert len(accuracies) == 3 and accuracies[1] is None and None not in (accuracies[0], accuracies[2])


@pytest.mark.parametrize("stopped", [1, 2, 4])  # before the first step, after the first epoch, after the last
def test_a_verification_that_is_stopped_is_made_up_for(options, material, monkeypatch, stopped):
    """What it had judged by then stands in the journal once."""
    calls, note = [], loop.Training._note

    def stopping(*arguments, **others):
        note(*arguments, **others)
        calls.append(1)
        if len(calls) == stopped:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "_note", stopping)
    given = options("epochs=3", verify=(material.held_out,))
    with pytest.raises(KeyboardInterrupt):
        trained(given)
    trained(given)
    entries = read_metrics(given.out)
    judged = [entry["step"] for entry in entries if entry["kind"].startswith("verify/")]
    assert judged == [epoch * STEPS_PER_EPOCH for epoch in range(4)]
    assert [entry["step"] for entry in entries if entry["kind"] == TRAIN] == list(range(1, 3 * STEPS_PER_EPOCH + 1))


def test_verifying_and_saving_are_no_time_of_training(options, material, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def slow(pair_set, embed_batch, *, image_px, progress=None):
        now[0] += 1000
        return verify(pair_set, embed_batch, image_px=image_px)

    def step(self, batch, *, save):
        now[0] += 1
        return loop.Taken(1.0, 1.0, False, False)

    monkeypatch.setattr(face_verify, "verify", slow)
    monkeypatch.setattr(loop.Training, "_step", step)
    assert trained(options(verify=(material.held_out,))).seconds == 2 * STEPS_PER_EPOCH


def test_an_image_the_teacher_could_not_see_teaches_nothing(options, material, tmp_path):
    save_network(tmp_path / "network.pt", training(options(out="teacher")).network)
    one = training(options("distill.name=feature_consistency", teacher=tmp_path / "network.pt"))
    guide, batch = one.job.head.guide, next(iter_batches(one))
    student_BD = torch.randn(len(batch.label_B), 64, requires_grad=True)
    whole = guide.loss(student_BD, (), batch)
    torn_ND = np.array(guide.embedding_ND)
    torn_ND[batch.index_B[:4].numpy()] = np.nan
    guide.embedding_ND = torn_ND
    rest = guide.loss(student_BD, (), batch)
    rest.backward()
    assert torch.isfinite(rest) and rest < whole
    assert not student_BD.grad[:4].any() and student_BD.grad[4:].any(1).all()


def iter_batches(one):
    from zennas.data.stream import image_stream

    return iter(image_stream(one.job.data.source, batch=16, image_px=32, seed=0, last_step=1))


def test_the_student_alone_sees_little(options, tmp_path):
    """A-SKD: the teacher has the whole image."""
    save_network(tmp_path / "network.pt", training(options(out="teacher")).network)
    one = training(options("distill.student_px=[8]", "distill.precompute=false", teacher=tmp_path / "network.pt"))
    image_B3HW = torch.rand(2, 3, 32, 32)
    seen_B3HW = one.job.head.guide.seen_by_student(image_B3HW, 0)
    assert torch.equal(seen_B3HW, image_B3HW[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))
    tall_B3HW = torch.rand(2, 3, 64, 32)  # of a person: no side is squeezed more than the other
    seen_B3HW = one.job.head.guide.seen_by_student(tall_B3HW, 0)
    assert torch.equal(seen_B3HW, tall_B3HW[:, :, ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))
    one.run()


def test_attention_has_no_projection(options, tmp_path):
    """A weight without a gradient would stop parallel training."""
    plan, winner = options().plan.distill, tmp_path / "winner.yaml"
    winner.write_text("{block: ir_cbam, stem: 16, widths: [16, 32], depths: [1, 1]}\n")
    teacher = training(options(out="teacher", winner=winner)).network
    other = build(teacher.candidate, teacher.shape.model_copy(update={"embedding_size": 48}))
    save_network(tmp_path / "network.pt", other)
    one = training(options("distill.name=attention", teacher=tmp_path / "network.pt", winner=winner))
    assert one.job.head.guide.projection is None and one.job.head.guide.weight == 5.0 and plan.weight is None
    one.run()


def test_a_folder_that_not_all_nodes_share_is_said_before_an_older_checkpoint_goes(options):
    one = trained(options())
    lonely = Ranks(0, 2)
    lonely.objects, lonely.barrier = lambda value: [value], lambda: None
    with pytest.raises(EveryRankError, match=r"rank 1 wrote it, and it is not here: --out must be a folder that every"):
        checkpoints.save(one.out / "checkpoints", 99, common={}, head=one.head, ranks=lonely, keep=1)
    assert len(checkpoints.checkpoints_in(one.out / "checkpoints")) == 1


def test_a_mistake_of_another_rank_is_said_with_its_number(material, monkeypatch):
    from zennas.train import run

    monkeypatch.setenv("RANK", "3")
    for error, kind, words in (
        (UserError("no room"), UserError, "rank 3: no room"),
        (EveryRankError("no room"), SystemExit, "2"),
    ):

        def failing(*_, error=error, **__):
            raise error

        monkeypatch.setattr(run, "launch", failing)
        with pytest.raises(kind, match=words):
            run.run(Options(track=material.experiment, data=material.faces, winner=material.winner, any_size=True))


def test_guides_ask_a_teacher_before_anything_is_precomputed(options, tmp_path, monkeypatch):
    save_network(tmp_path / "network.pt", training(options(out="teacher")).network)
    monkeypatch.setattr(Guide, "loss", None)
    winner = tmp_path / "winner.yaml"
    winner.write_text("{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 1]}\n")
    with pytest.raises(UserError, match="do not pair"):
        training(options("distill.name=attention", teacher=tmp_path / "network.pt", winner=winner))


# --- from the weights of a network


def backbone(folder, *, seed=0, depths=(1, 1), size=64):
    """The file of an IResNet as another project writes it."""
    theirs = IResNet(depths, stem=8, widths=(8, 16), size=size, px=32)
    state = seeded_state(theirs, seed)
    torch.save({f"module.{name}": weight for name, weight in state.items()}, folder / f"backbone{seed}.pth")
    return folder / f"backbone{seed}.pth"


def test_from_weights_begins_with_them_at_step_0(options, material, tmp_path):
    path = backbone(tmp_path)
    one = training(options("optimizer.lr=0.001", from_=path, winner=None, verify=(material.held_out,)))
    network = load_network(path)
    assert (
        one.job.request.candidate.text == "ir-8-8x1-16x1"
        and differing(one.network.state_dict(), network.state_dict()) == []
    )
    one.run()
    assert one.first_step == 0 and differing(one.network.state_dict(), network.state_dict()) != []
    model = open_model(path)
    began = verify(open_set(material.held_out), lambda image: model(image).embedding_BD, image_px=32)
    entries = [json.loads(line) for line in (one.out / "metrics.jsonl").read_text().splitlines()]
    accuracies = [entry["accuracy"] for entry in entries if entry["kind"].startswith("verify/")]
    assert accuracies[0] == pytest.approx(began.accuracy, abs=0.011)  # as they are, not with statistics of a batch


def test_a_training_goes_on_from_its_own_weights(options, tmp_path):
    result = train_on(options("epochs=1", from_=backbone(tmp_path), winner=None), Ranks(), silent())
    assert result["from"].endswith("backbone0.pth") and result["candidate"]["block"] == "ir"
    assert "backbone0.pth" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UserError, match=r"holds a run with other settings .*from: "):
        train_on(options("epochs=1", from_=backbone(tmp_path, seed=1), winner=None), Ranks(), silent())
    # What it wrote is a network to begin from, too, and its folder is.
    for kept in (tmp_path / "run", tmp_path / "run" / "network.pt"):
        again = training(options(from_=kept, winner=None, out="again"))
        assert differing(again.network.state_dict(), load_network(kept).state_dict()) == []


def test_weights_that_do_not_go_with_the_rest_are_refused(options, material, tmp_path):
    for given, words in (
        (
            {"from_": backbone(tmp_path)},
            r"--from .*: the network of ir-8-8x1-16x1, and --winner .* is ir_se-8-8x1-16x1",
        ),
        (
            {"from_": backbone(tmp_path, seed=1, size=65), "winner": None},
            r"--from .*: its network has 32 px, 65-d, the space tiny 32 px, 64-d; choose another --track",
        ),
        ({"from_": material.winner, "winner": None}, "--from .*winner.yaml: not a network of zennas"),
    ):
        with pytest.raises(UserError, match=words):
            options(**given)
    request = options(from_=backbone(tmp_path), winner=None)
    backbone(tmp_path).write_bytes(backbone(tmp_path, seed=2).read_bytes())
    with pytest.raises(UserError, match="holds other weights than when this training was asked for"):
        training(request)
