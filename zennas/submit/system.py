"""The whole system that a WebFace track takes: built as a folder, and timed as the organisers' sample times it."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from zennas.checker import BROKEN, KEPT, NORMALISATIONS, NOT_JUDGED, NOTED, Rule
from zennas.provenance import provenance
from zennas.records import Record, UserError, shortened, some
from zennas.submit.given import Given, copy_images
from zennas.track import Protocol

SHIPPED = pathlib.Path(__file__).with_name("webface")
OURS = ("face_detection.py", "pywebface260mmfr_implement.py")  # copied as they are
RECOGNIZERS, DETECTORS = "assets/face_reg/", "assets/det/"
FACE_PX = 112  # what a system of ours aligns faces to, and what the organisers' sample demands of a network
# README of the organisers: above 1000 ms breaks the rule, "exceeding 2000ms will not be evaluated".
NOT_EVALUATED = 2.0
MAX_LENGTH_ERROR = 1e-3  # of a feature's length from one: float32 over a few thousand numbers is a hundred times nearer
PHOTOGRAPH_PX = 200  # the long side below which an image is taken to be a crop
TIMEOUT_S = 3600  # of fifty runs in load() and fifty of ours; at the limit itself both take two minutes
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"
)


class SystemRuns(Record):
    """What came out of a system: raw times in milliseconds, in the order in which they were taken,
    and what was found."""

    raw_ms: tuple[float, ...]
    raw_detection_ms: tuple[float | None, ...]
    raw_recognition_ms: tuple[float | None, ...]
    loaded_ms: tuple[float, ...]  # what load() says: all, detection, recognition
    feature_size: int
    wrong_features: int  # of another size, not of unit length, or no numbers
    images: int
    median_hw: tuple[int, int]  # pixels
    images_with_face: int
    without_face: tuple[str, ...]  # names of the others
    kth_fastest: int
    num_runs: int
    made_by: dict

    @property
    def which(self) -> int:
        """The number of the run that counts: the k-th fastest of the first num_runs."""
        return sorted(range(self.num_runs), key=self.raw_ms.__getitem__)[self.kth_fastest - 1]

    @property
    def measured_ms(self) -> float:
        return self.raw_ms[self.which]


class System(NamedTuple):
    """A submission's files, and the recognition network among them."""

    files: dict[str, bytes]  # path inside the zip -> content
    recognizer: Given


def build_system(
    model: Given, detector_bytes: bytes, detector_name: str, *, normalise: str, name: str = "model.onnx"
) -> System:
    """The System of a recognition network (a Given) and a detector, with our own two files of code.

    normalise: a name of checker.NORMALISATIONS.
    """
    mean, std = NORMALISATIONS[normalise]
    settings = {"detector": detector_name, "recognizer": name, "input_mean": mean, "input_std": std}
    files = {path: (SHIPPED / path).read_bytes() for path in OURS}
    files["assets/settings.json"] = (json.dumps(settings, indent=2) + "\n").encode()
    files[DETECTORS + detector_name] = detector_bytes
    files[RECOGNIZERS + name] = model.onnx_bytes
    return System(files, model)


