"""The reward of a search for faces against plain pairs."""

import itertools

import pytest
import torch

from tests.train.conftest import PX
from zennas.data.sources import open_source
from zennas.metrics.verification import tar_at_far
from zennas.tasks.face.people import rewards
from zennas.tasks.face.tune_plan import RewardPlan
from zennas.tasks.identity.people import split


def test_the_reward_is_the_weighted_tpr_over_all_pairs(material):
    source = open_source(material.faces)
    group = split(source, RewardPlan(held_out_share=0.5, test_share=0.1), seed=0).held_out
    projection_PD = torch.randn(PX * PX * 3, 5, generator=torch.Generator().manual_seed(0))

    def embed_batch(image_BHW3):
        return image_BHW3.flatten(1).float() @ projection_PD

    plan = RewardPlan(fprs=(0.2, 0.05), weights=(3.0, 1.0))
    found = rewards(group, source, embed_batch, plan, image_px=PX)
    rows = []
    for index in group.index_M:
        image_HW3 = torch.from_numpy(source.images.pixels(int(index), PX))
        rows.append(sum(embed_batch(one[None])[0] for one in (image_HW3, image_HW3.flip(1))).double())
    pairs = list(itertools.combinations(range(len(rows)), 2))
    cosines = [float(torch.nn.functional.cosine_similarity(rows[i], rows[j], dim=0)) for i, j in pairs]
    same = [group.label_M[i] == group.label_M[j] for i, j in pairs]
    tprs = [tar_at_far(cosines, same, fpr) for fpr in (0.2, 0.05)]
    assert [found["tpr@0.2"], found["tpr@0.05"]] == pytest.approx(tprs)
    assert found["reward"] == pytest.approx((3 * tprs[0] + tprs[1]) / 4) and 0 < tprs[1] < tprs[0]
