"""The system that goes to the server: its two files as they are, run where they must run, against what others
compute."""

import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import cv2
import numpy as np
import onnx
import pytest

from tests.submit.conftest import FACE_PX, TEMPLATE, aligned_detector, detector, network
from zennas.export.onnx_file import open_session
from zennas.records import UserError
from zennas.submit.given import Given, find_images
from zennas.submit.system import (
    ONE_THREAD,
    OURS,
    SHIPPED,
    SystemRuns,
    build_system,
    read_system,
    run_system,
    system_rules,
)
from zennas.track import Protocol

PROTOCOL = Protocol(backend="onnxruntime-cpu", num_runs=9, kth_fastest=2)
SIZE = 16


def recognizer(**options):
    return Given(network(FACE_PX, SIZE, **options).SerializeToString(), "model.onnx", ())


def made(*, found=None, normalise="insightface", **options):
    return build_system(
        recognizer(**options), (found or aligned_detector()).SerializeToString(), "d.onnx", normalise=normalise
    )


def laid_out(system, folder):
    for name, content in system.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def shipped(monkeypatch):
    """shipped(folder) -> the module pywebface260mmfr_implement of a system there, imported as the server does."""

    def load(folder):
        monkeypatch.syspath_prepend(str(folder))
        for name in ("face_detection", "pywebface260mmfr_implement"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module("pywebface260mmfr_implement")

    yield load
    for name in ("face_detection", "pywebface260mmfr_implement"):
        sys.modules.pop(name, None)


@pytest.fixture
def loaded(shipped, tmp_path, monkeypatch):
    """loaded(system) -> its PyWebFace260M, ready"""
    monkeypatch.chdir(tmp_path)

    def load(system):
        folder = laid_out(system, tmp_path / "system")
        one = shipped(folder).PyWebFace260M()
        costs = one.load(str(folder / "assets"))
        assert len(costs) == 3 and costs[0] >= max(costs[1:]) >= 0, costs
        return one

    return load


def photograph(seed=0, shape=(FACE_PX, FACE_PX, 3)):
    return np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)


def expected_feature(face_HW3, mean, std):
    """The unit feature of an aligned BGR face, by ONNX Runtime on pixels that a loop puts in place."""
    image = np.zeros((1, 3, FACE_PX, FACE_PX), np.float32)
    for channel in range(3):
        image[0, channel] = (face_HW3[:, :, 2 - channel].astype(np.float64) - mean) / std
    (answer,) = open_session(recognizer().onnx_bytes, threads=1).run(None, {"image": image})
    return answer[0] / np.sqrt((answer[0].astype(np.float64) ** 2).sum())


# --- recognition


@pytest.mark.parametrize(("normalise", "mean", "std"), [("insightface", 127.5, 127.5), ("none", 0.0, 1.0)])
def test_an_aligned_face_gives_what_onnx_runtime_gives_for_its_pixels(loaded, normalise, mean, std):
    one, face = loaded(made(normalise=normalise)), photograph()
    feature = one.get_feature(face)
    assert one.feat_dim == SIZE and feature.shape == (SIZE,) and feature.dtype == np.float32
    # The landmarks are the template but for float32, and warping rounds positions to 1/32 pixel: it is the same image.
    assert np.allclose(feature, expected_feature(face, mean, std), atol=1e-5)
    assert np.linalg.norm(feature) == pytest.approx(1, abs=1e-6)
    other = expected_feature(face, *((0.0, 1.0) if mean else (127.5, 127.5)))
    assert not np.allclose(feature, other, atol=1e-3)  # there is something to get wrong
    assert one.get_sim(feature, feature) == pytest.approx(1, abs=1e-6)
    assert one.get_sim(feature, -feature) == pytest.approx(-1, abs=1e-6)


def test_no_face_gives_zeros(loaded):
    one = loaded(made())
    feature = one.get_feature(np.zeros((FACE_PX, FACE_PX, 3), np.uint8))
    assert feature.shape == (SIZE,) and not feature.any() and one.get_sim(feature, feature) == 0


