"""Photographs a second and core, from encoded bytes to an encoded aligned face; the baseline is OpenCV's FaceDetectorYN
with the same network on the whole photograph. And how near either comes to where the face is.

    python experiments/benchmarks/aligning.py --data faces.tar --backgrounds pictures.tar --pairs pairs.txt \\
        --model model.onnx,normalise=imagenet --out experiments/benchmarks/aligning.json

--data: aligned faces of known names in any layout that zennas reads. Photographs of 640 x 480 are made of them: each
face, an ellipse of it, is turned by up to 25 degrees, enlarged 1.0 to 2.6 times and put somewhere on a background in
which the detector sees no face. One thread; the ways take turns over the same photographs, several times over, by the
processor's time, because other work on the machine slows the clock; the best round of each counts, and the spread of
the rounds is beside it.

--pairs, --model: pairs in any form that `zennas evaluate` takes, and a network: its accuracy on the faces as they were,
and on those of their photographs by either way. Then the photographs are those that the pairs name.
"""

import argparse
import json
import pathlib
import tempfile
import time

import cv2
import numpy as np

import zennas
from zennas.align.parts import COORDINATES, Aligning, aligned_of
from zennas.align.sinks import FolderSink, Names
from zennas.data.images import decode, encode, resized
from zennas.data.sources import open_source
from zennas.provenance import provenance
from zennas.tasks.face.align import TEMPLATE_52, align, off_template, similarity
from zennas.tasks.face.detect import MIN_SCORE, SHIPPED, Detector
from zennas.tasks.face.pairs import open_pairs

REQUIRED = 60  # photographs of 640 x 480 a second and core
SIZE = (480, 640)
MOST_TURN_DEG, SCALES = 25.0, (1.0, 2.6)
QUALITY = 92  # of the photographs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--backgrounds", required=True)
    parser.add_argument("--photographs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs")
    parser.add_argument("--model")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    source, rng = open_source(arguments.data), np.random.default_rng(arguments.seed)
    backgrounds = backgrounds_of(arguments.backgrounds)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        which = rng.permutation(source.num_images)[: arguments.photographs]
        if arguments.pairs:
            pairs = open_pairs(f"{arguments.pairs}@{arguments.data}").images
            number_of = {source.where(image): image for image in range(source.num_images)}
            which = [number_of[pairs.where(image)] for image in range(pairs.num_images)]
        true_52 = {}
        for image in which:
            true_52[source.name(int(image))] = written(folder / "in", source, int(image), backgrounds, rng)
        photographs = open_source(folder / "in")
        sample = np.linspace(0, photographs.num_images - 1, arguments.photographs).astype(int)
        result = speed(photographs, sample, true_52, arguments.rounds)
        if arguments.pairs:
            result["accuracy"] = accuracy(photographs, folder, arguments)
    result["made_by"] = provenance(seed=arguments.seed).model_dump()
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def backgrounds_of(path):
    """Pictures of SIZE in which the detector sees no face."""
    source, detector = open_source(path), Detector()
    pictures = (resized(decode(source.read(image)), SIZE) for image in range(min(source.num_images, 60)))
    return [picture for picture in pictures if not detector.faces(picture, min_score=0.4)]


