"""The evaluator against a network whose accuracy on LFW is known: MobileFaceNet (foamliu), published with 99.48 %.

    python experiments/lfw-anchor/anchor.py --model mobilefacenet_foamliu.onnx --pairs pairs.txt --images
    lfw_aligned_112.tar \\
        --detector yunet_n_dynamic.onnx

It writes anchor.json beside itself: accuracies with and without the flipped image, in the right and in wrong
normalisations and channel orders (so that a mistake of that kind would be known by its number), and how the pairs that
are told wrongly are aligned: the detector looks for the five landmarks in each crop once more, and how far they are
from ArcFace's template is the distance.
"""

import argparse
import json
import pathlib

import numpy as np

from zennas.embed.named import open_named
from zennas.evaluate.embedded import embedded
from zennas.evaluate.judges import JudgeTools, similarities
from zennas.evaluate.protocols import PROTOCOLS
from zennas.metrics.verification import ten_fold_accuracy
from zennas.provenance import provenance
from zennas.submit.webface.face_detection import get_detector
from zennas.tasks.face.align import TEMPLATE_52

VARIANTS = (
    ("imagenet", "rgb", True),
    ("imagenet", "rgb", False),
    ("imagenet", "bgr", True),
    ("insightface", "rgb", True),
)
BORDER_PX = 56  # of black round a crop, so that a face that fills it is found
OFF_PX = 6.0  # from the template: by eye, such crops are turned, shifted, or of somebody else's half a face


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "pairs", "images", "detector"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    protocol = PROTOCOLS["pairs"]
    the_set = protocol.open(f"{arguments.pairs}@{arguments.images}", None)
    variants = []
    for normalise, colour, flip in VARIANTS:
        named = open_named(f"{arguments.model},normalise={normalise},colour={colour}")
        found = embedded(the_set, named.model, flip=flip)
        accuracy = protocol.judge(the_set, found.embedding_ND, JudgeTools()).metrics[0]
        variants.append(
            {"normalise": normalise, "colour": colour, "flip": flip, "accuracy": accuracy.value, "std": accuracy.std}
        )
        print(variants[-1], flush=True)
        if len(variants) == 1:
            column = the_set.column
            similarity_P = similarities(found.embedding_ND, column["first_P"], column["second_P"])
    detector, images = get_detector(arguments.detector), the_set.images
    off_N = np.array([_off_px(detector, images, image) for image in range(images.num_images)])
    content = {
        "made_by": provenance().model_dump(),
        "variants": variants,
        "alignment": _alignment(the_set, similarity_P, off_N),
    }
    path = pathlib.Path(__file__).with_name("anchor.json")
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content["alignment"], indent=1), f"\nwritten to {path.name}")


def _off_px(detector, images, image):
    """How far the landmarks in a crop are from the template, root mean square in pixels; infinite where no face is
    found.
    """
    crop_HW3 = images.pixels(image, 112)[..., ::-1]
    wide_HW3 = np.pad(crop_HW3, ((BORDER_PX, BORDER_PX), (BORDER_PX, BORDER_PX), (0, 0)))
    box_N4, point_N52, _ = detector.detect(wide_HW3, 0.3)
    if not len(box_N4):
        return np.inf
    off_N = np.sqrt(((point_N52 - BORDER_PX - TEMPLATE_52) ** 2).sum(2).mean(1))
    return float(off_N.min())


def _alignment(the_set, similarity_P, off_N):
    """Shares of badly aligned pairs among those told rightly and wrongly, and the accuracy on well aligned pairs
    alone."""
    column = the_set.column
    same_P, fold_P = column["same_P"], column["fold_P"]
    bad_P = np.maximum(off_N[column["first_P"]], off_N[column["second_P"]]) > OFF_PX
    threshold = ten_fold_accuracy(similarity_P, same_P, fold_P=fold_P).threshold
    wrong_P = (similarity_P >= threshold) != same_P
    good = ten_fold_accuracy(similarity_P[~bad_P], same_P[~bad_P], fold_P=fold_P[~bad_P])
    return {
        "images_off_by_more_than_6_px": int((off_N > OFF_PX).sum()),
        "images": len(off_N),
        "pairs_with_one": int(bad_P.sum()),
        "wrong_pairs": int(wrong_P.sum()),
        "wrong_same": int((wrong_P & same_P).sum()),
        "wrong_different": int((wrong_P & ~same_P).sum()),
        "wrong_pairs_with_one": int((wrong_P & bad_P).sum()),
        "accuracy_on_the_others": good.mean,
        "std_on_the_others": good.std,
    }


if __name__ == "__main__":
    main()
