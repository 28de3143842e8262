"""What does a latency depend on beside the network? Eight networks on noise, on the synthetic face, on real faces.

    python experiments/latency-input/study.py --networks FOLDER --faces lfw_aligned_112.tar --onnx mobilefacenet.onnx

FOLDER holds folders of `python -m zennas.train`, one a network (candidate and weights); mobilefacenet.onnx is a trained
MobileFaceNet of another project, which has no untrained twin. Every condition is a session of its own; they take turns,
a run each, in an order that is drawn anew every time, so that what else happens on the machine meets all alike. The
value is the 6th fastest of 50, as the tracks have it. results.json keeps what is done: a stopped study goes on.

Conditions: weights untrained (norms calibrated on noise as in 0.1.0; on the face) and trained; inputs noise, the face
that ships, four real faces in turn; one and two threads; denormals flushed as the tracks have it, and not. Two
interventions say what explains a difference: every PReLU replaced by a LeakyReLU of the same median slope, which ONNX
Runtime computes without branches; and denormals flushed or not. Beside the times stand, of what goes into the PReLUs,
the share of neighbours with different signs and of denormal numbers.

Predictions, written before the first look at these eight (what was known: two networks, 30 and 18 %; a search's winner,
3 %; PReLU alone 4.96 against 1.53 ms):
P1  Trained networks with PReLU take longer on noise than on real faces: each of the seven, by 2 to 40 %, the more the
    smaller the network.
P2  The synthetic face is within 2 % of real faces for six of eight.
P3  With LeakyReLU noise and faces are within 2 % of each other for all: signs explain it.
P4  With denormals flushed none is left that costs; not flushed, at least one trained network is slower by 5 %.
P5  Two threads show the same sign of the difference in all.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from zennas.data.inputs import first_inputs
from zennas.data.sources import open_source
from zennas.embed.checkpoint import load_network
from zennas.export.onnx_file import export, open_session
from zennas.latency.inputs import calibration, sample
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.space.network import build, calibrate
from zennas.space.shape import Shape

HERE = pathlib.Path(__file__).parent
RUNS, KTH = 50, 6
NUM_FACES = 4
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of the other project's MobileFaceNet
SMALLEST_NORMAL = np.finfo(np.float32).tiny


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=pathlib.Path, required=True)
    parser.add_argument("--faces", type=pathlib.Path, required=True)
    parser.add_argument("--onnx", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results.json")
    options = parser.parse_args()
    done = json.loads(options.out.read_text())["networks"] if options.out.is_file() else {}
    images = open_source(str(options.faces)).images
    for name, variants, inputs in networks(options, images):
        if name not in done:
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            done[name] = studied(variants, inputs)
            result = {"networks": done, "verdicts": verdicts(done), "made_by": provenance().model_dump()}
            write_atomically(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(verdicts(done), indent=1))


def networks(options, images):
    """(name, {weights: ONNX bytes}, {input: [image_1CHW]}) of every network."""
    for folder in sorted(path.parent for path in options.networks.glob("*/network.pt")):
        trained = load_network(folder / "network.pt")
        shape = trained.shape
        faces = first_inputs(images, shape, NUM_FACES).numpy()
        inputs = {name: [sample(name, (1, *shape.image))] for name in ("noise", "face")}
        inputs["real"] = [face_CHW[None] for face_CHW in faces]
        variants = {"trained": trained} | {
            f"untrained, norms of {name}": untrained(trained.candidate, shape, name) for name in ("noise", "face")
        }
        yield trained.candidate.text, {key: export(net, shape).onnx_bytes for key, net in variants.items()}, inputs
    pixels = (
        first_inputs(images, Shape(channels=3, height=112, width=112, embedding_size=128), NUM_FACES).numpy() * 127.5
    ) + 127.5
    scaled = (pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    face = (sample("face", (1, 3, 112, 112)) * 127.5 + 127.5 - np.array(MEAN)[:, None, None]) / np.array(STD)[
        :, None, None
    ]
    inputs = {
        "noise": [sample("noise", (1, 3, 112, 112))],
        "face": [face.astype(np.float32)],
        "real": [face_CHW[None].astype(np.float32) for face_CHW in scaled],
    }
    yield "MobileFaceNet of another project", {"trained": options.onnx.read_bytes()}, inputs


def untrained(candidate, shape, name):
    generator = torch.Generator().manual_seed(0)
    network = build(candidate, shape, generator=generator)
    image_BCHW = calibration(name, shape.image)
    return calibrate(network, torch.randn(4, *shape.image, generator=generator) if image_BCHW is None else image_BCHW)


def studied(variants, inputs):
    """{weights: {condition: ms}} with what goes into the PReLUs."""
    result = {}
    for weights, onnx_bytes in variants.items():
        plain = without_branches(onnx_bytes)
        sessions = {}
        for threads in (1, 2):
            sessions[f"{threads} thread(s)"] = open_session(onnx_bytes, threads=threads)
        sessions["1 thread, LeakyReLU"] = open_session(plain, threads=1)
        sessions["1 thread, denormals"] = open_session(onnx_bytes, threads=1, flush_denormals=False)
        result[weights] = {"ms": timed(sessions, inputs), "before PReLU": looked_at(onnx_bytes, inputs)}
    return result


def timed(sessions, inputs):
    """{session: {input: ms}}: all in turn, in an order drawn anew for every round."""
    rng = np.random.default_rng(0)
    conditions = [(session, name) for session in sessions for name in inputs]
    raw = {condition: [] for condition in conditions}
    for turn in range(RUNS + 1):
        for at in rng.permutation(len(conditions)):
            session, name = conditions[at]
            image_1CHW = inputs[name][turn % len(inputs[name])]
            feed = {sessions[session].get_inputs()[0].name: image_1CHW}
            sessions[session].run(None, feed)  # caches of the one before are gone
            begun = time.perf_counter_ns()
            sessions[session].run(None, feed)
            raw[conditions[at]].append((time.perf_counter_ns() - begun) / 1e6)
    value = {condition: sorted(runs[1:])[KTH - 1] for condition, runs in raw.items()}
    return {session: {name: round(value[session, name], 4) for name in inputs} for session in sessions}


def without_branches(onnx_bytes):
    """The same graph with a LeakyReLU of the median slope in place of every PReLU."""
    model = onnx.load_from_string(onnx_bytes)
    slopes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "PRelu":
            slope = float(np.median(slopes[node.input[1]]))
            del node.input[1]
            node.op_type = "LeakyRelu"
            node.attribute.append(onnx.helper.make_attribute("alpha", slope))
    return model.SerializeToString()


def looked_at(onnx_bytes, inputs):
    """{input: shares of sign changes between horizontal neighbours and of denormals in what goes into the PReLUs}."""
    model = onnx.load_from_string(onnx_bytes)
    names = [node.input[0] for node in model.graph.node if node.op_type == "PRelu"]
    if not names:
        return {}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(model.SerializeToString(), threads=1, flush_denormals=False)
    shares = {}
    for name, images in inputs.items():
        maps = session.run(names, {session.get_inputs()[0].name: images[0]})
        changes = [float((np.signbit(each)[..., 1:] != np.signbit(each)[..., :-1]).mean()) for each in maps]
        tiny = [float(((np.abs(each) < SMALLEST_NORMAL) & (each != 0)).mean()) for each in maps]
        weight = [each.size for each in maps]
        shares[name] = {
            "sign changes": round(float(np.average(changes, weights=weight)), 4),
            "denormals": round(float(np.average(tiny, weights=weight)), 6),
        }
    return shares


def verdicts(done):
    """Each prediction beside what came out, per network."""
    rows = {}
    for name, variants in done.items():
        ms = variants["trained"]["ms"]
        one, two, leaky, raw = (
            ms[key] for key in ("1 thread(s)", "2 thread(s)", "1 thread, LeakyReLU", "1 thread, denormals")
        )
        rows[name] = {
            "P1 noise over real, %": _over(one["noise"], one["real"]),
            "P2 face over real, %": _over(one["face"], one["real"]),
            "P3 the same with LeakyReLU, %": _over(leaky["noise"], leaky["real"]),
            "P4 denormals over flushed, %": _over(raw["real"], one["real"]),
            "P5 noise over real with two threads, %": _over(two["noise"], two["real"]),
        }
        untrained = {key: value["ms"]["1 thread(s)"] for key, value in variants.items() if key != "trained"}
        rows[name] |= {
            f"{key}, on its input over trained on real, %": _over(value[key.split()[-1]], one["real"])
            for key, value in untrained.items()
        }
    return rows


def _over(ms, other_ms):
    return round(100 * (ms / other_ms - 1), 2)


if __name__ == "__main__":
    main()