def written(folder, source, image, backgrounds, rng):
    """Write the photograph of a face; its landmarks there, if the face is where the template has it."""
    face_HW3 = resized(decode(source.read(image)), (112, 112))
    scale, height_width = rng.uniform(*SCALES), np.array(SIZE)
    room_2 = np.minimum(50 * scale, height_width / 2)
    y, x = rng.uniform(room_2, height_width - room_2)
    into_23 = cv2.getRotationMatrix2D((56, 56), rng.uniform(-MOST_TURN_DEG, MOST_TURN_DEG), scale)
    into_23[:, 2] += (x - 56, y - 56)
    share_HW = cv2.ellipse(np.zeros((112, 112), np.float32), (56, 60), (50, 56), 0, 0, 360, 1, -1)
    share_HW = cv2.GaussianBlur(share_HW, (0, 0), 2)
    placed = [cv2.warpAffine(picture, into_23, SIZE[::-1]) for picture in (face_HW3, share_HW)]
    whole_HW3 = backgrounds[rng.integers(len(backgrounds))] * (1 - placed[1][..., None])
    whole_HW3 = (whole_HW3 + placed[0] * placed[1][..., None]).round().astype(np.uint8)
    path = folder / source.name(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(whole_HW3, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return TEMPLATE_52 @ into_23[:, :2].T + into_23[:, 2]


def ours(source, detector):
    """image -> bytes of the aligned face, or None; all that `zennas align` does for it."""
    work = Aligning(source, detector, None, (112, 112), None, None, every=False, only_accepted=False, complete=False)
    return lambda image: aligned_of(work, image)[0]


def opencv(source):
    """The same by OpenCV's detector on the whole photograph, its largest face and its own landmarks."""
    detector = cv2.FaceDetectorYN.create(str(SHIPPED), "", SIZE[::-1], MIN_SCORE)

    def aligned_by_opencv(image):
        image_HW3 = decode(source.read(image))
        _, faces_F15 = detector.detect(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))
        if faces_F15 is None:
            return None, None
        points_52 = max(faces_F15, key=lambda row: row[2] * row[3])[4:14].reshape(5, 2)
        return encode(align(image_HW3, points_52), ".jpg"), points_52

    return aligned_by_opencv


def speed(source, sample, true_52, rounds):
    """Photographs a second of either way, and how far it moves faces from where they are."""
    ways = {"ours": ours(source, Detector()), "opencv, whole photograph": opencv(source)}
    spent, clock, answers_of = {name: [] for name in ways}, {name: [] for name in ways}, {}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.process_time(), time.perf_counter()
            answers = [way(int(image)) for image in sample]
            spent[name].append(time.process_time() - begun[0])
            clock[name].append(time.perf_counter() - begun[1])
            answers_of[name] = answers
    rows = []
    for name in ways:
        off = [
            off_place(answer[1], true_52[source.name(int(image))])
            for image, answer in zip(sample, answers_of[name], strict=True)
        ]
        off = np.array([share for share in off if share is not None])
        rows.append(
            {
                "way": name,
                "photographs_per_s": round(len(sample) / min(spent[name]), 1),
                "photographs_per_s_of_rounds": [round(len(sample) / seconds, 1) for seconds in spent[name]],
                "by_the_clock": round(len(sample) / min(clock[name]), 1),
                "spread": round((max(spent[name]) - min(spent[name])) / min(spent[name]), 3),
                "no_face": int(len(sample) - len(off)),
                "off_median": round(float(np.median(off)), 4),
                "off_95": round(float(np.quantile(off, 0.95)), 4),
            }
        )
    return {
        "what": "photographs of 640 x 480 per second of one processor, bytes to bytes, the best of the rounds; how far "
        "faces are from where they stood, as a share of the aligned image's side",
        "photographs": len(sample),
        "required_photographs_per_s": REQUIRED,
        "reached": rows[0]["photographs_per_s"] >= REQUIRED,
        "times_opencv": round(rows[0]["photographs_per_s"] / rows[1]["photographs_per_s"], 2),
        "ways": rows,
        "opencv": cv2.__version__,
    }


def off_place(answer, true_52):
    """How far a face is from where it stands, as `off_template` has it in the aligned face; None: none was found."""
    if answer is None:
        return None
    if isinstance(answer, dict):
        if answer["face"] is None:
            return None
        answer = np.array([answer[name] for name in COORDINATES]).reshape(5, 2)
    map_23 = similarity(answer, TEMPLATE_52)
    return off_template(true_52 @ map_23[:, :2].T + map_23[:, 2], (112, 112))


def accuracy(source, folder, arguments):
    """Of the network on the pairs, in per cent: faces as they were, by either way, and not aligned at all."""
    zennas.align(data=folder / "in", out=folder / "ours", complete=True)
    way, names = opencv(source), Names(source, None)
    (folder / "opencv").mkdir()
    with FolderSink(folder / "opencv", names) as sink:
        for image in range(source.num_images):
            encoded = way(image)[0] or source.read(image)
            sink.add(encoded, {"photograph": image, "identity": int(source.label_N[image]), "face": 0})
    sets = {
        "as they were": arguments.data,
        "ours": folder / "ours",
        "opencv, whole photograph": folder / "opencv",
    }
    measured = {}
    for name, images in sets.items():
        result = zennas.evaluate(model=[arguments.model], set=[f"{arguments.pairs}@{images}"], device="cpu")
        measured[name] = {metric.name: metric.value for metric in result.results[0].metrics}
    return measured


if __name__ == "__main__":
    main()
