"""Re-identification judged by other people's code and by ours: equal on data without ties?

    pip download --no-deps fastreid==1.4.0 reid==0.1.0rc1 torchreid==0.2.5     # and unpack them below FOLDER
    python experiments/benchmarks/independent_reid.py --packages FOLDER --labels market1501_labels.csv --slice reid.csv

Single files of the packages are loaded, the packages are not installed. Two tasks with drawn features, so no picture
and no network is needed:
  slice     the labels and cameras of a table with columns image, label, camera, role; images of a person lie together
  official  the labels of Market-1501's whole test, junk and distractors included, noise; every eighth query
Theirs get distances from cosines in float64; ours compares in float32. fastreid and torchreid know no junk: it is cut
before. Re-ranking is compared on the slice, as it is and with the float32 in its text made float64: it rounds squared
distances before it ranks them, so that neighbours at nearly the same distance may change places. Differences are in
percentage points, of distances as they are. Writes independent_reid.json beside this file.
"""

import argparse
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from zennas.metrics.reranking import reciprocal_distances
from zennas.metrics.retrieval import reidentify
from zennas.provenance import provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__)
NUMBERS = 64
FLOAT32_OFF = 1e-6  # what float32 explains of a distance in [0, 1] when no neighbours change places
FILES = {
    "reid 0.1.0rc1": "reid/eval/metrics.py",
    "torchreid 0.2.5": "torchreid/reid/metrics/rank.py",
    "fastreid 1.4.0": "fastreid/evaluation/rank.py",
    "torchreid 0.2.5 re-ranking": "torchreid/reid/utils/rerank.py",
    "fastreid 1.4.0 re-ranking": "fastreid/evaluation/rerank.py",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=pathlib.Path, required=True)
    parser.add_argument("--labels", type=pathlib.Path, required=True)
    parser.add_argument("--slice", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=HERE.with_suffix(".json"))
    options = parser.parse_args()
    modules = {name: loaded(options.packages, path) for name, path in FILES.items()}
    tasks = {
        "slice": drawn(pd.read_csv(options.slice), each=1, noise=2.2),
        "official": drawn(pd.read_csv(options.labels), each=8, noise=None),
    }
    found = {
        "what": "re-identification by ours and by independent code, in percent",
        "tasks": {name: compared(modules, task) for name, task in tasks.items()},
        "reranking_of_the_slice": reranked(modules, tasks["slice"]),
        "made_by": provenance(seed=0).model_dump(),
    }
    write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def loaded(folder, path):
    matching = sorted(folder.glob(f"**/{path}"))
    assert matching, f"{folder}: holds no {path}"
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), matching[0])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its own module
    spec.loader.exec_module(module)
    return module


def in_float64(module):
    """The re_ranking of a module with every float32 of its text made float64."""
    names = {}
    exec(pathlib.Path(module.__file__).read_text().replace("float32", "float64"), names)
    return names["re_ranking"]


def drawn(table, *, each, noise):
    """[(features, labels, cameras)] of queries and of the gallery."""
    rng, parts = np.random.default_rng(0), []
    people, label_N = np.unique(table["label"].to_numpy(), return_inverse=True)
    centre_CD = rng.normal(size=(len(people), NUMBERS))
    for role, step in (("query", each), ("gallery", 1)):
        rows_N = np.flatnonzero(table["role"] == role)[::step]
        feature_ND = rng.normal(size=(len(rows_N), NUMBERS))
        if noise is not None:
            feature_ND = centre_CD[label_N[rows_N]] + noise * feature_ND
        parts.append((feature_ND, table["label"].to_numpy()[rows_N], table["camera"].to_numpy()[rows_N]))
    return parts


def compared(modules, task):
    (query_QD, query_label, query_camera), (gallery_GD, label, camera) = task
    ours = reidentify(query_QD, query_label, query_camera, gallery_GD, label, camera)
    figures = {"rank-1": ours.at_rank[1], "rank-5": ours.at_rank[5], "mAP": ours.mean_ap, "mINP": ours.mean_inp}
    found = {"queries": len(query_label), "gallery": len(label), "ours": percent(figures)}
    cosine_QG = unit(query_QD) @ unit(gallery_GD).T
    found["reid 0.1.0rc1"] = of_reid(modules, 1 - cosine_QG, query_label, label, query_camera, camera)
    kept = label >= 0
    cut = 1 - cosine_QG[:, kept], query_label, label[kept], query_camera, camera[kept], 50
    cmc, mean_ap = modules["torchreid 0.2.5"].eval_market1501(*cut)
    found["torchreid 0.2.5"] = percent({"rank-1": cmc[0], "rank-5": cmc[4], "mAP": mean_ap})
    cmc, aps, inps = modules["fastreid 1.4.0"].eval_market1501(*cut)
    found["fastreid 1.4.0"] = percent({"rank-1": cmc[0], "rank-5": cmc[4], "mAP": np.mean(aps), "mINP": np.mean(inps)})
    found["scikit-learn"] = percent(
        {"mAP": np.mean(list(of_sklearn(cosine_QG, query_label, query_camera, label, camera)))}
    )
    found["largest_difference"] = max(
        abs(value - found["ours"][name])
        for who, values in found.items()
        if isinstance(values, dict) and who != "ours"
        for name, value in values.items()
    )
    return found


def of_reid(modules, distance_QG, query_label, label, query_camera, camera):
    scores = modules["reid 0.1.0rc1"]._compute_reid_metrics(distance_QG, query_label, label, query_camera, camera)
    return {
        "rank-1": scores.rank1,
        "rank-5": scores.rank5,
        "mAP": scores.mean_average_precision,
        "mINP": scores.minp,
    }


def of_sklearn(cosine_QG, query_label, query_camera, label, camera):
    for query, cosine_G in enumerate(cosine_QG):
        own = (label == query_label[query]) & (camera == query_camera[query])
        shown = (label >= 0) & ~own
        right = label[shown] == query_label[query]
        if right.any():
            yield average_precision_score(right, cosine_G[shown])


def reranked(modules, task):
    """The largest difference of a distance from ours, and how many differ, after re-ranking."""
    (query_QD, *_), (gallery_GD, *_) = task
    ours_QG = reciprocal_distances(query_QD, gallery_GD)(0, len(query_QD))
    rows = unit(np.concatenate([query_QD, gallery_GD]))
    distance_NN = np.sqrt(np.maximum(2 - 2 * (rows @ rows.T), 0))  # they square what they get
    np.fill_diagonal(distance_NN, 0)
    num = len(query_QD)
    given = distance_NN[:num, num:], distance_NN[:num, :num], distance_NN[num:, num:]
    rows = []
    for name in (name for name in modules if name.endswith("re-ranking")):
        for way, re_ranking in (("as it is", modules[name].re_ranking), ("in float64", in_float64(modules[name]))):
            off_QG = np.abs(re_ranking(*given) - ours_QG)
            num_off = int((off_QG > FLOAT32_OFF).sum())
            rows.append({"code": name, "way": way, "largest_difference": float(off_QG.max()), "num_off": num_off})
    return {"num_distances": ours_QG.size, "rows": rows}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def percent(figures):
    return {name: 100 * float(value) for name, value in figures.items()}


if __name__ == "__main__":
    main()