@pytest.mark.parametrize("shape", [(80, 200, 3), (300, 150, 3), (1, 40, 3), (224, 224, 3)])
def test_landmarks_come_back_in_pixels_of_the_image(loaded, shape):
    """The long side is scaled to 224, whatever the shape; the detector of this test answers in pixels of that."""
    points, box = np.array([[10.0, 20], [60, 22], [33, 40], [15, 60], [55, 62]]), (4, 6, 80, 90)
    one = loaded(made(found=detector(points, box)))
    box_N4, point_N52 = one.detect(np.full(shape, 200, np.uint8))
    scale = 224 / max(shape)
    assert np.allclose(point_N52, [points / scale], atol=1e-3) and np.allclose(
        box_N4, [np.array(box) / scale], atol=1e-2
    )


def test_a_turned_face_is_put_upright(loaded):
    """A smooth face, turned, scaled and moved by a known similarity, comes back: its feature is the upright one's."""
    columns, rows = np.meshgrid(np.arange(FACE_PX), np.arange(FACE_PX))
    upright = np.stack([127 + 100 * np.sin(columns / 17 + phase) * np.cos(rows / 23) for phase in (0, 1, 2)], 2)
    upright = upright.clip(1, 255).astype(np.uint8)
    angle, factor = np.deg2rad(20), 0.8
    matrix = np.array(
        [[factor * np.cos(angle), -factor * np.sin(angle), 80], [factor * np.sin(angle), factor * np.cos(angle), 40]]
    )
    photo = cv2.warpAffine(upright, matrix, (224, 224), borderMode=cv2.BORDER_REPLICATE)
    points = TEMPLATE @ matrix[:, :2].T + matrix[:, 2]
    one = loaded(made(found=detector(points, (50, 60, 170, 200))))
    cosine = one.get_sim(one.get_feature(photo), expected_feature(upright, 127.5, 127.5))
    # 0.9999 and more where the alignment is right (bilinear twice); an unturned crop of this image is far off.
    assert cosine > 0.999
    assert one.get_sim(one.get_feature(photo), expected_feature(photo[40:152, 80:192], 127.5, 127.5)) < cosine - 1e-4


