"""The official labels of Market-1501 at full size, and two published networks on real crops.

Opt-in: ZENNAS_DATA names a folder with reid/reid_data.tar, whose README says how the anchors were measured. Minutes.
"""

import json
import os
import pathlib
import shutil
import tarfile

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from sklearn.metrics import average_precision_score

from tests.evaluate.conftest import ran
from zennas.data.labels import DROPPED
from zennas.data.sources import open_source
from zennas.evaluate.sets import open_reid
from zennas.metrics.retrieval import reidentify

pytestmark = [pytest.mark.data, pytest.mark.slow]
OSNET, RETAIL = "osnet_x0_25_msmt17", "person-reidentification-retail-0287"
NETWORKS = {OSNET: "normalise=imagenet", RETAIL: "normalise=none"}
SETS = ("market", "pku")


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


@pytest.fixture(scope="module")
def as_measured(data, tmp_path_factory):
    """The sets with crops decoded and resized by Pillow, bilinear, as the anchors had them: a second decoder and
    another resize. Their lists name them by the stem."""
    folder = tmp_path_factory.mktemp("pillow")
    for name in SETS:
        for image in pd.read_csv(data / name / "reid.csv")["image"]:
            resized = (
                PIL.Image.open(data / name / image).convert("RGB").resize((128, 256), PIL.Image.Resampling.BILINEAR)
            )
            path = (folder / name / image).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            resized.save(path, compress_level=1)
    yield folder
    shutil.rmtree(folder)  # 200 MB


@pytest.fixture(scope="module")
def evaluated(data, as_measured, tmp_path_factory):
    """evaluated(*words, images=..., networks=..., sets=...) -> {(network, set): {"mAP": per cent, "re-ranked mAP"}}
    of `zennas evaluate`, asked once for each."""
    folder, kept = tmp_path_factory.mktemp("evaluated"), {}

    def asked(*words, images=as_measured, networks=tuple(NETWORKS), sets=SETS, colour="rgb"):
        key = (words, images, networks, sets, colour)
        if key not in kept:
            given = [f"{data / 'models' / name}.onnx,{NETWORKS[name]},colour={colour},name={name}" for name in networks]
            named = [f"reid:{data / name / 'reid.csv'}@{images / name}" for name in sets]
            options = [word for text in given for word in ("--model", text)]
            options += [word for text in named for word in ("--set", text)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ZENNAS_CACHE", str(folder / "cache"))
                ended = ran(*options, *words, "--device", "cpu", "--out", folder / "out", "--json")
            assert ended.code == 0, ended.said
            given_of = {one["name"]: one["given"] for one in json.loads(ended.stdout)["sets"]}
            kept[key] = {
                (result["model"], sets[named.index(given_of[result["set"]])]): {
                    f"{metric['subset']} {metric['name']}".strip(): 100 * metric["value"]
                    for metric in result["metrics"]
                }
                for result in json.loads(ended.stdout)["results"]
            }
        return kept[key]

    return asked


LAST_DIGIT = 0.005 + 1e-9  # half of the last one that is given


@pytest.mark.parametrize(
    ("network", "where", "rank_1", "mean_ap"),
    [
        (OSNET, "market", 67.23, 42.38),
        (OSNET, "pku", 53.21, 37.78),
        (RETAIL, "market", 94.76, 85.80),
        (RETAIL, "pku", 90.88, 75.30),
    ],
)
def test_anchors(evaluated, network, where, rank_1, mean_ap):
    found = evaluated()[network, where]
    assert found["rank-1"] == pytest.approx(rank_1, abs=LAST_DIGIT)
    assert found["mAP"] == pytest.approx(mean_ap, abs=LAST_DIGIT)


def test_the_anchor_with_mirrored_images(evaluated):
    found = evaluated("--flip")[OSNET, "pku"]
    assert (found["rank-1"], found["mAP"]) == pytest.approx((53.21, 38.50), abs=LAST_DIGIT)


def test_the_anchor_of_swapped_colours(evaluated):
    """A network of RGB that is fed BGR: what a wrong word costs."""
    found = evaluated(networks=(RETAIL,), sets=("pku",), colour="bgr")[RETAIL, "pku"]
    assert (found["rank-1"], found["mAP"]) == pytest.approx((82.43, 66.40), abs=LAST_DIGIT)


def test_crops_as_they_are(evaluated, data):
    """This package's own decoder and resize. It rounds otherwise than Pillow, by one grey level at most: of the 592
    queries, four whose first two images are all but equal may change sides."""
    found, anchor = evaluated(images=data, networks=(OSNET,)), evaluated()
    for where in SETS:
        assert found[OSNET, where]["rank-1"] == pytest.approx(anchor[OSNET, where]["rank-1"], abs=100 * 4 / 592)
        assert found[OSNET, where]["mAP"] == pytest.approx(anchor[OSNET, where]["mAP"], abs=0.05)


@pytest.mark.parametrize("where", SETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_rows_without_an_anchor(evaluated, network, where):
    """The mirrored image, neighbours of both kinds and the better network raise mAP on either domain; the second
    domain is harder; mINP, which waits for the last right answer, is below mAP."""
    plain, mirrored = evaluated()[network, where], evaluated("--flip")[network, where]
    assert mirrored["mAP"] > plain["mAP"]
    for rows in (plain, mirrored):
        assert rows["re-ranked mAP"] > rows["mAP"] and rows["expanded mAP"] > rows["mAP"]
        for subset in ("", "re-ranked ", "expanded "):
            shares = [rows[f"{subset}rank-{rank}"] for rank in (1, 5, 10)]
            assert shares == sorted(shares) and rows[f"{subset}mINP"] < rows[f"{subset}mAP"]
    assert evaluated()[network, "market"]["mAP"] > evaluated()[network, "pku"]["mAP"]
    assert evaluated()[RETAIL, where]["mAP"] > evaluated()[OSNET, where]["mAP"]