def read_system(folder: pathlib.Path | str) -> System:
    """The System in a folder that the user made or edited.
    UserError where something that the server needs is missing."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"--system {folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    for path in paths:
        if path.is_symlink():
            raise UserError(f"--system {folder}: {path.relative_to(folder)} is a link; a zip takes files alone")
    files = {}
    for path in paths:
        if path.is_file():
            try:
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
            except OSError as error:
                raise UserError(f"--system {path}: cannot be read: {error.strerror}") from None
    missing = [f"{needed} at its top" for needed in OURS if needed not in files]
    for needed in (DETECTORS, RECOGNIZERS):
        if not any(name.startswith(needed) and name.endswith(".onnx") for name in files):
            missing.append(f"{needed}*.onnx")
    if missing:
        raise UserError(f"--system {folder}: lacks {', '.join(missing)}")
    name = max(name for name in files if name.startswith(RECOGNIZERS) and name.endswith(".onnx"))
    return System(files, Given(files[name], str(folder / name), ()))


def run_system(system: System, images: list[tuple[str, Callable[[], bytes]]], protocol: Protocol) -> SystemRuns | str:
    """The SystemRuns of a System over images, in a process of its own with one thread; or a text that says what failed.

    images: as given.find_images gives them; of many, as many as there are runs, evenly spread. The clock stands still
    while an image is read, as in the sample; detection, alignment, recognition and normalisation are inside.
    """
    with tempfile.TemporaryDirectory(prefix="zennas-submit-") as temporary:
        room, faces = pathlib.Path(temporary, "system"), pathlib.Path(temporary, "images")
        faces.mkdir()
        names = copy_images(images, faces, most=protocol.num_runs)
        for name, content in system.files.items():
            (room / name).parent.mkdir(parents=True, exist_ok=True)
            (room / name).write_bytes(content)
        answer = pathlib.Path(temporary, "answer.json")
        words = [sys.executable, SHIPPED / "timed_runs.py", room, faces, protocol.num_runs, answer]
        environment = os.environ | ONE_THREAD | {"PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ended = subprocess.run(
                [str(word) for word in words],
                check=False,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return f"it did not come to its end within {TIMEOUT_S} s"
        if not answer.is_file():
            last = next(iter(reversed(ended.stderr.strip().splitlines())), "")
            return f"its process ended with {ended.returncode}" + (f": {last}" if last else "")
        answered = json.loads(answer.read_text(encoding="utf-8"))
    if answered.get("unreadable"):
        raise UserError(f"--images {names[answered['unreadable'][0]]}: not an image that OpenCV can read")
    if "error" in answered:
        return shortened(" ".join(answered["error"].split()), 500)
    return _taken(answered, names, protocol)


def _taken(answered, names, protocol):
    runs, size = answered["runs"], answered["feat_dim"]
    missed = sorted({run["image"] for run in runs if run["length"] == 0})
    wrong = [run for run in runs if run["length"] != 0 and not _is_feature(run, size)]
    return SystemRuns(
        raw_ms=[round(run["ms"], 4) for run in runs],
        raw_detection_ms=[run["detection_ms"] for run in runs],
        raw_recognition_ms=[run["recognition_ms"] for run in runs],
        loaded_ms=answered["loaded"],
        feature_size=size,
        wrong_features=len(wrong),
        images=len(names),
        median_hw=[int(statistics.median(sides)) for sides in zip(*answered["sizes"], strict=True)],
        images_with_face=len(names) - len(missed),
        without_face=[names[image] for image in missed],
        kth_fastest=protocol.kth_fastest,
        num_runs=protocol.num_runs,
        made_by=provenance().model_dump(),
    )


def _is_feature(run, size):
    return run["length"] is not None and abs(run["length"] - 1) <= MAX_LENGTH_ERROR and run["size"] == size


def system_rules(runs: SystemRuns | str, *, total_ms: float, origin: str, stand_in: str | None = None) -> list[Rule]:
    """The Rules of a whole system: runs is a SystemRuns or the text that says why there is none;
    total_ms the limit here; stand_in the sentence that says so where another kind of device stood in for the track's:
    then the time is not judged.
    """
    limit = f"<= {total_ms:.1f} ms"
    if isinstance(runs, str):
        remark = f"the system does not run: {runs}"
        return [Rule(name="system", measured="does not run", limit="runs", verdict=BROKEN, said=remark)]
    rules = [Rule(name="system", measured="runs", limit="runs", verdict=KEPT)]
    features = f"{runs.feature_size} numbers"
    remark = (
        f"{runs.wrong_features} features are not of unit length, or not of {features}" if runs.wrong_features else ""
    )
    rules.append(
        Rule(
            name="features", measured=features, limit="of unit length", verdict=BROKEN if remark else KEPT, said=remark
        )
    )
    faces, remark = f"in {runs.images_with_face} of {runs.images} images", ""
    if not runs.images_with_face:
        remark = "no face was found in any image: the time means nothing, and every pair would count as missed"
    elif runs.without_face:
        remark = f"an image without a face counts as missed: {some(runs.without_face)}"
    verdict = KEPT if not remark else NOTED if runs.images_with_face else BROKEN
    rules.append(Rule(name="faces found", measured=faces, limit="at least one", verdict=verdict, said=remark))
    height, width = runs.median_hw
    small = max(runs.median_hw) < PHOTOGRAPH_PX
    remark = "these are crops rather than photographs: a system meets larger images, and more in them" if small else ""
    rules.append(
        Rule(
            name="images",
            measured=f"{height} x {width} px (median)",
            limit="photographs",
            verdict=NOTED if small else KEPT,
            said=remark,
        )
    )
    return [*rules, _system_time(runs, total_ms, limit, origin, stand_in)]


def _system_time(runs, total_ms, limit, origin, stand_in):
    ms, which = runs.measured_ms, runs.which
    detection, recognition = runs.raw_detection_ms[which], runs.raw_recognition_ms[which]
    within = "within" if ms <= total_ms else "over"
    remark = f"{ms:.1f} ms, {within} the budget of {total_ms:.1f} ms: {origin}"
    if detection is not None and recognition is not None:
        remark += f"; detection {detection:.1f} ms, alignment and recognition {recognition:.1f} ms"
    if ms > NOT_EVALUATED * total_ms:
        remark += f"; above {NOT_EVALUATED:g} times the limit it is not even evaluated"
    remark += f"; {stand_in}" if stand_in else ""
    verdict = KEPT if ms <= total_ms else BROKEN
    if not runs.images_with_face or stand_in:
        verdict = NOT_JUDGED
    measured = f"{ms:.1f} ms ({runs.kth_fastest} of {runs.num_runs}{', stand-in' if stand_in else ''})"
    return Rule(name="time of the system", measured=measured, limit=limit, verdict=verdict, said=remark)
