"""What a mask does to a network that never saw one: LFW's 6,000 pairs, unmasked, one masked, both masked; rendered and
pasted.

    python experiments/masks/verification.py --faces lfw_aligned_112.tar --pairs pairs.txt --model mobilefacenet.onnx

The network takes ImageNet's mean and deviation (--mean, --std). Which mask an image wears hangs on the seed and the
image alone, so that rendered and pasted masks are the same ones. By kind: the pairs whose masked image wears it, at the
threshold of all. Writes verification.json and verification.md beside this file.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from masked_pairs import FAR, judged, masked_copies, unit_embeddings

from zennas.embed.model import open_model
from zennas.mask.textures import KINDS
from zennas.metrics.verification import tar_at_far, thresholds_at_fars
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.tasks.face.pairs import open_pairs

HERE = pathlib.Path(__file__).parent
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=pathlib.Path, required=True, help="aligned LFW, a .tar or a folder")
    parser.add_argument("--pairs", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--mean", type=float, nargs=3, default=MEAN)
    parser.add_argument("--std", type=float, nargs=3, default=STD)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = open_pairs(f"{options.pairs}@{options.faces}")
    model = open_model(options.model, mean=options.mean, std=options.std, device=torch.device("cpu"), trusted=True)
    unit = {"plain": embedded(pairs.images, model, "plain")}
    rows = {"unmasked": judged(unit["plain"], unit["plain"], pairs)}
    kinds = {}
    for way, flat in (("rendered", False), ("pasted", True)):
        copies = masked_copies(pairs.images, seed=options.seed, flat=flat)
        masked_ND = embedded(copies.images, model, way)
        rows[f"one masked, {way}"] = judged(masked_ND, unit["plain"], pairs)
        rows[f"both masked, {way}"] = judged(masked_ND, masked_ND, pairs)
        kinds[way] = by_kind(masked_ND, unit["plain"], copies.kind_N, pairs)
        num_masked = int(copies.masked_N.sum())
    found = {
        "made_by": provenance(seed=options.seed).model_dump(),
        "model": options.model.name,
        "num_pairs": len(pairs.same_P),
        "num_images": pairs.images.num_images,
        "num_masked": num_masked,
        "pairs": rows,
        "one masked, tar_at_far_1e-3 by kind": kinds,
    }
    write_atomically(HERE / "verification.json", json.dumps(found, indent=1) + "\n")
    write_atomically(HERE / "verification.md", as_table(found))
    print(as_table(found))


def embedded(images, model, what):
    start = time.monotonic()
    unit_ND = unit_embeddings(images, lambda image_BHW3: model(image_BHW3).embedding_BD, model.input_hw)
    print(f"{what}: {images.num_images} images in {time.monotonic() - start:.0f} s", flush=True)
    return unit_ND


def by_kind(first_ND, second_ND, kind_N, pairs):
    """{kind: share of its genuine pairs that the threshold of all pairs accepts}."""
    cosine_P = (first_ND[pairs.first_P] * second_ND[pairs.second_P]).sum(1)
    (threshold,) = thresholds_at_fars(cosine_P, pairs.same_P, [FAR])
    worn_P = kind_N[pairs.first_P]
    found = {"all": round(float(tar_at_far(cosine_P, pairs.same_P, FAR)), 4)}
    for number, name in enumerate(KINDS):
        mine_P = (worn_P == number) & pairs.same_P
        found[name] = round(float(np.mean(cosine_P[mine_P] >= threshold)), 4)
    return found


def as_table(found):
    lines = ["| LFW pairs | accuracy, % | TAR at FAR 1e-3, % |", "|---|---|---|"]
    for name, row in found["pairs"].items():
        accuracy = f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_std']:.2f}"
        lines.append(f"| {name} | {accuracy} | {100 * row['tar_at_far_1e-3']:.2f} |")
    kinds = found["one masked, tar_at_far_1e-3 by kind"]
    lines += [
        "",
        "| one masked: TAR, % | " + " | ".join(kinds["rendered"]) + " |",
        "|---" * (1 + len(kinds["rendered"])) + "|",
    ]
    lines += [
        f"| {way} | " + " | ".join(f"{100 * value:.1f}" for value in row.values()) + " |" for way, row in kinds.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