def umeyama(source, target):
    """By the singular value decomposition, as in the paper."""
    source_middle, target_middle = source.mean(0), target.mean(0)
    covariance = (target - target_middle).T @ (source - source_middle) / len(source)
    left, singular, right = np.linalg.svd(covariance)
    signs = np.array([1, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    factor = (singular * signs).sum() / source.var(0).sum()
    return np.column_stack([factor * rotation, target_middle - factor * rotation @ source_middle])


@pytest.mark.parametrize("seed", range(5))
def test_the_similarity_is_umeyamas(shipped, seed):
    module, rng = shipped(SHIPPED), np.random.default_rng(seed)
    source, target = rng.normal(size=(2, 5, 2)) * 50
    assert np.allclose(module.similarity(source, target), umeyama(source, target), rtol=1e-9, atol=1e-9)
    assert np.allclose(module.similarity(target, target), [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert module.similarity(np.ones((5, 2)), target) is None
    assert module.similarity(np.full((5, 2), np.nan), target) is None


def test_the_face_that_matters_is_large_and_near_the_centre(shipped):
    """By hand, in an image of 100 x 100: areas 400, 900, 400; squared distances 0, 450, 3200."""
    module = shipped(SHIPPED)
    boxes = np.array([[40.0, 40, 60, 60], [50, 50, 80, 80], [0, 0, 20, 20]])
    assert module.chosen(boxes, (100, 100, 3)) == 0  # 400 against 900 - 900
    assert module.chosen(boxes[1:], (100, 100, 3)) == 0
    boxes[1] = [42, 42, 72, 72]  # 900 - 2 x 98
    assert module.chosen(boxes, (100, 100, 3)) == 1


# --- detection


def test_a_face_is_decoded_by_its_stride(shipped):
    shipped(SHIPPED)
    decoded = importlib.import_module("face_detection").decoded
    outputs = {
        "cls_16": np.zeros((1, 6, 1), np.float32),
        "obj_16": np.ones((1, 6, 1), np.float32),
        "bbox_16": np.zeros((1, 6, 4), np.float32),
        "kps_16": np.zeros((1, 6, 10), np.float32),
    }
    outputs["cls_16"][0, 4] = 0.25
    outputs["bbox_16"][0, 4] = [0.5, 0.25, np.log(2), np.log(4)]
    outputs["kps_16"][0, 4] = np.arange(10)
    # Place 4 of 3 columns: column 1, row 1. Centre (1.5, 1.25) x 16 = (24, 20); 32 wide, 64 high.
    box, points, score = decoded(outputs, 16, 3, 0.3)
    assert np.allclose(box, [[8, -12, 40, 52]]) and score.tolist() == [0.5]
    assert np.allclose(points[0], [[16, 32], [48, 64], [80, 96], [112, 128], [144, 160]])
    assert [len(part) for part in decoded(outputs, 16, 3, 0.51)] == [0, 0, 0]


def test_overlapping_faces_leave_the_strongest(shipped):
    shipped(SHIPPED)
    strongest = importlib.import_module("face_detection").strongest
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 5, 10, 15], [20, 20, 30, 30]])
    # Of 0 and 1 80 of 100 are shared; of 0 and 2 50 of 150, above 0.3; 1 and 2 share 30 of 150.
    assert strongest(boxes, np.array([0.9, 0.8, 0.7, 0.6])).tolist() == [0, 3]
    assert strongest(boxes, np.array([0.7, 0.8, 0.9, 0.95])).tolist() == [3, 2, 1]
    assert strongest(boxes[:0], np.zeros(0)).tolist() == []


@pytest.mark.parametrize(
    ("px", "said"), [(320, None), (160, r"the detector takes \[160, 160\] pixels; given \(224, 224\)")]
)
def test_a_detector_of_its_own_size_is_padded_to(shipped, tmp_path, px, said):
    shipped(SHIPPED)
    points, box = np.array([[10.0, 20], [60, 22], [33, 40], [15, 60], [55, 62]]), (4, 6, 80, 90)
    onnx.save(detector(points, box, px=px), tmp_path / "d.onnx")
    found = importlib.import_module("face_detection").get_detector(str(tmp_path / "d.onnx"))
    image = np.full((224, 224, 3), 255, np.uint8)
    if said:
        with pytest.raises(ValueError, match=said):
            found.detect(image, 0.3)
        return
    box_N4, point_N52, score_N = found.detect(image, 0.3)
    assert (
        np.allclose(point_N52, [points], atol=1e-3)
        and np.allclose(box_N4, [box], atol=1e-2)
        and score_N.tolist() == [1]
    )


# --- what load says


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.pop("assets/settings.json"), "FileNotFoundError"),
        (lambda files: files.update({"assets/det/d.onnx": b"no network"}), "assets/det/d.onnx"),
        (lambda files: files.update({"assets/det/d.onnx": recognizer().onnx_bytes}), "not those of YuNet: embedding"),
        (
            lambda files: files.update({"assets/face_reg/model.onnx": aligned_detector().SerializeToString()}),
            "one output",
        ),
    ],
)
def test_load_says_in_a_text_what_is_wrong(shipped, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    system = made()
    change(system.files)
    folder = laid_out(system, tmp_path / "system")
    answer = shipped(folder).PyWebFace260M().load(str(folder / "assets"))
    assert isinstance(answer, str) and said in answer


def test_the_shipped_files_need_nothing_of_zennas(tmp_path):
    """In a process that cannot import it, in a folder of six images, as the organisers' demo goes."""
    folder = laid_out(made(), tmp_path / "system")
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), photograph(number))
    program = (
        f"import sys; sys.modules['zennas'] = None; sys.path.append({str(folder)!r})\n"
        "from pywebface260mmfr_implement import PyWebFace260M\nimport cv2\n"
        f"one = PyWebFace260M(); costs = one.load({str(folder / 'assets')!r})\n"
        "a, b = (one.get_feature(cv2.imread(f'{n}.png')) for n in (0, 1))\n"
        "print(costs, one.feat_dim, one.get_sim(a, a), one.get_sim(a, b) < 1)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.strip().startswith("(") and f") {SIZE} 1.0" in ended.stdout.replace("0.99999", "1.0")


# --- the whole system, in its process


def test_a_system_is_timed_and_split(photographs):
    runs = run_system(made(), find_images([photographs]), PROTOCOL)
    assert len(runs.raw_ms) == 9 and runs.images == runs.images_with_face == 7 and not runs.without_face
    assert runs.measured_ms == sorted(runs.raw_ms)[1] and runs.feature_size == SIZE and not runs.wrong_features
    # The parts are taken inside the whole; what lies between them is a few lines.
    for whole, *parts in zip(runs.raw_ms, runs.raw_detection_ms, runs.raw_recognition_ms, strict=True):
        assert 0 < sum(parts) <= whole and min(parts) > 0
    assert SystemRuns.model_validate(runs.model_dump(mode="json")) == runs


def test_images_without_a_face_are_counted_by_name(photographs):
    for name in ("0.png", "3.png"):
        cv2.imwrite(str(photographs / name), np.zeros((40, 40, 3), np.uint8))
    runs = run_system(made(), find_images([photographs]), PROTOCOL)
    assert (runs.images, runs.images_with_face, runs.wrong_features) == (7, 5, 0)
    assert runs.without_face == (str(photographs / "0.png"), str(photographs / "3.png"))
    rules = {rule.name: rule for rule in system_rules(runs, total_ms=1e6, origin="")}
    assert rules["faces found"].verdict == "noted" and "3.png" in rules["faces found"].said
    assert rules["time of the system"].verdict == "kept"


def test_without_any_face_the_time_means_nothing(photographs):
    for path in photographs.rglob("*.*"):
        path.unlink()
    cv2.imwrite(str(photographs / "0.png"), np.zeros((40, 40, 3), np.uint8))
    runs = run_system(made(), find_images([photographs]), PROTOCOL)
    rules = {rule.name: rule.verdict for rule in system_rules(runs, total_ms=1e6, origin="")}
    assert rules["faces found"] == "broken" and rules["time of the system"] == "not judged here"


def test_an_image_that_is_none_is_the_users_error(photographs):
    (photographs / "5.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"--images .*5\.png: not an image that OpenCV can read"):
        run_system(made(), find_images([photographs]), PROTOCOL)


def runs_of(ms, **changes):
    given = {
        "raw_ms": (ms,) * 9,
        "raw_detection_ms": (ms / 4,) * 9,
        "raw_recognition_ms": (ms / 2,) * 9,
        "loaded_ms": (1, 1, 0),
        "feature_size": 8,
        "wrong_features": 0,
        "images": 7,
        "images_with_face": 7,
        "without_face": (),
        "kth_fastest": 2,
        "num_runs": 9,
        "made_by": {},
        "median_hw": (480, 640),
    }
    return SystemRuns(**(given | changes))


@pytest.mark.parametrize(
    ("ms", "verdict", "said"),
    [(99, "kept", "within"), (100, "kept", "within"), (101, "broken", "over"), (201, "broken", "not even evaluated")],
)
def test_the_time_of_a_system_against_its_budget(ms, verdict, said):
    *_, rule = system_rules(runs_of(ms), total_ms=100, origin="from there")
    assert rule.verdict == verdict and said in rule.said and "from there" in rule.said
    assert ("not even evaluated" in rule.said) == (ms > 200)
    assert f"detection {ms / 4:.1f} ms, alignment and recognition {ms / 2:.1f} ms" in rule.said


@pytest.mark.parametrize(("ms", "where"), [(99, "within"), (101, "over"), (201, "over")])
def test_a_stand_in_decides_nothing_of_a_system_either(ms, where):
    *others, rule = system_rules(runs_of(ms), total_ms=100, origin="from there", stand_in="stand-in: here")
    assert rule.verdict == "not judged here" and rule.measured == f"{ms:.1f} ms (2 of 9, stand-in)"
    assert (
        rule.limit == "<= 100.0 ms" and f"{where} the budget of 100.0 ms" in rule.said and "stand-in: here" in rule.said
    )
    assert {other.verdict for other in others} == {"kept"}


@pytest.mark.parametrize(("median_hw", "verdict"), [((480, 640), "kept"), ((200, 112), "kept"), ((112, 112), "noted")])
def test_crops_are_told_from_photographs(median_hw, verdict):
    rules = system_rules(runs_of(99, median_hw=median_hw), total_ms=100, origin="from there")
    (rule,) = [rule for rule in rules if rule.name == "images"]
    assert rule.verdict == verdict and rule.measured == f"{median_hw[0]} x {median_hw[1]} px (median)"


def test_only_the_runs_of_the_rule_count():
    """More images than runs are all looked at, and the first num_runs are timed."""
    runs = runs_of(5, raw_ms=(9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5), num_runs=4)
    assert runs.measured_ms == 7 and runs.which == 2


def test_features_that_are_none_are_broken():
    rules = {rule.name: rule.verdict for rule in system_rules(runs_of(5, wrong_features=2), total_ms=9, origin="")}
    assert rules["features"] == "broken"


# --- systems of other people


def edited(system, name, text):
    system.files[name] = text.encode()
    return system


MINIMAL = """
import numpy as np
class PyWebFace260M:
    def load(self, rdir):
        self.feat_dim = 3
        return 3, 1, 2
    def get_feature(self, img):
        return FEATURE
    def get_sim(self, a, b):
        return a @ b
"""


def test_a_system_that_does_not_split_its_time(photographs):
    system = edited(made(), OURS[1], MINIMAL.replace("FEATURE", "np.array([0, 1, 0], np.float32)"))
    runs = run_system(system, find_images([photographs]), PROTOCOL)
    assert runs.loaded_ms == (3, 1, 2) and set(runs.raw_detection_ms) == {None} and runs.feature_size == 3
    *_, rule = system_rules(runs, total_ms=1e6, origin="")
    assert rule.verdict == "kept" and "detection" not in rule.said


@pytest.mark.parametrize("feature", ["np.array([3.0, 4, 0])", "np.ones(4) / 2", "np.array([np.nan, 0, 1])"])
def test_features_that_the_server_could_not_compare(photographs, feature):
    system = edited(made(), OURS[1], MINIMAL.replace("FEATURE", feature))
    assert run_system(system, find_images([photographs]), PROTOCOL).wrong_features == 9


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (OURS[1], "import nowhere", "loading: ModuleNotFoundError: No module named 'nowhere'"),
        (OURS[1], "x = 1", "loading: AttributeError"),
        (OURS[1], MINIMAL.replace("return 3, 1, 2", "return 'load onnx failed'"), "load() says: load onnx failed"),
        (OURS[1], MINIMAL.replace("FEATURE", "1 / 0"), "get_feature: ZeroDivisionError"),
        (OURS[1], "import os\nos._exit(7)", "its process ended with 7"),
        (OURS[0], "def get_detector(path, use_gpu):\n    raise KeyError('mine')", "KeyError: 'mine'"),
    ],
)
def test_a_system_that_fails_says_where(photographs, name, text, said):
    runs = run_system(edited(made(), name, text), find_images([photographs]), PROTOCOL)
    assert isinstance(runs, str) and said in runs
    (rule,) = system_rules(runs, total_ms=1, origin="")
    assert rule.verdict == "broken" and said in rule.said


