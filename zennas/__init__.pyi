"""The functions of the Python API, one for each command. Made by python -m zennas.schemas --write."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from zennas.align.run import Aligned
from zennas.clean.run import Cleaned, LookPage
from zennas.evaluate.results import Evaluation
from zennas.export.run import Exported
from zennas.gallery.outcome import Outcome
from zennas.latency.comparison import Comparison
from zennas.latency.run import Measured, OneTable, Predicted, Tables
from zennas.learn.outcome import Learned
from zennas.mask.run import Masked, WrittenLayout
from zennas.progress import Progress
from zennas.run.run import Trained
from zennas.score.run import Scores
from zennas.search.stages import Settled
from zennas.submit.run import Submitted
from zennas.train.run import TrainedNetwork
from zennas.tune.run import Tuned
from zennas.records import UserError as UserError

__version__: str
COMMANDS: dict[str, str]

def search(
    *,
    track: str = "webface-sfr",
    out: str | PathLike[str] | None = None,
    minutes: float | None = None,
    candidates: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    budget_ms: float | None = None,
    backend: str | None = None,
    images: str | PathLike[str] | None = None,
    batch: int | None = None,
    detector: str | PathLike[str] | None = None,
    space: str | None = None,
    max_mb: float | None = None,
    max_gmacs: float | None = None,
    also: Mapping[str, float] = {},
    score: str | None = None,
    evidence: bool = False,
    storage: str | None = None,
    table: str | None = None,
    islands: int = 1,
    address: str | None = None,
    device: str | None = None,
    then_train: str | PathLike[str] | None = None,
    learn_from: str | PathLike[str] | None = None,
    teacher: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Settled:
    """Find the best backbones of a space within a track's latency budget, without training any.

    Finds the device, carries the track's budget over to it, searches, measures the best candidates whole, and writes
    winners (YAML, ONNX), winners.json, report.html and the Optuna study to --out. Ctrl-C ends it cleanly; the same
    command with the same --out goes on where it stopped.

    track: Experiment: a name under experiments/, or a path.
    out: Folder of the run. [default: runs/TRACK]
    minutes: Wall time of the whole run. [allowed: more than 0] [default: the experiment's, 5]
    candidates: Stop after so many scored candidates instead of by time (up to 45 % more where finalists correct the
        table). [allowed: 1 or more]
    seed: Seed of proposals and scores. [allowed: 0 to 2147483647] [default: the experiment's, 0]
    workers: Scorers. [allowed: 1 to 4096] [default: one per processor core]
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    images: Time networks on this image, or on those of this folder, as networks see them (faces: aligned): a latency
        depends on what is seen. [default: the track's input]
    batch: Images at once while a network is timed; --budget-ms and all milliseconds are then those of so many.
        [allowed: 1 to 4096] [default: the track's]
    detector: Detector ONNX, measured in place of the track's reserve.
    space: Search space: a name or path. [default: the experiment's]
    max_mb: Most megabytes (2^20) of the file. [allowed: more than 0] [default: the track's]
    max_gmacs: Most billions of multiply-accumulates. [allowed: more than 0]
    also: Keep a second device's budget too: its latency table (see zennas latency --show) and milliseconds there, as
        that table predicts them; measured there where a node of the cluster is tagged latency_device:TABLE. Repeatable.
    score: Objective: a row of SCORES, or learned:OUT, what zennas learn left in OUT. [default: the experiment's, zen]
    evidence: Ask other scores about winners and baselines, for the report; without it none is asked.
    storage: Where the study is kept: postgresql://USER@HOST/DATABASE, grpc://HOST:PORT, journal:FILE, or @FILE that
        holds the URL. No passwords here: they go into @FILE or $ZENNAS_STORAGE. [default: sqlite:///OUT/study.db]
    table: Where the scored candidates go: a folder or a URL of fsspec. [default: OUT/scored.parquet]
    islands: How many drivers share the study: give the same command so many times, anywhere. [allowed: 1 to 1024]
    address: Address of a Ray cluster ('auto' inside one). [default: a private local Ray]
    device: Measure on nodes of the cluster tagged latency_device:NAME. [default: those tagged latency_device]
    then_train: Then train the best winner on these faces, into OUT-trained: zennas run with its options. [default:
        search alone]
    learn_from: First learn from a few trainings on these faces which networks are the better ones, search by that,
        train all winners, crown the one that measures best: zennas run --learn with its options. [default: Zen-Score,
        nothing trained]
    teacher: Teacher of the trainings of --learn-from and --then-train: FILE[,normalise=...][,px=...]. [default: none]
    resume: Go on with a run; an error where there is none.
    fresh: Move a run that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def align(
    *,
    data: str | PathLike[str],
    out: str | PathLike[str],
    format: Literal["folder", "tar", "recordio"] | None = None,
    size: str = "112",
    detector: str | PathLike[str] | None = None,
    all: bool = False,
    landmarks: str | PathLike[str] | None = None,
    identity_of: str | PathLike[str] | None = None,
    only_accepted: bool = False,
    complete: bool = False,
    workers: int | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Aligned:
    """Find the faces of photographs and align them: eyes, nose and mouth are moved to ArcFace's template, as every
    other command of zennas takes faces.

    The largest and most central face of each photograph counts. Images may be of any size and kind that OpenCV reads;
    EXIF's rotation is heeded. Every face is accepted, doubtful (and why) or refused: no face, no image. Doubtful ones
    are written, too, unless --only-accepted leaves them out. A name keeps its path, with the suffix .jpg, so that lists
    of pairs find their images in --out. Ctrl-C and kill -9 lose no more than the parts under way: give the same command
    again.

    Under --out: the faces as --format says; faces.parquet (of every face its box, landmarks, score, pose, sharpness,
    verdict and reason), passed-over.csv (those not accepted), report.html, run.json, align.log.

    data: Photographs: a folder, with a sub-folder for each identity or without; a .tar or a folder of .tar shards; a
        folder with train.rec.
    out: Folder of the aligned faces.
    format: folder: files with the names of the photographs; tar: the same in shards; recordio: train.rec, for large
        trainings, without names. [default: folder; recordio where --data is]
    size: Side of the aligned faces, or HEIGHTxWIDTH.
    detector: Another detector: a YuNet in ONNX, as in OpenCV's zoo. [default: the YuNet that ships]
    all: Every face of a photograph; the further ones are called NAME-2.jpg, ...
    landmarks: Landmarks that are known: lines of a name and ten numbers, x and y of the left eye (as seen), the right
        eye, the nose, the left and right corner of the mouth, as CelebA has them. A photograph without a line is looked
        at.
    identity_of: Lines of a name and its identity, as CelebA has them, in place of the folders. Photographs without a
        line are refused.
    only_accepted: Leave out doubtful faces.
    complete: An image for every photograph: where no face is found, its middle stands in. For lists of pairs, which
        name all of a set.
    workers: Processes. [allowed: 1 to 4096] [default: one per processor core]
    resume: Go on with an alignment; an error where there is none.
    fresh: Move an alignment that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def clean(
    *,
    data: str | PathLike[str],
    faces: Literal["auto", "aligned", "detect"] = "auto",
    embeddings_from: str | None = None,
    embeddings: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    rounds: int = 1,
    start: Literal["raw", "previous"] = "raw",
    track: str | None = None,
    winner: str | PathLike[str] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    order: Literal["inter-intra", "intra-inter"] | None = None,
    tau_merge: str | float | None = None,
    tau_duplicate: str | float | None = None,
    tau_other: str | float | None = None,
    tau_intra: str | float | None = None,
    dbscan_eps: float | None = None,
    dbscan_min_samples: int | None = None,
    min_images: int | None = None,
    move: bool = False,
    take_back: Sequence[str] = (),
    look: str | None = None,
    workers: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    address: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Cleaned | LookPage:
    """Clean identities: find those that are one person, images that are of somebody else,
    pictures that stand in two of them.

    It takes aligned crops (--faces says more), and people seen by cameras, as Market-1501's.
    A network embeds all images; the centre of an identity is that of its largest cluster (DBSCAN). Identities whose
    centres are alike are merged; then images nearer to another identity's centre and duplicates over identities are
    left out, then, by fresh centres, images far from their own. With --rounds N a network is trained on what is left,
    by the recipe of --track, and cleans again.

    Nothing is deleted: OUT/decisions.parquet says of every image what was decided and why, OUT/labels.npz is the new
    list for `zennas train --labels`, --look shows an identity and --take-back undoes a decision. Ctrl-C and kill -9
    lose no more than the parts under way: give the same command again.

    data: Aligned faces, or whole people for a track of re-identification: a folder with train.rec, a .tar, a folder of
        .tar shards, or a folder of folders, one per identity; Market-1501, CUHK03, MSMT17 as published; a table.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    embeddings_from: Network that embeds, as zennas evaluate takes it: FILE[,normalise=...][,px=...].
    embeddings: An .npy of a row for each image, in the order of the data, instead of a network.
    out: Folder of the run. [default: runs/DATA-clean]
    rounds: Rounds; between two of them a network is trained. [allowed: 1 or more]
    start: Of the rounds after the first: raw (all images are judged anew), or previous (what is left).
    track: Experiment whose recipe trains between rounds. [default: webface-sfr]
    winner: Candidate (YAML) to train. [default: runs/TRACK/winner-1.yaml]
    set: KEY=VALUE of the recipe; may be repeated.
    order: inter-intra (merge, between identities, within them) or intra-inter (CAST's). [default: inter-intra]
    tau_merge: Cosine, or none to leave the step out. Identities whose centres are more alike are one person. [default:
        0.7]
    tau_duplicate: Cosine, or none to leave the step out. Images of two identities that are more alike are one.
        [default: 0.95]
    tau_other: Cosine, or none to leave the step out. Images nearer to another identity's centre, and at least so near,
        are of it. [default: 0.5]
    tau_intra: Cosine, or none to leave the step out. Images with at most this cosine to their centre show somebody
        else. [default: 0.25]
    dbscan_eps: Cosine distance within which images are neighbours. [default: 0.6]
    dbscan_min_samples: Neighbours that make the core of a cluster. [default: 2]
    min_images: Identities with fewer images left are left out. [default: 1]
    move: Give images to the identity they are nearer to, instead of leaving them out.
    take_back: Undo a decision: image:NAME (or its number) stays, identity:NAME is nobody else; may be repeated.
    look: Write OUT/look-NAME.html: all images of an identity, and what was decided.
    workers: Processes. [allowed: 1 to 4096] [default: one per core from 200,000 images on, else this one alone]
    device: Of the network: cpu or cuda. [default: cuda where there is a GPU]
    address: Address of a Ray cluster ('auto' inside one). [default: a private local Ray]
    resume: Go on with a cleaning; an error where there is none.
    fresh: Move a cleaning that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def mask(
    *,
    data: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    ratio: float = 0.15,
    kinds: Sequence[str] | None = None,
    textures: str | PathLike[str] | None = None,
    seed: int = 0,
    only_masked: bool = False,
    faces: Literal["auto", "aligned", "detect"] = "auto",
    knob: Mapping[str, float] = {},
    identities: str | PathLike[str] | None = None,
    workers: int | None = None,
    layout: str | PathLike[str] | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Masked | WrittenLayout:
    """Render masks onto faces: a 3-D face is fitted to the landmarks, the mask is draped over it, lit as the skin is
    lit, and written into a training set that `zennas train --data OUT` reads.

    It takes aligned crops (--faces says more).
    Masked images are encoded anew, all others are written byte for byte, in the order and with the identities of the
    data. An image in which no face can be fitted is written as it is (not with --only-masked) and listed; a damaged
    record, which has no image to hand on, is left out and listed. The same seed gives the same images, with any number
    of workers. Kinds: surgical_blue, surgical_green, surgical_white, cloth_plain, cloth_patterned, n95, kn95, black.
    For templates of your own, --layout FILE draws what to paint on. Ctrl-C and kill -9 lose no more than the parts
    under way: give the same command again.

    Under --out: train.rec, train.idx, property; identities.txt (names, where the data has some), masks.parquet (what
    was done with every image), passed-over.csv, report.html, run.json, mask.log.

    data: Aligned faces: a folder with train.rec, a .tar, a folder of .tar shards, or a folder of folders, one per
        identity. [required but for --layout]
    out: Folder of the masked set. [required but for --layout]
    ratio: Share of the images that are masked. [allowed: 0 to 1]
    kinds: Kinds of mask: with commas between, or repeated. [default: all eight; none with --textures]
    textures: Folder of RGBA templates of your own, in the layout of --layout.
    seed: Seed of who is masked, with what and how. [allowed: 0 to 2147483647]
    only_masked: Write the masked images alone.
    faces: Where faces stand: aligned (crops on ArcFace's template), detect (photographs, masked as they are), auto
        (aligned; a sample is looked at first, and photographs are refused. A single image whose face stands elsewhere
        is looked at as a photograph).
    knob: How far masks vary: angle_deg (4), size (0.05), height (0.015), blur_px (0.3), exposure (0.12); repeatable.
    identities: Text file of identities, one a line: these alone.
    workers: Processes. [allowed: 1 to 4096] [default: one per processor core]
    layout: Write the layout on which templates are painted, a square picture of the unrolled face, and end.
    resume: Go on with a masking; an error where there is none.
    fresh: Move a masking that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def train(
    *,
    data: str | PathLike[str],
    faces: Literal["auto", "aligned", "detect"] = "auto",
    track: str = "webface-sfr",
    winner: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    teacher: str | None = None,
    from_: str | PathLike[str] | None = None,
    verify: Sequence[str] = (),
    identities: str | PathLike[str] | None = None,
    labels: str | PathLike[str] | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    space: str | None = None,
    any_size: bool = False,
    budget_ms: float | None = None,
    backend: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    ray: int | None = None,
    address: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> TrainedNetwork:
    """Train a winner of a search: margin loss over sampled class centres, distillation from a teacher; then export it
    to ONNX and measure its latency again by the track's rule, with the trained weights.

    Where the task is faces, --data are aligned crops (--faces says more).
    The recipe is the `train:` part of the track's experiment; --set changes a value of it. Ctrl-C ends it with a
    checkpoint; the same command with the same --out goes on, also on another number of ranks. Start several ranks with
    torchrun (torchrun --nproc-per-node 8 -m zennas.train ...) or on Ray with --ray 8.

    data: Aligned faces, or whole people for a track of re-identification: a folder with train.rec, a .tar, a folder of
        .tar shards, or a folder of folders, one per identity; Market-1501, CUHK03, MSMT17 as published; a table.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    track: Experiment: a name under experiments/, or a path.
    winner: Candidate (YAML). [default: runs/TRACK/winner-1.yaml]
    out: Folder of the run. [default: runs/TRACK-trained]
    teacher: Teacher: a folder that zennas train wrote, weights of another project (backbone.pth), an ONNX file, a .pt2;
        FILE[,normalise=...][,px=...], as zennas evaluate takes it. [default: none]
    from_: What to begin from: a checkpoint (a folder step-N of another run), at its step; or a network, at step 0:
        network.pt, the folder of one, weights of another project (backbone.pth). Without --winner its candidate is
        trained.
    verify: SET.bin or PAIRS@SOURCE to verify on now and then; may be repeated.
    identities: Text file of identities, one a line: train on these alone.
    labels: Labels (.npz, as zennas tune writes): who every image counts as, or that it is left out.
    epochs: The same as --set epochs=N. [allowed: more than 0 and at most 1000000]
    steps: Instead of epochs; the same as --set steps=N. [allowed: 1 to 2147483647]
    batch: Images a step, over all ranks; the same as --set batch=N. [allowed: 1 to 2147483647]
    seed: The same as --set seed=N. [allowed: 0 to 2147483647]
    set: KEY=VALUE of the recipe, such as optimizer.lr=0.05 or loss.name=arcface; may be repeated.
    space: Search space: image and embedding size. [default: the experiment's]
    any_size: The network need not keep the track's budget: a teacher.
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    device: cpu or cuda. [default: cuda where there is a GPU]
    ray: Start so many ranks on Ray. [allowed: 1 or more]
    address: Address of a Ray cluster, with --ray ('auto' inside one). [default: a private local Ray]
    resume: Go on with a training; an error where there is none.
    fresh: Move a training that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def learn(
    *,
    data: str | PathLike[str],
    faces: Literal["auto", "aligned", "detect"] = "auto",
    track: str = "webface-sfr",
    out: str | PathLike[str] | None = None,
    teacher: str | None = None,
    trainings: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    held_out: str | PathLike[str] | None = None,
    test: str | PathLike[str] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    space: str | None = None,
    budget_ms: float | None = None,
    backend: str | None = None,
    images: str | PathLike[str] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    address: str | None = None,
    latency_device: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Learned:
    """Learn from a few short trainings which networks of a space are the better ones on your own data.

    Measures candidates of equal latency at the track's budget, trains some of them by a short run of the experiment's
    recipe, judges each on people whom nobody was trained on, and fits what each width and depth is worth. Then
    `zennas search --score learned:OUT` finds the best network that this predicts within the budget. Where the task is
    faces, --data are aligned crops (--faces says more). Ctrl-C ends it; the same command with the same --out goes on,
    and no finished training is run again.

    data: Aligned faces, or whole people for a track of re-identification: a folder with train.rec, a .tar, a folder of
        .tar shards, or a folder of folders, one per identity; Market-1501, CUHK03, MSMT17 as published; a table.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    track: Experiment: a name under experiments/, or a path.
    out: Folder of the run. [default: runs/TRACK-learned]
    teacher: Teacher of every training, as zennas train takes it: FILE[,normalise=...][,px=...]. Give the one that the
        winner will be trained with. [default: none]
    trainings: Candidates to train. [allowed: 4 to 512] [default: the experiment's learn.trainings, 16]
    epochs: Epochs of a short training. [allowed: 1 or more] [default: the experiment's learn.epochs]
    seed: Seed of all draws and trainings. [allowed: 0 to 2147483646] [default: the experiment's, 0]
    held_out: Text file of identities, one a line, that trainings are judged on. [default: drawn: learn.held_out_share]
    test: Identities that nothing is chosen by; `zennas run` crowns its winner on them. [default: drawn:
        learn.test_share]
    set: KEY=VALUE of the recipe of all trainings; may be repeated.
    space: Search space: a name or path. [default: the experiment's]
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    images: Time networks on this image, or on those of this folder, as networks see them (faces: aligned): a latency
        depends on what is seen. [default: the track's input]
    workers: Trainings at once. [allowed: 1 to 4096] [default: one per processor core]
    threads: Threads of a training. [allowed: 1 to 4096] [default: the cores shared out; 1 with --address]
    device: Of the trainings: cpu or cuda. [default: cuda where there is a GPU]
    address: Address of a Ray cluster ('auto' inside one). [default: a private local Ray]
    latency_device: Measure latency on nodes of the cluster tagged latency_device:NAME. [default: those tagged
        latency_device]
    resume: Go on with a run; an error where there is none.
    fresh: Move a run that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def tune(
    *,
    data: str | PathLike[str],
    faces: Literal["auto", "aligned", "detect"] = "auto",
    track: str = "webface-sfr",
    winner: str | PathLike[str] | None = None,
    embeddings_from: str | None = None,
    out: str | PathLike[str] | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    only: Sequence[str] = (),
    held_out: str | PathLike[str] | None = None,
    test: str | PathLike[str] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    space: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    address: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Search the recipe: thresholds that clean the data, the unified margin loss, depth against width of the backbone.

    Where the task is faces, --data are aligned crops (--faces says more).
    Every trial is a short run of `zennas train`, judged after every epoch on people it does not train on; Optuna
    proposes, and poor trials are stopped early. The first trial is the recipe as it stands. What may vary is the
    `tune:` part of the track's experiment. Ctrl-C ends it; the same command with the same --out goes on, and no
    finished trial is run again.

    data: Aligned faces, or whole people for a track of re-identification: a folder with train.rec, a .tar, a folder of
        .tar shards, or a folder of folders, one per identity; Market-1501, CUHK03, MSMT17 as published; a table.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    track: Experiment: a name under experiments/, or a path.
    winner: Candidate (YAML) whose depth and width are searched. [default: runs/TRACK/winner-1.yaml]
    embeddings_from: Network whose embeddings clean the data, as zennas evaluate takes it:
        FILE[,normalise=...][,px=...].
    out: Folder of the run. [default: runs/TRACK-tuned]
    trials: Trials, the recipe among them. [allowed: 1 to 2147483647] [default: the experiment's]
    epochs: Epochs of a trial. [allowed: 1 to 2147483647] [default: the experiment's]
    seed: Seed of proposals and trials. [allowed: 0 to 2147483647] [default: the experiment's]
    only: Search this alone: backbone, or another part of the experiment's tune: (a wrong name lists them); may be
        repeated. [default: all of the experiment's]
    held_out: Text file of identities, one a line, that the reward is taken on. [default: drawn: tune.held_out_share]
    test: Identities that are asked when the search is over. [default: another share, drawn]
    set: KEY=VALUE of the recipe all trials begin from; may be repeated.
    space: Search space of the backbone. [default: the experiment's]
    workers: Trials at once. [allowed: 1 to 4096] [default: one per processor core]
    threads: Threads of a trial. [allowed: 1 to 4096] [default: the cores shared out; 1 with --address]
    device: cpu or cuda. [default: cuda where there is a GPU]
    address: Address of a Ray cluster ('auto' inside one). [default: a private local Ray]
    resume: Go on with a search; an error where there is none.
    fresh: Move a search that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def run(
    *,
    experiment: str,
    data: str | PathLike[str],
    faces: Literal["auto", "aligned", "detect"] = "auto",
    out: str | PathLike[str] | None = None,
    minutes: float | None = None,
    candidates: int | None = None,
    teacher: str | None = None,
    verify: Sequence[str] = (),
    learn: bool = False,
    trainings: int | None = None,
    held_out: str | PathLike[str] | None = None,
    test: str | PathLike[str] | None = None,
    identities: str | PathLike[str] | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    budget_ms: float | None = None,
    backend: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    ray: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Search, then train the best winner: from a track's name to a trained ONNX file, measured again by the track's
    rule. With --learn the whole way: learn from a few trainings, search by that, train the winners, crown the best.

    Every stage is skipped where it is done, and goes on where it stopped: give the same command again. The search lies
    in OUT, the training in OUT-trained. `zennas search` and `zennas train` do the same in two steps, with all their
    options.

    experiment: A name under experiments/, or a path.
    data: Aligned faces, or whole people for a track of re-identification: a folder with train.rec, a .tar, a folder of
        .tar shards, or a folder of folders, one per identity; Market-1501, CUHK03, MSMT17 as published; a table.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    out: Folder of the search. [default: runs/EXPERIMENT]
    minutes: Of the search. [default: the experiment's]
    candidates: Stop the search after so many scored candidates.
    teacher: Teacher of the training, as zennas train takes it: FILE[,normalise=...][,px=...]. [default: none]
    verify: SET.bin or PAIRS@SOURCE; may be repeated.
    learn: First learn from a few trainings on --data which networks are the better ones (zennas learn), search by that,
        train all winners by the full recipe and crown the one that measures best.
    trainings: With --learn: candidates to train. [allowed: 4 to 512] [default: the experiment's learn.trainings]
    held_out: With --learn: text file of identities that the trainings are judged on. [default: drawn:
        learn.held_out_share]
    test: With --learn: identities by whom the winner is crowned. [default: another share, drawn]
    identities: Text file of identities to train on.
    set: KEY=VALUE of the training recipe; may be repeated.
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    device: Of the training: cpu or cuda. [default: cuda where there is a GPU]
    ray: Train with so many ranks on Ray. [allowed: 1 or more]
    address: Address of a Ray cluster. [default: private local Rays]
    progress: told how far it is; without one nothing is printed.
    """

def export(
    *,
    model: str | PathLike[str],
    track: str = "webface-sfr",
    out: str | PathLike[str] | None = None,
    colour: Literal["rgb", "bgr"] = "rgb",
    latency: bool = True,
    budget_ms: float | None = None,
    backend: str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Take over a trained network: weights of another project (backbone.pth of insightface's arcface_torch, IR and
    IR-SE of face.evoLVe and TFace) or a zennas checkpoint. The candidate is read from the weights. Then write what the
    other commands take, and measure the network by the track's rule, beside its budget.

    Under --out:
    candidate.yaml   for zennas score, latency, train --winner
    network.pt       for zennas train --from, evaluate --model, train --teacher
    model.onnx       for zennas submit, latency; proved to answer as PyTorch does
    export.json      all that is known of it

    model: Weights of another project (backbone.pth), a zennas checkpoint, or the folder of one.
    track: Experiment: a name under experiments/, or a path.
    out: Folder to write to. [default: runs/NAME-exported]
    colour: Order of the colours that the network was trained on; bgr is turned round: what is written takes RGB.
    latency: Measure its latency by the track's rule.
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    fresh: Move an export of another network that is there aside and begin anew.
    progress: told how far it is; without one nothing is printed.
    """

def evaluate(
    *,
    model: Sequence[str],
    set: Sequence[str],
    faces: Literal["auto", "aligned", "detect"] = "auto",
    out: str | PathLike[str] = "runs/evaluation",
    track: str | None = None,
    budget_ms: float | None = None,
    backend: str | None = None,
    pictures: bool = False,
    flip: bool | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """How good a network is, by the protocol that each set is known for; several networks side by side.

    A model is a zennas checkpoint (network.pt or its folder), weights of another project (backbone.pth of insightface's
    arcface_torch, IR and IR-SE of face.evoLVe and TFace), an ONNX file, a torch.export program or TorchScript:
    FILE[,name=NAME][,normalise=insightface|imagenet|unit|none|MEAN/STD|M/M/M:S/S/S][,colour=rgb|bgr][,px=SIDE|HEIGHTxWIDTH][,trusted=yes]
    The last two kinds can run code of their authors: say trusted=yes for your own.

    A set is [PROTOCOL:]WHERE:

      SET.bin                         InsightFace's pairs (lfw.bin): ten folds, the flipped image added
      PAIRS@IMAGES                    the same for LFW's pairs.txt, a CSV of two paths and 1 or 0, CFP's Protocol
      ijb:FOLDER                      IJB-B, IJB-C by templates: TAR at FAR 1e-6 to 1e-1
      mfr:LIST.csv@IMAGES             the InsightFace tracks' MFR: masks, children, races, all; their ranking
      webface:LIST.csv@IMAGES         the WebFace260M tracks: FNMR at FMR 1e-5, masked and standard
      reid:LIST.csv@IMAGES            re-identification: mAP, mINP, CMC, re-ranked and expanded too
      reid:FOLDER                     the same of Market-1501, CUHK03, MSMT17, or query/ and gallery/
      identification:LIST.csv@IMAGES  1:N: rank-k, TPIR at FPIR
      all:LIST.csv@IMAGES or all:FACES  TAR at FAR over all pairs, exact

    Faces are aligned crops (--faces says more); ijb:FOLDER brings its landmarks, reid is of whole persons.

    A LIST is a table with a header: image, label, and what the protocol needs (an error names it). Embeddings are kept
    in $ZENNAS_CACHE/embeddings (or ~/.cache/zennas): the same model on the same set is not asked again, and an
    interrupted evaluation goes on where it was.

    Under --out: report.html, results.csv, results.json.

    model: A network; may be repeated. See above.
    set: A set; may be repeated. See above.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    out: Folder for the results; an earlier evaluation there is written over.
    track: Measure each model's latency too, by this track's rule, against its budget.
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    pictures: Show people: the ranked lists of a reid set's hardest queries, as pictures on the page.
    flip: Add the flipped image's embedding. [default: as the protocol has it]
    device: cpu or cuda. [default: cuda where there is a GPU]
    progress: told how far it is; without one nothing is printed.
    """

def gallery(
    *,
    folder: str | PathLike[str],
    enrol: Sequence[str] = (),
    query: Sequence[str | PathLike[str]] | PathLike[str] | str = (),
    model: str | None = None,
    holds: Literal["faces", "people"] | None = None,
    flip: bool = False,
    faces: Literal["auto", "aligned", "detect"] = "auto",
    top: int = 10,
    at_least: float | None = None,
    not_camera: str | None = None,
    identities: bool = False,
    exact: bool = False,
    together: bool = False,
    page: str | PathLike[str] | None = None,
    pictures: bool = False,
    delete: Sequence[str] = (),
    rebuild: bool = False,
    look: str | None = None,
    table: str | PathLike[str] | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Enrol people or faces into an index, and find them again by a picture: a ranked list.

    A network embeds each picture once. FOLDER keeps the embeddings, with the name and the identity of each, and an
    index of them; pictures stay where they are. One call may do several things, in this order: --delete, --enrol,
    --rebuild, --query, --look, --table. Without any it tells what the gallery holds.

    --enrol takes
      a folder of folders, one per identity; a .tar; a folder with train.rec
      a folder of pictures: each is an identity of its own, called as its file is, without suffix
      a set of people seen by cameras, as --data takes it (Market-1501, CUHK03, MSMT17, query/ and gallery/): its
      gallery, or the part whose folder is named
      LIST@IMAGES: a table with the columns image and label, perhaps camera and role, and where the images lie

    What is there already is not embedded again: the same command goes on where it was stopped. What was said to be
    enrolled is there after a kill -9. One process changes a gallery at a time; others may query it meanwhile.

    A gallery belongs to the network that made it: queries by another one are refused. It holds faces, which are
    looked at first (--faces), or people, whose pictures are taken as they are (--holds).

    folder: The folder of the gallery; --enrol makes it.
    enrol: Pictures to add, as above; may be repeated.
    query: A picture to look for, a folder of them, or a set of people: its queries; may be repeated.
    model: Network that embeds, as zennas evaluate takes it: FILE[,normalise=...][,px=...]. [default: the gallery's]
    holds: What a new gallery holds. [default: people where the network's images are taller than wide, else faces]
    flip: Of a new gallery: add the mirrored image's embedding, here and for queries. Twice the time.
    faces: What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs;
        each face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are
        refused).
    top: Length of a ranked list. [allowed: 1 to 10000]
    at_least: Cosine below which nothing is listed. [allowed: -1 to 1] [default: all are listed]
    not_camera: List no picture that this camera took; own: the one that took the query, by its name or the set's table.
        [default: those of all cameras are listed]
    identities: Rank identities, each by the picture of it that is most alike.
    exact: Compare all pictures of a large gallery, too: nothing is missed, and it takes longer.
    together: All pictures of --query are of one person: one list, by their mean.
    page: Write the ranked lists as a page (HTML). [default: no page]
    pictures: Show pictures on the page of --page; without, it has names alone.
    delete: image:NAME or identity:NAME to delete, wiped from the disk; may be repeated.
    rebuild: Make the index again, of the embeddings that lie beside it.
    look: Tell what is known of image:NAME or identity:NAME. [default: nothing]
    table: Write a table of all pictures (CSV): image, label, camera, source. [default: no table]
    device: cpu or cuda. [default: cuda where there is a GPU]
    progress: told how far it is; without one nothing is printed.
    """

def score(
    *,
    files: Sequence[str] = (),
    baselines: bool = False,
    score: Sequence[str] = ("zen",),
    track: str = "webface-sfr",
    budget_ms: float | None = None,
    backend: str | None = None,
    images: str | PathLike[str] | None = None,
    batch: int | None = None,
    measure: bool = False,
    latency: bool = True,
    repeats: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Score candidates: Zen-Score (or others), parameters, MACs, blocks, predicted and measured latency against a
    budget. The prediction is the table's own sum; a search corrects it by what it measures whole.

    Candidates are YAML (one, or a list) or JSON lines, such as {block: ir_se, stem: 64, widths: [64, 128, 256, 512],
    depths: [3, 13, 30, 3]}, from files or standard input ('-').

    files: Files of candidates; '-' is standard input.
    baselines: The hand-made networks of the track's space.
    score: Scores: with commas between, or repeated.
    track: Track (experiment) whose budget, rule and space apply.
    budget_ms: Budget in milliseconds of this machine, unscaled. [allowed: more than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    images: Time networks on this image, or on those of this folder, as networks see them (faces: aligned): a latency
        depends on what is seen. [default: the track's input]
    batch: Images at once while a network is timed; --budget-ms and all milliseconds are then those of so many.
        [allowed: 1 to 4096] [default: the track's]
    measure: Measure each candidate whole, from its exported ONNX file.
    latency: Predict latency (fills this machine's table once).
    repeats: Scores averaged per candidate. [allowed: 1 or more]
    seed: Seed of the random inputs and weights. [allowed: 0 or more]
    progress: told how far it is; without one nothing is printed.
    """

def latency(
    *,
    what: Sequence[str] = (),
    track: str = "webface-sfr",
    space: str | None = None,
    backend: str | None = None,
    images: str | PathLike[str] | None = None,
    batch: int | None = None,
    table: bool = False,
    show: bool = False,
    compare: bool = False,
    import_: bool = False,
    predicted: bool = False,
    machine: str | None = None,
    measure: int | None = None,
    out: str | PathLike[str] | None = None,
    folder: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Measured | Tables | OneTable | Comparison | Predicted:
    """Measure ONNX files or candidates by a track's own rule on this machine, and look after tables of block
    latencies.

    zennas latency                      the track's reference network, measured again and kept
    zennas latency FILE...              ONNX files (*.onnx), files of candidates (YAML, JSON lines)
    zennas latency --table              fill this machine's table for the track's space
    zennas latency --show               the tables known here: this machine's, shipped, imported
    zennas latency --show TABLE         what is in one, stage by stage
    zennas latency --compare ONE OTHER  how well one device stands in for another
    zennas latency --import FILE.csv    bring a table here that another machine filled
    zennas latency --predicted          the table's predictions against whole networks, as a page

    TABLE is MACHINE, MACHINE/RULE or MACHINE/RULE@VERSION as --show lists them, any part that only one has, or the path
    of a .csv. Every measurement is the whole record: raw times, spread, machine, versions (--json).

    what: Files to measure; or tables to show, compare, import.
    track: Track (experiment) whose rule and space apply.
    space: Search space: a name or path. [default: the experiment's]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    images: Time networks on this image, or on those of this folder, as networks see them (faces: aligned): a latency
        depends on what is seen. [default: the track's input]
    batch: Images at once while a network is timed; --budget-ms and all milliseconds are then those of so many.
        [allowed: 1 to 4096] [default: the track's]
    table: Fill the table of block latencies of the space.
    show: Show all tables, or the one that is named.
    compare: Compare two tables, over the space's candidates too.
    import_: Import a table that another machine filled.
    predicted: Compare predictions with the whole networks that are kept, on a page.
    machine: With --import: what the other machine is called here.
    measure: With --predicted: first measure so many candidates whole. [allowed: 1 or more]
    out: With --predicted: the page. [default: runs/EXPERIMENT-latency.html]
    folder: Where --table keeps it. [default: $ZENNAS_CACHE/measured/MACHINE]
    progress: told how far it is; without one nothing is printed.
    """

def submit(
    *,
    track: str = "insightface-ms1m",
    model: str | PathLike[str] | None = None,
    detector: str | PathLike[str] | None = None,
    images: Sequence[str | PathLike[str]] | PathLike[str] | str = (),
    system: str | PathLike[str] | None = None,
    normalise: Literal["insightface", "none"] | None = None,
    name: str | None = None,
    out: str | PathLike[str] | None = None,
    budget_ms: float | None = None,
    backend: str | None = None,
    anyway: bool = False,
    progress: Progress | None = None,
) -> Submitted:
    """Would the challenge accept it? Judge a network, or for the webface tracks a whole system, by every rule that
    a program can check: measured value, limit, verdict. Then write the zip that the challenge asks for.

    The insightface tracks take one ONNX file in a zip. The webface tracks take a folder of code with a detector and a
    recognition network: it is built from --model and --detector, or checked as it is with --system, and timed as a
    whole over --images. What is measured is the time of this machine, beside a budget that the track's reference
    network carried here. Where another kind of device stands in for the track's, the time is shown beside its budget
    and not judged.

    track: Experiment: a name under experiments/, or a path.
    model: ONNX file, a folder or zip with one at its top (of several the last by name), or a folder that zennas train
        wrote.
    detector: YuNet ONNX file; the webface tracks need a detector.
    images: Photographs to time a whole system on: a folder, a .tar, a file; may be repeated.
    system: A folder of your own with pywebface260mmfr_implement.py, face_detection.py, assets/det/*.onnx and
        assets/face_reg/*.onnx, in place of --model and --detector.
    normalise: What the model needs: insightface (mean 127.5, std 127.5) or none (pixels of 0 to 255). [default:
        insightface if zennas exported it, else as the checker sees it]
    name: Name of the zip. [default: the track's]
    out: Folder to write to. [default: runs/TRACK-submission]
    budget_ms: Budget in milliseconds of this machine, unscaled; of the whole system on a webface track. [allowed: more
        than 0]
    backend: Latency backend. [default: the track's; CPU stands in without a GPU]
    anyway: Write the zip although it would be refused.
    progress: told how far it is; without one nothing is printed.
    """
