"""The official labels of Market-1501 at full size, and two published networks on real crops.

Opt-in: ZENNAS_DATA names a folder with reid/reid_data.tar, whose README says how the anchors were measured. Minutes.
"""

import io
import os
import pathlib
import tarfile

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from sklearn.metrics import average_precision_score

from zennas.data.image_set import ImageSet
from zennas.data.images import encode
from zennas.data.labels import DROPPED
from zennas.data.sources import open_source
from zennas.embed.named import open_named
from zennas.evaluate.embedded import embedded
from zennas.evaluate.judges import JudgeTools, judge_reid
from zennas.evaluate.sets import open_reid
from zennas.metrics.retrieval import reidentify

pytestmark = [pytest.mark.data, pytest.mark.slow]
NETWORKS = {"osnet_x0_25_msmt17": "normalise=imagenet", "person-reidentification-retail-0287": "normalise=none"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder `data` of the archive."""
    folder = tmp_path_factory.mktemp("reid")
    with tarfile.open(pathlib.Path(os.environ["ZENNAS_DATA"], "reid", "reid_data.tar")) as tar:
        tar.extractall(folder, filter="data")
    return folder / "data"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))


def test_official_labels_at_full_size(data):
    """Junk is passed over, distractors stay in; the numbers are scikit-learn's for every fortieth query."""
    table = pd.read_csv(data / "labels" / "market1501_labels.csv")
    of_role = {role: rows[["label", "camera"]].to_numpy() for role, rows in table.groupby("role")}
    (query_label, query_camera), (label, camera) = of_role["query"].T, of_role["gallery"].T
    assert {role: len(rows) for role, rows in of_role.items()} == {"query": 3368, "gallery": 19732, "train": 12936}
    assert (label == -1).sum() == 3819 and (label == 0).sum() == 2798 and len(np.unique(label[label > 0])) == 750
    rng = np.random.default_rng(0)
    query_QD, gallery_GD = rng.normal(size=(3368, 32)), rng.normal(size=(19732, 32))
    found = reidentify(query_QD, query_label, query_camera, gallery_GD, label, camera)
    assert len(found.unanswerable) == 0 and 0 < found.mean_inp < found.mean_ap < 0.01
    lengths = np.linalg.norm(gallery_GD, axis=1)
    for query in range(0, 3368, 40):
        own = (label == query_label[query]) & (camera == query_camera[query])
        shown = (label >= 0) & ~own
        cosine = (gallery_GD @ query_QD[query] / lengths)[shown]
        expected = average_precision_score(label[shown] == query_label[query], cosine)
        # Similarities are rounded to float32: of 15,913 some are equal then, and the wrong ones come first.
        assert found.ap_Q[query] == pytest.approx(expected, rel=1e-3)
    # Without the distractors, which are nobody's answers, every query is easier or as hard.
    kept = label != 0
    easier = reidentify(query_QD, query_label, query_camera, gallery_GD[kept], label[kept], camera[kept])
    assert (easier.ap_Q >= found.ap_Q).all() and easier.mean_ap > found.mean_ap


def test_the_people_of_the_slice(data):
    source = open_source(data / "market")
    assert (source.num_images, source.num_identities) == (5898, 351)
    assert source.label_N.min() > DROPPED and set(source.camera_N.tolist()) == {1, 2, 3, 4, 5, 6}
    by_folders, by_list = (
        open_reid(str(data / "market")),
        open_reid(f"{data / 'market' / 'reid.csv'}@{data / 'market'}"),
    )
    for the_set in (by_folders, by_list):
        assert the_set.images.num_images == 592 + 2918 and the_set.column["first_N"].sum() == 592
        assert len(np.unique(the_set.column["label_N"])) == 200


def as_measured(images):
    """Crops decoded and resized by Pillow, bilinear, as the anchors had them: a second decoder and another resize."""

    def read(image):
        picture = PIL.Image.open(io.BytesIO(images.read(image))).convert("RGB")
        return encode(np.asarray(picture.resize((128, 256), PIL.Image.Resampling.BILINEAR)), ".png")

    return ImageSet(images.num_images, read, images.where, f"{images.fingerprint}-pillow")


@pytest.mark.parametrize(
    ("network", "where", "rank_1", "mean_ap"),
    [
        ("osnet_x0_25_msmt17", "market", 67.23, 42.38),
        ("osnet_x0_25_msmt17", "pku", 53.21, 37.78),
        ("person-reidentification-retail-0287", "market", 94.76, 85.80),
        ("person-reidentification-retail-0287", "pku", 90.88, 75.30),
    ],
)
def test_anchors(data, network, where, rank_1, mean_ap):
    named = open_named(f"{data / 'models' / network}.onnx,{NETWORKS[network]}", device="cpu")
    the_set = open_reid(f"{data / where / 'reid.csv'}@{data / where}")
    the_set = the_set._replace(images=as_measured(the_set.images))
    assessment = judge_reid(the_set, embedded(the_set, named.model, flip=False).embedding_ND, JudgeTools())
    found = {metric.name: 100 * metric.value for metric in assessment.metrics if metric.subset == ""}
    assert found["rank-1"] == pytest.approx(rank_1, abs=0.005 + 1e-9)  # half of the last digit that is given
    assert found["mAP"] == pytest.approx(mean_ap, abs=0.005 + 1e-9)
