"""Images per second of `zennas.train` against a plain PyTorch loop with a dense FC, the same network, images and
machine.

    python experiments/benchmarks/training_throughput.py

plain  decodes with Pillow in a DataLoader, one nn.Linear over all identities, ArcFace written out, torch's SGD over
everything. ours   the product's own loop (zennas.train.loop), once with all centres (the same mathematics) and once
with a tenth sampled. Both flip, both use as many decoding processes and threads. The images are noise, made here, as
JPEGs in RecordIO: what is in them does not change the time. Rounds of all ways in turn, medians of the steps behind the
first. Writes training_throughput.json (or -cuda.json) beside this file.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import pathlib
import statistics
import tempfile
import time

import cv2
import numpy as np
import torch
from PIL import Image

from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.progress import Progress, console_for, silent
from zennas.provenance import num_cores, provenance
from zennas.ranks import Ranks
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.table import task_of
from zennas.track import load_experiment
from zennas.train.loop import Training
from zennas.train.prepare import initial_network, prepare
from zennas.train.request import Request

HERE = pathlib.Path(__file__)
CANDIDATES = {
    "cpu": ("lfw-smoke", {"block": "ir_se", "stem": 16, "widths": [16, 32, 64], "depths": [1, 2, 2]}),
    "cuda": ("webface-sfr", {"block": "ir", "stem": 64, "widths": [64, 128, 256, 512], "depths": [3, 4, 14, 3]}),
}
MARGIN_RAD, SCALE, RATE = 0.5, 64.0, 0.1
NUM_IMAGES = 4096
WARM_UP = 3


def main():
    options = arguments()
    progress = Progress(console_for(json_output=False))
    name, candidate = CANDIDATES[options.device]
    experiment, track, space = load_experiment(name)
    candidate = Candidate(**candidate)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for identities in options.identities:
            data = records(pathlib.Path(folder) / f"data-{identities}", identities)
            ways = {
                "plain": lambda: plain(candidate, space, data, identities, options),  # noqa: B023 - called at once
                "ours, all centres": lambda: ours(candidate, experiment, track, space, data, 1.0, options),  # noqa: B023
                f"ours, {RATE:g} of them": lambda: ours(candidate, experiment, track, space, data, RATE, options),  # noqa: B023
            }
            seconds = {way: [] for way in ways}
            for turn in range(options.rounds):
                for way, go in ways.items():
                    if (
                        way == "plain"
                        and 4 * identities * (3 * space.embedding_size + 5 * options.batch) > options.dense_gib * 2**30
                    ):
                        continue
                    seconds[way] += go()
                    progress.say(
                        f"{identities:,} identities, round {turn + 1}: {way}: {rate(seconds[way], options):.0f} "
                        f"images/s"
                    )
            rows.append(
                {"identities": identities}
                | {way: round(rate(values, options), 1) for way, values in seconds.items() if values}
            )
            if "plain" in rows[-1]:
                for way in list(ways)[1:]:
                    rows[-1][f"{way}, ratio"] = round(rows[-1][way] / rows[-1]["plain"], 2)
            print(rows[-1], flush=True)
    found = {
        "made_by": provenance(seed=0).model_dump(),
        "device": options.device,
        "candidate": candidate.plain(),
        "macs": cost(candidate, space.shape).macs,
        "image_px": space.image_px,
        "embedding_size": space.embedding_size,
        "batch": options.batch,
        "threads": num_cores(),
        "decoding_processes": options.workers,
        "rows": rows,
    }
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    write_atomically(HERE.with_name(f"training_throughput{suffix}.json"), json.dumps(found, indent=1) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--identities", type=int, nargs="+", default=[10_000, 100_000, 500_000, 2_000_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--dense-gib", type=float, default=14.0, help="leave the dense FC out where it needs more")
    return parser.parse_args()


def rate(seconds, options):
    return options.batch / statistics.median(seconds)


def records(folder, identities):
    """A RecordIO set of NUM_IMAGES pictures, their labels spread over all identities."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with RecordWriter(folder, num_classes=identities) as writer:
        for number in range(NUM_IMAGES):
            small = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            image = cv2.resize(small, (112, 112), interpolation=cv2.INTER_CUBIC)
            writer.add(
                cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(),
                number * identities // NUM_IMAGES,
            )
    return folder


