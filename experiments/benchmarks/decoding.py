"""Images per second and core: OpenCV, as zennas decodes, against Pillow; with augmentations, and through RecordIO with
workers.

    python experiments/benchmarks/decoding.py --data faces.tar --out experiments/benchmarks/decoding.json

--data is anything that zennas reads, best with 112 px JPEGs. One thread; every way is timed in turn, several times
over, and the best round of each counts, because other work on the machine only ever slows a round down. The spread of
the rounds is beside it.
"""

import argparse
import io
import json
import pathlib
import tempfile
import time

import cv2
import numpy as np
import torch
from PIL import Image

from zennas.data.images import AUGMENTATIONS, augment, decode
from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.data.stream import image_stream
from zennas.provenance import provenance

EPOCHS = 8  # of a stream
CVLFACE = {"flip": {}, "crop": {}, "photometric": {}, "low_resolution": {}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    source = open_source(arguments.data)
    chosen = np.random.default_rng(arguments.seed).choice(source.num_images, arguments.images, replace=False)
    encoded = [source.read(int(index)) for index in chosen]
    rng = np.random.default_rng(arguments.seed)
    ways = {
        "pillow": lambda: [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in encoded],
        "opencv": lambda: [decode(one) for one in encoded],
        "opencv, flip": lambda: [augment(decode(one), {"flip": {}}, rng=rng) for one in encoded],
        "opencv, flip + crop + photometric + low_resolution": lambda: [
            augment(decode(one), CVLFACE, rng=rng) for one in encoded
        ],
        **{
            f"opencv, {name} on every image": lambda name=name: [
                augment(decode(one), {name: {"p": 1.0}}, rng=rng) for one in encoded
            ]
            for name in AUGMENTATIONS
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        with RecordWriter(folder) as writer:
            for one, index in sorted(zip(encoded, chosen, strict=True), key=lambda pair: source.label_N[pair[1]]):
                writer.add(one, int(source.label_N[index]))
        records = open_source(folder)
        for num_workers in (0, 1, 2):
            ways[f"RecordIO stream, flip, {num_workers} workers"] = lambda num_workers=num_workers: streamed(
                records, num_workers, arguments
            )
        seconds = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                seconds[name].append(timed(way) / (EPOCHS if "stream" in name else 1))
    rows = [
        {
            "way": name,
            "images_per_s": round(arguments.images / min(spent)),
            "images_per_s_of_rounds": [round(arguments.images / one) for one in spent],
            "times_pillow": round(min(seconds["pillow"]) / min(spent), 2),
        }
        for name, spent in seconds.items()
    ]
    result = {
        "what": "images per second, the best of the rounds, on one core (and one more for each worker)",
        "images": arguments.images,
        "mean_bytes": round(float(np.mean([len(one) for one in encoded]))),
        "shape": list(decode(encoded[0]).shape),
        "opencv": cv2.__version__,
        "pillow": Image.__version__,
        "ways": rows,
        "made_by": provenance(seed=arguments.seed).model_dump(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def streamed(source, num_workers, arguments):
    """Read EPOCHS epochs, so that the start of the workers, which counts, is as small a part as it is in a run."""
    batch = 128
    stream = image_stream(
        source,
        batch=batch,
        image_px=112,
        seed=arguments.seed,
        last_step=EPOCHS * (arguments.images // batch),
        augmentations={"flip": {}},
        num_workers=num_workers,
    )
    for _ in stream:
        pass


def timed(way):
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
