"""Faces in an image, by YuNet (OpenCV's face detector, an ONNX file) in ONNX Runtime.

This file goes into a submission as it is and needs Python 3.6, numpy and onnxruntime alone (so there is no
zip(strict=)). To use another detector, write another face_detection.py with the same `get_detector` and `open_session`.
"""

# H height, W width, P places of a grid, N faces

import numpy as np
import onnxruntime

STRIDES = (8, 16, 32)
KINDS = ("cls", "obj", "bbox", "kps")  # an output of each for every stride: cls_8, ...
OVERLAP = 0.3  # of two faces that overlap by more (intersection over union), the weaker goes


def get_detector(path, use_gpu=False):
    """A Detector; ValueError where the file's outputs are not YuNet's."""
    return Detector(path, use_gpu)


class Detector:
    """detect(image_HW3 in BGR, threshold) -> (box_N4: left, top, right, bottom; point_N52: eyes, nose, corners of the
    mouth as they stand from left to right in the image; score_N), strongest first, in pixels of that image."""

    def __init__(self, path, use_gpu=False):
        self.session = open_session(path, use_gpu)
        self.input = self.session.get_inputs()[0]
        self.names = [value.name for value in self.session.get_outputs()]
        wanted = [f"{kind}_{stride}" for kind in KINDS for stride in STRIDES]
        if not set(wanted) <= set(self.names):
            raise ValueError("the detector's outputs are not those of YuNet: " + ", ".join(self.names))

    def detect(self, image_HW3, threshold=0.3):
        padded_HW3 = self.padded(image_HW3)
        image_13HW = np.ascontiguousarray(padded_HW3.transpose(2, 0, 1)[None], dtype=np.float32)
        outputs = dict(zip(self.names, self.session.run(self.names, {self.input.name: image_13HW})))  # noqa: B905
        columns = padded_HW3.shape[1]
        levels = [decoded(outputs, stride, columns // stride, threshold) for stride in STRIDES]
        box_N4, point_N52, score_N = (np.concatenate(parts) for parts in zip(*levels))  # noqa: B905
        kept = strongest(box_N4, score_N)
        return box_N4[kept], point_N52[kept], score_N[kept]

    def padded(self, image_HW3):
        """The image with black to the right and below, up to the size that the network takes."""
        wanted = [
            size if isinstance(size, int) else -(-given // STRIDES[-1]) * STRIDES[-1]
            for size, given in zip(self.input.shape[2:], image_HW3.shape)  # noqa: B905
        ]
        if wanted[0] < image_HW3.shape[0] or wanted[1] < image_HW3.shape[1]:
            raise ValueError(f"the detector takes {wanted} pixels; given {image_HW3.shape[:2]}")
        padded_HW3 = np.zeros((wanted[0], wanted[1], 3), np.uint8)
        padded_HW3[: image_HW3.shape[0], : image_HW3.shape[1]] = image_HW3
        return padded_HW3


def open_session(path, use_gpu=False):
    """An ONNX Runtime session on one thread, as the organisers' sample opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Numbers next to nothing (denormals) make some processors ten times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    providers = (["CUDAExecutionProvider"] if use_gpu else []) + ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(path, sess_options=options, providers=providers)


def decoded(outputs, stride, columns, threshold):
    """(box_N4, point_N52, score_N) that one grid of the network's answer holds, by its stride.

    Place p of a grid stands at column p % columns and row p // columns; centres and landmarks are offsets from it in
    strides, sizes are logarithms of strides. The score is the geometric mean of class and object.
    """
    class_P, object_P, box_P4, point_P10 = (outputs[f"{kind}_{stride}"][0] for kind in KINDS)
    score_P = np.sqrt(np.clip(class_P[:, 0], 0, 1) * np.clip(object_P[:, 0], 0, 1))
    place_N = np.flatnonzero(score_P >= threshold)
    corner_N2 = np.stack([place_N % columns, place_N // columns], 1).astype(np.float32)
    centre_N2 = (corner_N2 + box_P4[place_N, :2]) * stride
    half_N2 = np.exp(box_P4[place_N, 2:]) * stride / 2
    point_N52 = (corner_N2[:, None] + point_P10[place_N].reshape(-1, 5, 2)) * stride
    return np.concatenate([centre_N2 - half_N2, centre_N2 + half_N2], 1), point_N52, score_P[place_N]


def strongest(box_N4, score_N, overlap=OVERLAP):
    """Numbers of the faces that no stronger one covers, strongest first (non-maximum suppression)."""
    area_N = (box_N4[:, 2] - box_N4[:, 0]) * (box_N4[:, 3] - box_N4[:, 1])
    left, kept = np.argsort(-score_N, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low_N2 = np.maximum(box_N4[best, :2], box_N4[left, :2])
        high_N2 = np.minimum(box_N4[best, 2:], box_N4[left, 2:])
        common_N = np.prod(np.clip(high_N2 - low_N2, 0, None), 1)
        left = left[common_N <= overlap * (area_N[best] + area_N[left] - common_N)]
    return np.array(kept, dtype=int)