TELLING = f"""
import json
import os
import cv2
import numpy as np
class PyWebFace260M:
    def load(self, rdir):
        np.ones((300, 300)) @ np.ones((300, 300))
        cv2.GaussianBlur(np.ones((999, 999, 3), np.uint8), (9, 9), 0)
        said = {{name: os.environ.get(name) for name in {list(ONE_THREAD)}}}
        tasks = "/proc/self/task"
        at_work = len(os.listdir(tasks)) if os.path.isdir(tasks) else 1
        return json.dumps(said | {{"cv2": cv2.getNumThreads(), "at work": at_work}})
"""


def test_a_system_runs_on_one_thread_whatever_the_user_has_set(photographs, monkeypatch):
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "2")
    answered = run_system(edited(made(), OURS[1], TELLING), find_images([photographs]), PROTOCOL)
    assert isinstance(answered, str) and "load() says: {" in answered, answered
    expected = dict.fromkeys(ONE_THREAD, "1") | {"cv2": 1, "at work": 1}
    assert json.loads(answered.partition("load() says: ")[2]) == expected


def test_a_system_lacking_its_own_detection_does_not_get_ours(photographs):
    system = made()
    del system.files[OURS[0]]
    assert "No module named 'face_detection'" in run_system(system, find_images([photographs]), PROTOCOL)


