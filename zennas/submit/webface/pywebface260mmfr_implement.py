"""A face recognition system for the WebFace260M track of ICCV21-MFR: detection, alignment, recognition on one thread.

This file goes into a submission as it is and needs Python 3.6, numpy, cv2, onnxruntime and, beside it,
face_detection.py alone. Which networks it runs, and how it feeds them, stands in assets/settings.json.
"""

# H height, W width, D embedding size

import datetime
import json
import os
import time

import cv2
import numpy as np

DETECTION_PX = 224  # the long side of what the detector sees
DETECTION_THRESHOLD = 0.3
FACE_PX = 112
# Where the eyes, the nose and the corners of the mouth come to lie in a face of 112 pixels.
TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
NUM_RUNS, KTH_FASTEST, NUM_IMAGES = 50, 6, 6  # how load() takes the time


class PyWebFace260M:
    """What the challenge's server asks of a system: load, feat_dim, get_feature, get_sim."""

    def __init__(self, use_gpu=False):
        self.use_gpu = use_gpu
        self.feat_dim = 0
        cv2.setNumThreads(1)

    def load(self, rdir):
        """(milliseconds of one image, of its detection, of its recognition), or a text that says why not.

        rdir: the folder `assets`. The time is the sixth fastest of 50 runs over 0.png to 5.png in the working folder.
        """
        import face_detection  # not before: it lies beside this file, which is no package

        try:
            with open(os.path.join(rdir, "settings.json"), encoding="utf-8") as file:
                settings = json.load(file)
            self.mean, self.std = float(settings["input_mean"]), float(settings["input_std"])
            path = os.path.join(rdir, "det", settings["detector"])
            self.detector = face_detection.get_detector(path, self.use_gpu)
            self.session = face_detection.open_session(
                os.path.join(rdir, "face_reg", settings["recognizer"]), self.use_gpu
            )
            if len(self.session.get_outputs()) != 1 or len(self.session.get_inputs()[0].shape) != 4:
                return "one input of four axes and one output are allowed"
            self.input_name = self.session.get_inputs()[0].name
            self.feat_dim = len(self.recognize(np.zeros((FACE_PX, FACE_PX, 3), np.uint8)))
            return self.benchmark()
        except Exception as error:  # noqa: BLE001 - the server asks for a text, whatever it was
            return f"{type(error).__name__}: {error}"

    def benchmark(self):
        """Whole milliseconds: (all, detection, recognition)."""
        images = [cv2.imread(f"{number}.png") for number in range(NUM_IMAGES)]
        images = [image for image in images if image is not None]
        if not images:
            images = [np.random.RandomState(0).randint(0, 255, (FACE_PX, FACE_PX, 3)).astype(np.uint8)]
        runs = []
        for number in range(NUM_RUNS):
            start = time.perf_counter()
            _, detection, recognition = self.get_feature_time(images[number % len(images)])
            runs.append((time.perf_counter() - start, detection.total_seconds(), recognition.total_seconds()))
        return tuple(int(1000 * seconds) for seconds in sorted(runs)[KTH_FASTEST - 1])

    def get_feature(self, img, im_type=0):
        """The feature_D (float32) of the one face that matters in a BGR image: of unit length, or zeros where there is
        none.
        """
        return self.get_feature_time(img)[0]

    def get_feature_time(self, img, im_type=0):
        """(feature_D, time of detection, time of all that follows)."""
        start = time.perf_counter()
        box_N4, point_N52 = self.detect(img)
        middle = time.perf_counter()
        feature_D = np.zeros(self.feat_dim, np.float32)
        if len(box_N4):
            matrix_23 = similarity(point_N52[chosen(box_N4, img.shape)], TEMPLATE_52)
            if matrix_23 is not None:
                face_HW3 = cv2.warpAffine(img, matrix_23, (FACE_PX, FACE_PX), borderValue=0)
                feature_D = self.recognize(face_HW3)
        end = time.perf_counter()
        return feature_D, datetime.timedelta(seconds=middle - start), datetime.timedelta(seconds=end - middle)

    def get_sim(self, feat1, feat2):
        """The similarity of two features, a cosine."""
        return float(np.dot(feat1, feat2))

    def detect(self, img):
        """(box_N4, point_N52) in pixels of the image, which the detector sees scaled to DETECTION_PX and padded with
        black.
        """
        scale = DETECTION_PX / max(img.shape[:2])
        height, width = (max(1, int(scale * side + 0.5)) for side in img.shape[:2])
        square_HW3 = np.zeros((DETECTION_PX, DETECTION_PX, 3), np.uint8)
        square_HW3[:height, :width] = cv2.resize(img, (width, height), interpolation=cv2.INTER_LINEAR)
        box_N4, point_N52, _ = self.detector.detect(square_HW3, DETECTION_THRESHOLD)
        return box_N4 / scale, point_N52 / scale

    def recognize(self, face_HW3):
        """The feature_D of an aligned face in BGR: of unit length, or zeros where the network answers nothing but
        zeros.
        """
        image_13HW = face_HW3[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        image_13HW = np.ascontiguousarray((image_13HW - self.mean) / self.std, dtype=np.float32)
        feature_D = self.session.run(None, {self.input_name: image_13HW})[0].reshape(-1).astype(np.float32)
        return feature_D / max(float(np.linalg.norm(feature_D)), 1e-12)


def chosen(box_N4, shape):
    """The number of the face that matters: large and near the centre, by area - 2 x squared distance from the
    centre."""
    area_N = (box_N4[:, 2] - box_N4[:, 0]) * (box_N4[:, 3] - box_N4[:, 1])
    across_N = (box_N4[:, 0] + box_N4[:, 2]) / 2 - shape[1] / 2
    down_N = (box_N4[:, 1] + box_N4[:, 3]) / 2 - shape[0] / 2
    return int(np.argmax(area_N - 2.0 * (across_N**2 + down_N**2)))


def similarity(from_N2, to_N2):
    """The matrix_23 that turns, scales and moves points onto others with the least sum of squares; None where all are
    one.

    In the plane a similarity is w = a z + b over complex numbers, and least squares over a and b is Umeyama's solution.
    Source: Umeyama 1991, IEEE TPAMI 13(4).
    """
    from_N = np.asarray(from_N2, np.float64) @ (1, 1j)
    to_N = np.asarray(to_N2, np.float64) @ (1, 1j)
    from_middle, to_middle = from_N.mean(), to_N.mean()
    spread = np.sum(np.abs(from_N - from_middle) ** 2)
    if not spread > 1e-9:  # false for what is no number, too
        return None
    a = np.sum(np.conj(from_N - from_middle) * (to_N - to_middle)) / spread
    b = to_middle - a * from_middle
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
