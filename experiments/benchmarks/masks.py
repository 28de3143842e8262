"""Masked images per second and core: rendered with landmarks known, with landmarks, and pasted flat, which is the
baseline.

    python experiments/benchmarks/masks.py --data faces.tar --out experiments/benchmarks/masks.json

--data: aligned faces in any layout that zennas reads. One thread; every way is timed in turn, several times over, and
the best round of each counts, because other work on the machine only ever slows a round down. The spread of the rounds
is beside it. What a mask costs once, its drawing and its drape, is timed apart: a run draws each of its textures once.
"""

import argparse
import json
import pathlib
import sys
import time

import cv2
import numpy as np

from zennas.data.images import decode
from zennas.data.sources import open_source
from zennas.mask.landmarks import ALIGNED, Landmarker
from zennas.mask.render import masked
from zennas.mask.textures import KINDS, NUM_VARIANTS, texture
from zennas.provenance import provenance

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "masks"))
from pasting import pasted

REQUIRED = 50  # masked images a second and core, landmarks known


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    source, landmarker = open_source(arguments.data), Landmarker(ALIGNED)
    rng = np.random.default_rng(arguments.seed)
    faces = []
    for index in rng.choice(source.num_images, arguments.images, replace=False):
        image_HW3 = decode(source.read(int(index)))
        found = landmarker.find(image_HW3)
        if found.point_V3 is not None:
            faces.append((image_HW3, found.point_V3))
    start = time.perf_counter()
    textures = [texture(kind, variant, seed=arguments.seed) for kind in KINDS for variant in range(NUM_VARIANTS)]
    for one in textures:
        one.shell, one.level(1)
    once_ms = 1e3 * (time.perf_counter() - start) / len(textures)
    worn = [textures[int(place)] for place in rng.integers(len(textures), size=len(faces))]
    ways = {
        "rendered, landmarks known": lambda: [
            masked(image_HW3, point_V3, one, rng) for (image_HW3, point_V3), one in zip(faces, worn, strict=True)
        ],
        "rendered, with landmarks": lambda: [
            masked(image_HW3, landmarker.find(image_HW3).point_V3, one, rng)
            for (image_HW3, _), one in zip(faces, worn, strict=True)
        ],
        "landmarks alone": lambda: [landmarker.find(image_HW3) for image_HW3, _ in faces],
        "pasted flat, landmarks known": lambda: [
            pasted(image_HW3, point_V3, one) for (image_HW3, point_V3), one in zip(faces, worn, strict=True)
        ],
    }
    seconds = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    best = {name: len(faces) / min(spent) for name, spent in seconds.items()}
    result = {
        "what": "masked images per second, the best of the rounds, one thread",
        "images": len(faces),
        "passed_over": arguments.images - len(faces),
        "shape": list(faces[0][0].shape),
        "required_images_per_s": REQUIRED,
        "reached": best["rendered, landmarks known"] >= REQUIRED,
        "rendered_over_pasted_time": round(best["pasted flat, landmarks known"] / best["rendered, landmarks known"], 2),
        "texture_once_ms": round(once_ms, 1),
        "ways": [
            {
                "way": name,
                "images_per_s": round(best[name], 1),
                "images_per_s_of_rounds": [round(len(faces) / one, 1) for one in spent],
                "spread": round((max(spent) - min(spent)) / min(spent), 3),
            }
            for name, spent in seconds.items()
        ],
        "opencv": cv2.__version__,
        "made_by": provenance(seed=arguments.seed).model_dump(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def timed(way):
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
