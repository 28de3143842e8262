"""The house of zennas: rooms that import only backwards, fences round third parties, small files, true maps."""

import ast
import pathlib
import re
import subprocess

import pytest

from zennas.tasks.table import TASKS, tune_plan_of

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "zennas"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)

# The order in which the data walks through them; two in one entry stand side by side. `zennas` itself is its version,
# and `space` knows nothing of a track, which reads it. A dotted entry is a file that stands apart from its room: the
# table of tasks names their modules and imports none of them, so that an experiment can name a task; masks are rendered
# where a face's landmarks say, every room that takes faces looks whether they are aligned, every room that exports uses
# one file of `export`, and images are found and decoded for who times networks on them.
ROOMS = [
    {"zennas"},
    {"names"},
    {"records"},
    {"flags"},
    {"provenance", "signals"},
    {"progress", "api", "commands", "ray_address", "run_folder", "train_plan", "tune_plan", "learn_plan", "page"},
    {"tasks.table", "tasks.task", "tasks.judging", "tasks.tuning", "tasks.learning"},
    {"ray_connection", "compiled", "devices"},
    {"ranks", "pool"},
    {"space"},
    {"track"},
    {"stub", "schemas"},
    {"score"},
    {"checker"},
    {"export.onnx_file"},
    {"data.images", "data.listing", "data.left_out"},
    {"latency"},
    {"search", "metrics"},
    {"data"},
    {"tasks.face.align", "tasks.face.detect", "tasks.face.look", "tasks.face.crops"},
    {"align"},
    {"embed"},
    {"clean"},
    {"mask"},
    {"tasks.identity"},
    {"tasks"},
    {"train"},
    {"trials"},
    {"learn"},
    {"run"},
    {"faces"},
    {"export", "evaluate"},
    {"gallery"},
    {"submit"},
    {"tune"},
]
# Commands of early rooms that use later ones: `score` says what latency a candidate has, `clean` trains between rounds.
# What `align`, `clean` and `mask` print names the command to type next. The package itself hands out rooms, and their
# error, when it is asked for them.
LOOKS_AHEAD = {
    *(
        "zennas/score/run.py",
        "zennas/clean/run.py",
        "zennas/clean/show.py",
        "zennas/mask/show.py",
        "zennas/align/show.py",
    ),
    "zennas/__init__.py",
}
PLACE = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}

# What goes into a WebFace submission runs on the challenge's server, where there is no zennas.
WEBFACE = "zennas/submit/webface"
# A third party is spoken to from here alone.
FENCES = {
    "ray": {
        "zennas/ray_connection.py",
        "zennas/search/workers.py",
        "zennas/train/launch.py",
        "zennas/trials/engine.py",
        "zennas/tune/trials.py",
    },
    "optuna": {"zennas/search/store.py", "zennas/search/storage.py", "zennas/search/islands.py"},
    "onnxruntime": {"zennas/export/onnx_file.py", f"{WEBFACE}/face_detection.py"},
    "cv2": {
        "zennas/align/parts.py",
        "zennas/align/quality.py",
        "zennas/align/report.py",
        "zennas/data/images.py",
        "zennas/data/stream.py",
        "zennas/tasks/face/align.py",
        "zennas/tasks/face/detect.py",
        "zennas/mask/landmarks.py",
        "zennas/mask/lighting.py",
        "zennas/mask/parts.py",
        "zennas/mask/paints.py",
        "zennas/mask/render.py",
        "zennas/mask/synthetic.py",
        "zennas/mask/textures.py",
        f"{WEBFACE}/pywebface260mmfr_implement.py",
        f"{WEBFACE}/timed_runs.py",
    },
    "faiss": {"zennas/clean/index.py", "zennas/embed/cells.py"},
    "h5py": {"zennas/data/cuhk03.py"},
    "sklearn": {"zennas/clean/centres.py", "zennas/learn/model.py"},
    "torch.utils.tensorboard": {"zennas/train/journal.py"},
    "torch.distributed": {"zennas/ranks.py"},
}
# Private parts of a third party, which its next version may change without a word: each from one file, whose docstring
# says why there is no public way.
PRIVATE = {
    "_private": "zennas/ray_connection.py",  # ray's
    "_dynamo": "zennas/compiled.py",  # torch's
    "_BatchNorm": "zennas/score/proxies.py",
    "_exit": "zennas/ranks.py zennas/pool.py zennas/signals.py",  # os._exit, which is documented
}
NAMED_TUPLES = {"_replace", "_asdict", "_fields"}  # documented, for all their underscore
MAX_LINES = 480
GRAB_BAGS = {"utils", "util", "common", "helpers", "helper", "misc"}