def ours(candidate, experiment, track, space, data, sampling_rate, options):
    """Seconds of each step of the product's loop."""
    plan = FacePlan.parse(
        {
            "batch": options.batch,
            "epochs": 1000,
            "precision": "auto",
            "compile": False,
            "verify_epochs": 1000,
            "checkpoint_minutes": 1e6,
            "data": {"workers": options.workers},
            "loss": {
                "name": "arcface",
                "sampling_rate": sampling_rate,
                "knobs": {"margin_rad": MARGIN_RAD, "scale": SCALE},
            },
        },
        "here",
    )
    with tempfile.TemporaryDirectory() as folder:
        wanted = Request(
            name=experiment.name,
            asked_track=experiment.name,
            track=track,
            space=space,
            plan=plan,
            candidate=candidate,
            data=data,
            out=pathlib.Path(folder),
            device=options.device,
        )
        faces = task_of("face").open_data(wanted, silent())
        job = prepare(wanted, faces, None, Ranks(device=options.device), silent())
        training = Training(job, Ranks(device=options.device), silent())
        stamps = [time.perf_counter()]

        def note(*_):
            stamps.append(time.perf_counter())
            training.stopping = len(stamps) > WARM_UP + options.steps

        training._show = note
        training._save = lambda step: None
        with contextlib.suppress(KeyboardInterrupt):  # it is stopped by hand
            training.run()
    return [later - earlier for earlier, later in itertools.pairwise(stamps)][WARM_UP:]


class Faces(torch.utils.data.Dataset):
    """The plain way to read: Pillow, one image at a time."""

    def __init__(self, data, px):
        self.source, self.px = open_source(data), px

    def __len__(self):
        return self.source.num_images

    def __getitem__(self, index):
        image = Image.open(io.BytesIO(self.source.read(index))).convert("RGB").resize((self.px, self.px))
        if np.random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels_3HW = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float().sub_(127.5).div_(127.5)
        return pixels_3HW, int(self.source.label_N[index])


def plain(candidate, space, data, identities, options):
    """Seconds of each step of a loop as a tutorial has it."""
    device = torch.device(options.device)
    network = initial_network(candidate, space, seed=0).to(device)
    weight_CD = torch.nn.Parameter(torch.randn(identities, space.embedding_size, device=device) * 0.01)
    optimizer = torch.optim.SGD([*network.parameters(), weight_CD], lr=0.0125, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    loader = torch.utils.data.DataLoader(
        Faces(data, space.image_px), options.batch, shuffle=True, drop_last=True, num_workers=options.workers
    )
    dtype = torch.bfloat16 if device.type == "cuda" else None
    stamps = [time.perf_counter()]
    while len(stamps) <= WARM_UP + options.steps:
        for image_B3HW, label_B in loader:
            image_B3HW, label_B = image_B3HW.to(device), label_B.to(device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                embedding_BD = network(image_B3HW).float()
            normal = torch.nn.functional.normalize
            cosine_BC = (normal(embedding_BD) @ normal(weight_CD).t()).clamp(-1 + 1e-6, 1 - 1e-6)
            own_B = cosine_BC.gather(1, label_B[:, None])
            logit_BC = SCALE * cosine_BC.scatter(
                1, label_B[:, None], (own_B.acos() + MARGIN_RAD).clamp(max=math.pi).cos()
            )
            loss = torch.nn.functional.cross_entropy(logit_BC, label_B)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            float(loss)
            stamps.append(time.perf_counter())
            if len(stamps) > WARM_UP + options.steps:
                break
    return [later - earlier for earlier, later in itertools.pairwise(stamps)][WARM_UP:]


if __name__ == "__main__":
    main()