def test_a_folder_of_the_users_is_read_whole(tmp_path):
    system = made()
    folder = laid_out(system, tmp_path / "mine")
    (folder / "assets" / "face_reg" / "a.onnx").write_bytes(b"another")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"")
    found = read_system(folder)
    assert found.files == system.files | {"assets/face_reg/a.onnx": b"another"}
    assert found.recognizer.onnx_bytes == system.files["assets/face_reg/model.onnx"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (OURS[0], "lacks face_detection.py at its top"),
        (OURS[1], "lacks pywebface260mmfr_implement.py at its top"),
        ("assets/det/d.onnx", r"lacks assets/det/\*.onnx"),
        ("assets/face_reg/model.onnx", r"lacks assets/face_reg/\*.onnx"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(tmp_path, name, said):
    folder = laid_out(made(), tmp_path / "mine")
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"--system .*mine: {said}"):
        read_system(folder)
    with pytest.raises(UserError, match=r"no such folder"):
        read_system(tmp_path / "nowhere")


def test_a_link_in_a_folder_is_refused(tmp_path):
    folder = laid_out(made(), tmp_path / "mine")
    (folder / "assets" / "more").symlink_to(tmp_path)
    with pytest.raises(UserError, match="assets/more is a link"):
        read_system(folder)


# --- with real data


@pytest.mark.data
@pytest.mark.parametrize(("name", "px"), [("yunet_n_dynamic", 224), ("yunet_n_320_320", 320)])
def test_yunet_is_decoded_as_opencv_does(shipped, name, px):
    shipped(SHIPPED)
    data = pathlib.Path(os.environ["ZENNAS_DATA"])
    path = str(data / "models" / f"{name}.onnx")
    ours = importlib.import_module("face_detection").get_detector(path)
    theirs = cv2.FaceDetectorYN.create(path, "", (px, px), 0.3, 0.3)
    num_faces = []
    with tarfile.open(data / "faces" / "lfw_aligned_112.tar") as tar:
        members = [member for member in tar if member.isreg()][::200]
        for member in members:
            encoded = np.frombuffer(tar.extractfile(member).read(), np.uint8)
            image = cv2.resize(cv2.imdecode(encoded, cv2.IMREAD_COLOR), (224, 224))
            padded = np.zeros((px, px, 3), np.uint8)
            padded[:224, :224] = image
            box_N4, point_N52, score_N = ours.detect(image, 0.3)
            found = theirs.detect(padded)[1]
            found = np.zeros((0, 15)) if found is None else found[np.argsort(-found[:, 14])]
            num_faces.append(len(found))
            assert len(box_N4) == len(found)
            # The same weights in two engines of float32: measured 3e-5 pixels.
            assert np.allclose(box_N4, np.hstack([found[:, :2], found[:, :2] + found[:, 2:4]]), atol=1e-2)
            assert np.allclose(point_N52.reshape(-1, 10), found[:, 4:14], atol=1e-2)
            assert np.allclose(score_N, found[:, 14], atol=1e-4)
    assert len(num_faces) > 60 and min(num_faces) >= 1 and max(num_faces) > 1


@pytest.mark.data
def test_a_real_system_tells_people_apart(loaded):
    """YuNet and a trained MobileFaceNet (RGB, ImageNet's mean and std, folded into the pixels here): the two images of
    a person are more alike than two people's, for nearly all of 40 people."""
    data = pathlib.Path(os.environ["ZENNAS_DATA"])
    model = onnx.load(data / "models" / "mobilefacenet_foamliu.onnx")
    detector_bytes = (data / "models" / "yunet_n_dynamic.onnx").read_bytes()
    one = loaded(
        build_system(Given(model.SerializeToString(), "", ()), detector_bytes, "d.onnx", normalise="insightface")
    )
    one.mean, one.std = 255 * np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1), 255 * 0.225
    with tarfile.open(data / "faces" / "lfw_aligned_112.tar") as tar:
        members = {member.name: member for member in tar if member.isreg()}
        seconds = sorted(name for name in members if name.endswith("_0002.jpg"))[::20][:40]
        features = []
        for name in seconds:
            for each in (name.replace("_0002", "_0001"), name):
                content = io.BytesIO(tar.extractfile(members[each]).read()).getvalue()
                features.append(one.get_feature(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)))
    feature_ND = np.stack(features)
    assert np.allclose(np.linalg.norm(feature_ND, axis=1), 1, atol=1e-5)  # a face in each
    cosine = feature_ND[::2] @ feature_ND[1::2].T
    assert (cosine.argmax(1) == np.arange(len(seconds))).mean() > 0.9
