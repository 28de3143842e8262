"""Training on masked faces: data.mask of the recipe, and the stream that masks."""

import cv2
import numpy as np
import pytest
import torch

from tests.train.conftest import differing, tensors, trained
from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.data.stream import image_stream
from zennas.mask.masker import Masker, masker_of
from zennas.mask.synthetic import Scene, synthetic_face
from zennas.mask.textures import wardrobe
from zennas.progress import silent
from zennas.records import UserError
from zennas.tasks.face.plan import FacePlan, MaskPlan
from zennas.tasks.table import task_of
from zennas.train.request import changed_plan

NUM_PEOPLE, EACH, PX = 6, 8, 56
AUGMENT = {"flip": {"p": 0.5}, "photometric": {"p": 0.5}}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Records of synthetic faces; one image in the middle does not decode."""
    folder = tmp_path_factory.mktemp("synthetic")
    with RecordWriter(folder, image_px=PX) as writer:
        for person in range(NUM_PEOPLE):
            for number in range(EACH):
                scene = Scene(yaw_deg=5.0 * number - 18, skin=0.6 + 0.08 * person, seed=person)
                image_HW3, _ = synthetic_face(scene, image_px=PX)
                encoded = cv2.imencode(".png", image_HW3[..., ::-1])[1].tobytes()
                writer.add(b"not an image" if (person, number) == (2, 3) else encoded, person)
    return folder


def batches(faces, **options):
    given = {"batch": 16, "image_px": PX, "seed": 5, "last_step": 6, "augmentations": AUGMENT}
    return list(image_stream(open_source(faces), **given | options))


def masker(ratio=0.5):
    return Masker(wardrobe(seed=5), ratio=ratio)


def pixels(found):
    return torch.cat([batch.image_BHW3 for batch in found])


def test_a_share_is_masked_and_the_others_are_untouched(faces):
    """As many as the ratio says, and what is not masked is bit for bit what it is without a masker."""
    plain, masked = batches(faces), batches(faces, masker=masker(0.5))
    for one, other in zip(plain, masked, strict=True):
        assert torch.equal(one.index_B, other.index_B) and torch.equal(one.label_B, other.label_B)
    changed = (pixels(plain) != pixels(masked)).flatten(1).any(1)
    assert abs(int(changed.sum()) - 48) < 5 * (96 / 4) ** 0.5  # five deviations of a binomial
    lower = (pixels(plain)[changed].float() - pixels(masked)[changed].float()).abs()
    assert lower[:, PX // 2 :].mean() > 5 * lower[:, : PX // 3].mean()


def test_ratio_nothing_is_no_masker(faces):
    assert masker_of(None, seed=0) is None and masker_of(MaskPlan(ratio=0.0), seed=0) is None
    assert torch.equal(pixels(batches(faces)), pixels(batches(faces, masker=masker(0.0))))


def test_ranks_and_workers_change_nothing(faces):
    whole = batches(faces, masker=masker())
    assert torch.equal(pixels(whole), pixels(batches(faces, masker=masker(), num_workers=2)))
    halves = [batches(faces, masker=masker(), rank=rank, num_ranks=2) for rank in range(2)]
    for one, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(one.image_BHW3, torch.cat([first.image_BHW3, second.image_BHW3]))
    late = batches(faces, masker=masker(), first_step=4)
    assert torch.equal(pixels(whole[4:]), pixels(late))


def test_masks_are_drawn_anew_every_epoch(faces):
    """The same image, wherever it comes again: not always masked, and not always by the same mask."""
    seen = {}
    for batch in batches(faces, masker=masker(0.7), augmentations={}, last_step=15):
        for index, image in zip(batch.index_B.tolist(), batch.image_BHW3, strict=True):
            seen.setdefault(index, set()).add(image.numpy().tobytes())
    assert np.mean([len(one) > 1 for one in seen.values()]) > 0.9


def test_a_corrupt_image_is_replaced_before_it_is_masked(faces):
    plain, masked = (batches(faces, masker=which) for which in (None, masker(1.0)))
    assert [batch.corrupt for batch in plain] == [batch.corrupt for batch in masked] and any(
        batch.corrupt for batch in plain
    )


def test_a_training_with_masks_is_the_same_with_any_number_of_workers(options, faces):
    changes = ["data.mask.ratio=0.5", "epochs=1"]
    alone = trained(options(*changes, "data.workers=0", data=faces, out="alone"))
    helped = trained(options(*changes, "data.workers=2", data=faces, out="helped"))
    assert differing(tensors(alone), tensors(helped)) == []
    without = trained(options("epochs=1", data=faces, out="without"))
    assert differing(tensors(alone), tensors(without))


def test_a_run_without_masks_is_what_it_was_before_there_were_any(options, faces):
    """Its settings say nothing of masks, so that an older run goes on; those of a masked one say what templates
    hold."""
    data = task_of("face").open_data(options(), silent())
    assert "mask" not in options().settings(data, None)["data"]
    assert options("data.mask.ratio=0.2").settings(data, None)["data"]["mask"]["ratio"] == 0.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.mask.ratio=1.5", "data.mask.ratio"),
        ("data.mask.kinds=[surgical]", "kind of mask 'surgical' is not known"),
        ("data.mask.knobs={siez: 0.1}", "did you mean 'size'"),
        ("data.mask.knobs={size: 3}", r"\[0, 0.25\]"),
        ("data.mask.faces=everywhere", "'everywhere' is not known"),
        ("data.mask.textures=nowhere", "no such folder"),
        ("data.mask.share=0.1", "'data.mask.share' is not known"),
    ],
)
def test_a_plan_that_cannot_be_used(options, change, said):
    with pytest.raises(UserError, match=said):
        options(change)


def test_the_plan_of_a_share_alone_is_mind_fts():
    plan = changed_plan(FacePlan(), ["data.mask={}"]).data.mask
    assert plan.ratio == 0.15 and plan.kinds is None and len(masker_of(plan, seed=0).dressing.names) == 8