def room_of(path):
    """The room that a file of the package is, or lies in."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "zennas" if parts == ("__init__",) else place_of(parts) or parts[0]


def place_of(parts):
    """The entry of ROOMS that a dotted name in the package belongs to, or None."""
    return next((name for end in (3, 2, 1) if (name := ".".join(parts[:end])) in PLACE), None)


def imported(tree, path):
    """(module, line) of everything a file imports, inside functions too; `from a import b` counts as a.b."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((arg.value, node.lineno) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def order_violations(path, text):
    place = PLACE.get(room_of(path))
    if place is None:
        return [f"{path.name}: room '{room_of(path)}' has no place in the order"]
    found = []
    for module, line in imported(ast.parse(text), path):
        if module.split(".")[0] != "zennas":
            continue
        _, *parts = module.split(".")
        room = place_of(parts) or "zennas"
        if room != room_of(path) and PLACE[room] > place:
            found.append(f"line {line}: {room_of(path)} imports {module}, which comes later")
    return found


def fence_violations(name, text, path):
    tree = ast.parse(text)
    used = [*imported(tree, path)]
    used += [(ast.unparse(node), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [
        f"line {line}: {module}"
        for module, line in used
        for fence, inside in FENCES.items()
        if name not in inside and re.match(rf"{re.escape(fence)}(_\w+)?(\.|$)", module)
    ]


def test_there_is_a_house():
    assert len(FILES) > 20 and set(PLACE) >= {room_of(path) for path in FILES if path.name != "__main__.py"}


@each_file
def test_imports_point_backwards(path):
    if path.name == "__main__.py" or str(path.relative_to(ROOT)) in LOOKS_AHEAD:  # a command may speak to every room
        return
    assert order_violations(path, path.read_text()) == []


def crossings(path, text):
    """Imports of one task from another, or of any task from what they share."""
    room = path.relative_to(PACKAGE).parts[1]
    allowed = {"identity", room} if room != "identity" else {"identity"}
    return [
        f"line {line}: {room} imports {module}"
        for module, line in imported(ast.parse(text), path)
        if re.match(r"zennas\.tasks\.\w+\.", module)
        and (PACKAGE / "tasks" / module.split(".")[2]).is_dir()
        and module.split(".")[2] not in allowed
    ]


OF_TASKS = [path for path in FILES if path.parent.parent == PACKAGE / "tasks"]


@pytest.mark.parametrize("path", OF_TASKS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_task_imports_no_other_task(path):
    assert crossings(path, path.read_text()) == []


def test_an_import_of_another_task_is_seen():
    face, shared = (PACKAGE / "tasks" / room / "x.py" for room in ("face", "identity"))
    assert crossings(shared, "from zennas.tasks.face.pairs import open_pairs")
    assert crossings(PACKAGE / "tasks" / "other" / "x.py", "import zennas.tasks.face.pairs")
    for line in ("from zennas.tasks.identity.losses import LOSSES", "from zennas.tasks.task import Head"):
        assert not crossings(face, line) and not crossings(shared, line), line
    assert not crossings(face, "from zennas.tasks.face.pairs import open_pairs")


@each_file
def test_third_parties_stay_behind_their_fences(path):
    assert fence_violations(str(path.relative_to(ROOT)), path.read_text(), path) == []


def test_the_two_tests_above_see_what_they_should():
    space, track = PACKAGE / "space" / "space.py", PACKAGE / "track.py"
    for line in (
        "from zennas.track import Track",
        "import zennas.track",
        "from zennas import track",
        "from ..track import Track",
        "def f():\n    import zennas.search.loop",
        "importlib.import_module('zennas.latency')",
    ):
        assert order_violations(space, line), line
    for line in (
        "from zennas.records import Record",
        "from zennas.space.candidate import Candidate",
        "from .blocks import ir",
    ):
        assert not order_violations(space, line), line
    assert not order_violations(
        track, "from zennas.space.space import Space\nimport zennas\nfrom zennas import __version__"
    )
    assert order_violations(PACKAGE / "attic" / "x.py", "")
    for line in (
        "import ray",
        "from ray import tune",
        "import optuna.storages",
        "import optuna_dashboard",
        "from onnxruntime import InferenceSession",
        "import torch.distributed as dist",
        "from torch import distributed",
        "import torch\ntorch.distributed.init_process_group()",
        "importlib.import_module('ray.tune')",
    ):
        assert fence_violations("zennas/search/loop.py", line, PACKAGE / "search" / "loop.py"), line
    for line in ("import rayleigh", "import onnx", "from zennas.search import store", "array.ray", "import torch"):
        assert not fence_violations("zennas/search/loop.py", line, PACKAGE / "search" / "loop.py"), line


def private_names(text):
    """Names with an underscore before them that a file defines itself."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


OWN = {name for path in FILES for name in private_names(path.read_text())}


def private_violations(name, text):
    used = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in used
        if node.attr.startswith("_") and not node.attr.endswith("__")
        if node.attr not in OWN | NAMED_TUPLES and name not in PRIVATE.get(node.attr, "").split()
    ]


@each_file
def test_private_parts_of_others_are_spoken_to_from_one_place(path):
    assert private_violations(str(path.relative_to(ROOT)), path.read_text()) == []


def test_the_test_above_sees_what_it_should():
    for line in ("ray._private.worker", "study._study_id", "trial._trial_id", "self._brackets", "optuna.storages._rdb"):
        assert private_violations("zennas/search/loop.py", line), line
    for line in ("self._inbox", "row._replace(score=1)", "array.__class__", "_private"):
        assert not private_violations("zennas/search/loop.py", line), line


@pytest.mark.parametrize("part", PRIVATE)
def test_no_private_part_is_fenced_that_nobody_speaks_to(part):
    for name in PRIVATE[part].split():
        assert f".{part}" in (ROOT / name).read_text(), name


@pytest.mark.parametrize("fence", FENCES)
def test_no_fence_stands_round_nothing(fence):
    """A file that a fence names and that does not speak to that party any more is a fence in the wrong place."""
    for name in FENCES[fence]:
        modules = [module for module, _ in imported(ast.parse((ROOT / name).read_text()), ROOT / name)]
        assert any(re.match(rf"{fence}(_\w+)?(\.|$)", module) for module in modules), name


@each_file
def test_files_are_small_and_called_after_what_they_hold(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert path.stem not in GRAB_BAGS


# --- the map: each room's README.md lists the files of the room

# Sub-folders with a page of their own; every other file stands on the page of the folder above it that has one.
PAGES = sorted(PACKAGE.rglob("README.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def read_map(text):
    """Paths that a page lists: the first fenced block behind its heading "Files".

    One path per line, its first word; a line stands in the folder above it that is indented less.

    >>> read_map('''## Files
    ... ```
    ... space.py           a space
    ... families/
    ...     chain.py       one family
    ... assets/mesh.npz    a file in a folder
    ... ```''')
    ['space.py', 'families/', 'families/chain.py', 'assets/mesh.npz']
    """
    heading = re.search(r"^#+ Files\b.*$", text, re.MULTILINE)
    assert heading, "no heading 'Files'"
    block = re.search(r"^```\w*\n(.*?)^```", text[heading.end() :], re.DOTALL | re.MULTILINE)
    assert block, "no fenced block behind the heading 'Files'"
    paths, folders = [], []
    for line in filter(str.strip, block[1].splitlines()):
        indent, word = len(line) - len(line.lstrip()), line.split()[0]
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        path = (folders[-1][1] if folders else "") + word
        paths.append(path)
        if word.endswith("/"):
            folders.append((indent, path))
    return paths


def test_every_room_has_a_page():
    rooms = {path.relative_to(PACKAGE).parts[0] for path in FILES if len(path.relative_to(PACKAGE).parts) > 1}
    assert [room for room in sorted(rooms) if PACKAGE / room / "README.md" not in PAGES] == []
    assert PACKAGE / "README.md" in PAGES


@each_page
def test_every_file_of_a_page_exists(page):
    paths = read_map(page.read_text())
    assert [path for path in paths if not (page.parent / path).exists()] == []
    assert len(paths) == len(set(paths))


@each_page
def test_every_file_of_a_room_is_on_its_page(page):
    """A file that is new belongs into the list "Files" of the README.md beside it: one line, what it holds."""
    below = [other.parent for other in PAGES if other != page and other.is_relative_to(page.parent)]
    files = [path for path in FILES if path.is_relative_to(page.parent) and not path.name.endswith("__.py")]
    mine = [path for path in files if not any(path.is_relative_to(folder) for folder in below)]
    paths = read_map(page.read_text())
    assert [name for path in mine if (name := str(path.relative_to(page.parent))) not in paths] == []


# --- nothing of the place where it was made

# Folders of one machine, and what sends an installer elsewhere. Written in pieces, so that this file does not find
# itself.
MACHINE_FOLDERS = "|".join(("home", "root", "work", "workspace", "Users", "mnt", "__w", "tm" + "p/v"))
REGISTRIES = "|".join(("index" + "-url", "find" + "-links", "trusted" + "-host", r"https?://\S*(?:py" + "pi|simple/)"))
FOREIGN = re.compile(rf"(?<![\w.])/(?:{MACHINE_FOLDERS})/|{REGISTRIES}")


def tracked_files():
    """What git tracks; skips where there is no git or no checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def foreign_words(text):
    lines = enumerate(text.splitlines(), start=1)
    return [f"line {number}: {line.strip()[:120]}" for number, line in lines if FOREIGN.search(line)]


def test_no_file_speaks_of_the_place_where_it_was_made():
    found = {}
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if words := foreign_words(text):
            found[str(path.relative_to(ROOT))] = words[:3]
    assert found == {}


def test_the_search_above_sees_what_it_should():
    folder, mirror = "/ho" + "me/someone/zennas", "http" + "s://mirror.example/py" + "pi/simple"
    for line in (f"command: python {folder}", f'"{folder}"', "--index" + "-url x", mirror):
        assert foreign_words(line), line
    for line in ("zennas/work/x.py", "https://github.com/idstcv/ZenNAS", "a/home/b", "runs/webface-sfr", "$HOME/x"):
        assert not foreign_words(line), line


# --- rooms that know no task

# What trains, keeps, launches and reports a training whatever its network is for, what searches its recipe, and what
# every room stands on. Not here: tasks/table.py, which is the list of the tasks, and the rooms that serve one task so
# far (align, clean, mask, evaluate, submit). Data reads labelled images of anything; its labels it calls identities.
TASK_FREE = [
    *(path for room in ("train", "trials", "learn", "tune") for path in FILES if path.is_relative_to(PACKAGE / room)),
    *(PACKAGE / "tasks" / f"{name}.py" for name in ("__init__", "task", "judging", "tuning", "learning")),
    *(
        PACKAGE / f"{name}.py"
        for name in (
            "names",
            "records",
            "provenance",
            "progress",
            "page",
            "run_folder",
            "ray_address",
            "signals",
            "ray_connection",
            "pool",
            "ranks",
            "compiled",
            "devices",
            "train_plan",
            "tune_plan",
            "learn_plan",
        )
    ),
]
# Of a face, a person, an identity, an embedding. What is "for people" is for readers. `embedding_size` is how many
# numbers come out: a word of Space and of files.
# --embeddings-from is an option of `zennas tune` that users know by this name.
OF_A_TASK = re.compile(
    r"\bfaces?\b|(?<!for )\bpeople\b|\bpersons?\b|identit(?:y|ies)|embedding(?!_size|s[-_]from)|"
    r"tasks\.(?!(?:table|task|judging|tuning|learning)\b)\w+",
    re.IGNORECASE,
)
# The published options of `zennas train`, `zennas learn` and `zennas tune`, and the requests that they make: their
# words are those of the first task.
OPTIONS_OF_USERS = {
    f"zennas/{room}/{name}.py" for room in ("train", "learn", "tune") for name in ("options", "request")
}


def task_words(text):
    return [f"line {n}: {line.strip()}" for n, line in enumerate(text.splitlines(), start=1) if OF_A_TASK.search(line)]


@pytest.mark.parametrize("path", TASK_FREE, ids=[str(path.relative_to(PACKAGE)) for path in TASK_FREE])
def test_what_serves_every_task_names_none(path):
    if str(path.relative_to(ROOT)) in OPTIONS_OF_USERS:
        return
    assert task_words(path.read_text()) == []


OF_ANYTHING = sorted([*(PACKAGE / "data").glob("*.py"), *(PACKAGE / "tasks" / "identity").glob("*.py")])


@pytest.mark.parametrize("path", OF_ANYTHING, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_images_are_of_anything(path):
    """The folder of kept indices is called after the first of them."""
    found = [line for line in path.read_text().splitlines() if re.search(r"\bfaces?\b", line, re.IGNORECASE)]
    assert [line for line in found if "zennas" not in line] == []


def test_words_of_a_task_are_seen():
    of_a_task = ("a face", "# Faces", "1 people", "num_identities", "embedding_BD", "from zennas.tasks.face import x")
    for line in of_a_task:
        assert task_words(line), line
    of_none = ("an interface", "title  # for people", "space.embedding_size", "zennas.tasks.table", "tasks.task.Head")
    for line in of_none:
        assert not task_words(line), line
    for line in ("embeddings", "the embedding from", "tasks.tunings"):
        assert task_words(line), line
    for line in ("request.embeddings_from", "--embeddings-from M", "from zennas.tasks.tuning import Tuning"):
        assert not task_words(line), line


def test_a_search_names_no_knob_of_a_task():
    knobs = {name for row in TASKS for item in tune_plan_of(row).FACTORS.items() for name in (item[0], *item[1])}
    words = re.compile(rf"\b(?:{'|'.join(map(re.escape, knobs))}|tpr|labels?|people)\b", re.IGNORECASE)
    lines = {
        f"{path.name}: {line.strip()}"
        for path in (PACKAGE / "tune").glob("*.py")
        if path.name != "options.py"
        for line in path.read_text().splitlines()
        if words.search(line)
    }
    assert lines == set() and "margin" in knobs
