"""Runs somebody's whole system over images in a process of its own and writes what came out; no part of a submission.

python timed_runs.py SYSTEM IMAGES NUM_RUNS ANSWER.json: SYSTEM is a folder with pywebface260mmfr_implement.py, IMAGES
one with 0.png, 1.png, ... It asks of a system what the challenge's server asks: load, feat_dim, get_feature.
"""

import gc
import glob
import importlib
import json
import os
import sys
import time

import cv2
import numpy as np


def main(system, images, num_runs, answer):
    """Write to the file `answer` {"loaded", "feat_dim", "sizes" (height, width), "runs": [...]}, {"error": text}, or
    {"unreadable": numbers of images}."""
    system, answer = os.path.abspath(system), os.path.abspath(answer)
    sys.path[0] = system  # in place of this file's folder, where a face_detection.py lies too
    os.chdir(images)  # load() looks for 0.png to 5.png here
    num_images = len(glob.glob("*.png"))
    images = [cv2.imread(f"{number}.png") for number in range(num_images)]
    unreadable = [number for number, image in enumerate(images) if image is None]
    if unreadable:
        write(answer, {"unreadable": unreadable})
        return
    sizes = [image.shape[:2] for image in images]
    del images
    stage = "loading"
    try:
        recognizer = importlib.import_module("pywebface260mmfr_implement").PyWebFace260M()
        loaded = recognizer.load(os.path.join(system, "assets"))
        if isinstance(loaded, str) or loaded is None:
            raise RuntimeError(f"load() says: {loaded}")
        stage = "get_feature"
        result = {"loaded": [float(value) for value in loaded], "feat_dim": int(recognizer.feat_dim)}
        result["sizes"] = sizes
        result["runs"] = timed(recognizer, num_images, num_runs)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is the answer
        result = {"error": f"{stage}: {type(error).__name__}: {error}"}
    write(answer, result)


def write(answer, result):
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(result, file)


def timed(recognizer, num_images, num_runs):
    """One dict a run: the image, ms, detection_ms and recognition_ms (None where the system does not tell), size and
    length of the feature. Every image is run at least once. The image is read outside the clock, as the organisers do.
    """
    parts = getattr(recognizer, "get_feature_time", None)
    ask = parts if parts is not None else lambda image: (recognizer.get_feature(image), None, None)
    runs = []
    gc.collect()
    gc.disable()
    for number in range(max(num_runs, num_images)):
        image_HW3 = cv2.imread(f"{number % num_images}.png")
        start = time.perf_counter()
        feature, detection, recognition = ask(image_HW3)
        ms = (time.perf_counter() - start) * 1000
        length = float(np.linalg.norm(np.asarray(feature, np.float64)))
        runs.append(
            {
                "image": number % num_images,
                "ms": ms,
                "detection_ms": _milliseconds(detection),
                "recognition_ms": _milliseconds(recognition),
                "size": int(np.asarray(feature).size),
                "length": length if np.isfinite(length) else None,
            }
        )
    return runs


def _milliseconds(duration):
    """Of a timedelta, which the organisers' sample gives, or of 0."""
    return duration.total_seconds() * 1000 if hasattr(duration, "total_seconds") else None


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
