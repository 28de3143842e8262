"""Track (a challenge's budget, measuring rule and limits) and Experiment (one complete recipe); names resolve here."""

from typing import Annotated, Any, Literal

import pydantic

from zennas.learn_plan import LearnPlan
from zennas.records import EXPERIMENTS, SPACES, TRACKS, Record, UserError, names, resolve, suggestion
from zennas.space.candidate import Candidate
from zennas.space.families.table import check_known
from zennas.space.learned import LEARNED, LearnedScore
from zennas.space.shape import ImagePx, Shape, Sized, height_and_width, without_defaults
from zennas.space.space import Space
from zennas.tasks.table import FIRST, learn_plan_of, plan_of, row_of, tune_plan_of
from zennas.train_plan import Count, Positive, TrainPlan
from zennas.tune_plan import TunePlan

Precision = Literal["float32", "float16", "int8"]  # of a network's weights; the rows of export.onnx_file.PRECISIONS


class Protocol(Record):
    """How a latency is taken: everything that changes the number, and nothing else."""

    backend: str  # a name of latency/backends.py
    batch: Count = 1
    threads: Count = 1  # processor threads inside one inference (intra-op); inter-op is always 1
    num_runs: Count = 50
    kth_fastest: Count = 6  # the value of a measurement: the k-th fastest of num_runs, counted from 1
    warmup_runs: Annotated[int, pydantic.Field(ge=0)] = 0
    flush_denormals: bool = True
    io: Literal["host", "device"] = "host"  # where inputs and outputs lie while the clock runs
    # What the network sees while the clock runs, on which its time depends: a row of latency/inputs.py, or what
    # --images stands for. Older records do not say it: theirs saw noise.
    input: str = "noise"
    # What a network is converted to before the clock starts, and handed out in; the track's limits must admit it.
    # Inputs and outputs stay float32.
    precision: Precision = "float32"

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        return without_defaults(handler(self), type(self), ("input",))

    @pydantic.model_validator(mode="after")
    def _kth_exists(self):
        if self.kth_fastest > self.num_runs:
            raise ValueError(f"kth_fastest {self.kth_fastest} must not exceed num_runs {self.num_runs}")
        return self

    def with_runs(self, num_runs: int) -> "Protocol":
        """The same protocol with fewer or more runs, its value at the same quantile.

        >>> Protocol(backend="onnxruntime-cpu").with_runs(10).kth_fastest
        2
        """
        kth = -(-num_runs * self.kth_fastest // self.num_runs)
        return self.model_copy(update={"num_runs": num_runs, "kth_fastest": max(1, kth)})


class Reference(Sized):
    """A network by which the budget travels to another machine: its latency on the track's own machine is known, or the
    budget is a share of its latency wherever that is measured.

    Its sizes are those at which it is measured, whatever space is searched.
    """

    machine: str | None = None  # the track's own; None with Budget.reference_share, which holds on any
    candidate: Candidate
    latency_ms: Positive | None = None  # on that machine

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        return without_defaults(handler(self), type(self), Sized.model_fields)

    @pydantic.model_validator(mode="after")
    def _machine_with_its_time(self):
        if (self.machine is None) != (self.latency_ms is None):
            raise ValueError("machine and latency_ms together, or neither where the budget has a reference_share")
        return self


class Budget(Record):
    """The track's time limit, and what of it is spent before the recognition network runs.

    One of three:
    - total_ms and a reference whose latency is known: milliseconds of the track's own machine, carried to others
    - total_ms alone: milliseconds of one forward of one image on whichever machine is to run the network
    - reference_share and a reference: that share of the reference's own latency, on whichever machine measures
    """

    total_ms: Positive | None = None
    reference_share: Positive | None = None
    detection_ms: Annotated[float, pydantic.Field(ge=0)] = 0.0  # reserve; replaced by a measurement with --detector
    alignment_ms: Annotated[float, pydantic.Field(ge=0)] = 0.0  # reserve
    detector_input_px: Count = 224  # the side of the square image a detector with a symbolic input size is timed on
    reference: Reference | None = None

    @property
    def of_a_system(self) -> bool:
        """Whether the time covers a whole system, not the recognition network alone."""
        return self.detection_ms + self.alignment_ms > 0

    @property
    def machine(self) -> str:
        """Whose milliseconds these are, for people."""
        return (self.reference and self.reference.machine) or "the machine that runs the network"

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        return without_defaults(handler(self), type(self), ("reference_share",))

    @pydantic.model_validator(mode="after")
    def _one_of_three(self):
        has_time = self.reference is not None and self.reference.latency_ms is not None
        if (self.total_ms is None) == (self.reference_share is None):
            raise ValueError("either total_ms or reference_share")
        if self.total_ms is not None and self.reference is not None and not has_time:
            raise ValueError("with total_ms, a reference with machine and latency_ms, or none")
        if self.reference_share is not None and (self.reference is None or has_time):
            raise ValueError("with reference_share, a reference without machine and latency_ms: it is measured")
        if self.of_a_system and not has_time:
            raise ValueError("detection_ms and alignment_ms only with a reference that has a machine and latency_ms")
        if self.total_ms is not None and self.detection_ms + self.alignment_ms >= self.total_ms:
            raise ValueError(f"detection_ms + alignment_ms must stay below total_ms {self.total_ms}")
        return self


class Limits(Record):
    """What else the track's checker refuses; None where no limit is known."""

    max_embedding_size: Count | None = None
    max_mb: Positive | None = None  # file size / 2^20
    min_nodes: Count = 8
    # What weights its checker admits: one name or a list. Those of four bytes a number are admitted by all.
    initializer_dtype: tuple[Precision, ...] = ("float32",)

    @pydantic.field_validator(
        "initializer_dtype", mode="before", json_schema_input_type=Precision | tuple[Precision, ...]
    )
    @classmethod
    def _one_or_several(cls, value):
        return [value] if isinstance(value, str) else value

    @property
    def of_a_file(self) -> dict:
        """The limits as checker.checker_problems and checker.file_rules take them."""
        return self.model_dump()


class Track(Record):
    """One track of a challenge, as its file in latency/tracks/ states it."""

    name: str
    title: str
    budget: Budget
    protocol: Protocol
    limits: Limits
    metric: str
    # Whether an embedding may also be the mean of an image's and its mirror image's: winners and baselines are then
    # priced so, too, beside the budget, which is for one image.
    mirrored: bool = False
    sources: list[str]

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        return without_defaults(handler(self), type(self), ("mirrored",))

    @pydantic.field_validator("limits")
    @classmethod
    def _admit_the_precision(cls, limits, info):
        protocol = info.data.get("protocol")  # None where it is wrong itself
        if protocol is not None and protocol.precision not in ("float32", *limits.initializer_dtype):
            raise ValueError(
                f"an initializer_dtype that admits the {protocol.precision} of protocol.precision; "
                f"this one admits {', '.join(limits.initializer_dtype)}"
            )
        return limits


class ScorePlan(Record):
    """How a score is computed: more of everything is quieter and slower."""

    name: str = "zen"  # a row of SCORES, or LEARNED
    image_px: ImagePx = 32  # of the random images, whatever the network is for: a side, or [height, width]
    batch: Count = 2
    repeats: Count = 1
    final_repeats: Count = 8  # for finalists and baselines
    learned: LearnedScore | None = None  # what `learned` means: the model of --score learned:OUT

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        return without_defaults(handler(self), type(self), ("learned",))

    @pydantic.model_validator(mode="after")
    def _learned_has_its_model(self):
        if (self.name == LEARNED) != (self.learned is not None):
            raise ValueError(f"score '{LEARNED}' together with its model; on the command line: --score {LEARNED}:OUT")
        return self

    @property
    def label(self) -> str:
        """What people read."""
        if self.learned is not None:
            return f"learned {self.learned.measure}"
        return "Zen-Score" if self.name == "zen" else f"score {self.name}"

    @property
    def text(self) -> str:
        """How it is computed, in words."""
        if self.learned is not None:
            return f"{self.label}, {self.learned.text}"
        return ", ".join(f"{name} {value}" for name, value in self.model_dump().items())

    @property
    def caution(self) -> str:
        """What a reader must not take it for."""
        if self.learned is not None:
            return (
                f"A {self.label} is what {self.learned.num_trained} short trainings lead to expect, not what was "
                "measured: train the winners."
            )
        return f"A {self.label} is not an accuracy: it ranks untrained networks of one space."

    def shape(self, shape: Shape) -> Shape:
        """A space's Shape with images as this score sees them."""
        return shape.sized(height_and_width(self.image_px))


class EvidencePlan(Record):
    """Which other scores are asked about the networks of the finals, and what they decide there: by default nothing,
    for none of them has ordered networks of equal latency on every table that was tried.
    """

    names: tuple[str, ...] = (
        "equal_cost",
        "naswot",
        "swap",
        "meco",
        "near",
        "vkdnw",
        "synflow",
        "az_expressivity",
        "az_progressivity",
        "az_trainability",
        "effectiveness",
    )  # rows of SCORES
    image_px: ImagePx = 32
    batch: Count = 4
    # Ranks winners that score alike, where there are no bands; None: the search's own score alone. equal_cost did so
    # until it was worth -0.03 on faces and -0.26 at equal MACs on a table that it had not seen.
    rank_by: str | None = None
    near_pct: Annotated[float, pydantic.Field(ge=0, lt=100)] = 0.5  # of the best score: alike

    @pydantic.model_validator(mode="after")
    def _ranks_by_one_of_them(self):
        if self.rank_by is not None and self.rank_by not in self.names:
            raise ValueError(f"rank_by must be one of names; given {self.rank_by}")
        return self

    def of(self, name: str) -> ScorePlan:
        """The ScorePlan of one of the names."""
        return ScorePlan(name=name, image_px=self.image_px, batch=self.batch)


Share = Annotated[float, pydantic.Field(gt=0, le=1)]


class SearchPlan(Record):
    """The evolutionary search and what happens around it."""

    minutes: Positive = 5.0  # the whole run, set-up and final measurements included
    candidates: Count | None = None  # stop after this many scored, instead of by time
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0
    population: Count = 64
    batch_size: Count = 576  # candidates per task of a worker; where there is no closed form, at most 8
    batches_in_flight: Count = 2  # per worker
    num_winners: Count = 3
    max_finalists: Count = 6  # measured whole before the run settles for what it has
    # Each winner is the best of its band, {name: the most effectiveness (depth against width), as a share of the proven
    # optimum's}: the best of all of them is one deep network many times, and nothing tells what depth is worth once
    # trained. Of the Zen-Score alone, which asks for depth; None, or another score: winners differ by min_distance.
    bands: dict[str, Share] | None = {"deep": 1.0, "middle": 0.5, "wide": 0.25}
    # Between two winners of one band, or of all where there are none: mean |log ratio| over the genes.
    min_distance: Annotated[float, pydantic.Field(ge=0)] = 0.15
    margin_pct: Annotated[float, pydantic.Field(ge=0, lt=50)] = 1.0  # kept free under the budget while only predicting
    table_runs: Count = 8  # runs per block in the latency table
    max_failures_in_a_row: Count = 25
    # of a worker, for one candidate or those of one trunk: a thousand times what one takes
    candidate_timeout_s: Positive = 60.0
    # a worker's memory for it; None: its share of the smallest node's, as Ray finds it free at its start
    candidate_memory_gb: Positive | None = None
    scorers_per_gpu: Count = 2  # of a cluster
    # Beside the latency here, each a limit that every candidate keeps.
    max_mb: Positive | None = None  # of the exported file, whatever more the track asks
    max_gmacs: Positive | None = None
    devices: dict[str, Positive] = {}  # another machine's latency table, as zennas.latency --show names it -> ms there
    score: ScorePlan = ScorePlan()
    evidence: EvidencePlan = EvidencePlan()

    @pydantic.field_validator("bands")
    @classmethod
    def _narrower_and_narrower(cls, bands):
        shares = list((bands or {}).values())
        if bands is not None and (shares[:1] != [1.0] or sorted(set(shares), reverse=True) != shares):
            raise ValueError(f"null, or shares that begin with 1 and become smaller; given {shares}")
        return bands


# Parts of an experiment -> task -> their Record.
PLANS = {"train": plan_of, "tune": tune_plan_of, "learn": learn_plan_of}


class Experiment(Record):
    """One complete recipe: space + track + plans. No inheritance: the file says everything that is not a default."""

    name: str
    space: str
    track: str
    task: str = FIRST  # a row of TASKS: what the network is for, and so what the parts below hold but `search`
    search: SearchPlan = SearchPlan()
    train: pydantic.SerializeAsAny[TrainPlan] = pydantic.Field({}, validate_default=True)
    tune: pydantic.SerializeAsAny[TunePlan] = pydantic.Field({}, validate_default=True)
    learn: pydantic.SerializeAsAny[LearnPlan] = pydantic.Field({}, validate_default=True)

    @pydantic.field_validator("task")
    @classmethod
    def _task_is_known(cls, task):
        row_of(task)
        return task

    @pydantic.field_validator(*PLANS, mode="before")
    @classmethod
    def _plan_of_the_task(cls, values, info):
        # Where the task itself is wrong, that alone is told.
        plan = PLANS[info.field_name](info.data.get("task", FIRST))
        return plan.model_validate(values) if "task" in info.data else plan()

    @classmethod
    def annotation_of(cls, field, values):
        """As Record; the parts of PLANS are the task's own."""
        task = values.get("task", FIRST) if isinstance(values, dict) else FIRST
        return PLANS[field](task) if field in PLANS else super().annotation_of(field, values)


def check_output(track: Track, space: Space) -> None:
    """UserError where what the networks of a space put out is longer than the track allows."""
    most = track.limits.max_embedding_size
    if most is not None and space.embedding_size > most:
        raise UserError(
            f"space {space.name} has embeddings of {space.embedding_size} numbers; track {track.name} allows at most "
            f"{most}"
        )


def load_experiment(name: str) -> tuple[Experiment, Track, Space]:
    """(Experiment, Track, Space) that a name under experiments/ or a path stands for."""
    path = resolve(EXPERIMENTS, name)
    experiment = Experiment.load(path)
    try:
        return experiment, load_track(experiment.track), load_space(experiment.space)
    except UserError as error:
        raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def load_track(name: str) -> Track:
    """The Track of that name or path."""
    return Track.load(resolve(TRACKS, name))


def load_space(name: str) -> Space:
    """The Space of that name or path; its blocks are known.

    UserError where a copy of a shipped space still has that one's name: a run would say that it searched the other.
    """
    path = resolve(SPACES, name)
    space = Space.load(path)
    if path.stem != space.name and space.name in names(SPACES):
        raise UserError(
            f"{path}: name: '{space.name}' is the space of {resolve(SPACES, space.name)}; "
            f"give this one a name of its own: name: {path.stem}"
        )
    for member in (space, *space.baselines.values()):
        try:
            check_known(member)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return space


def lookup(table: dict, name: str, what: str) -> Any:
    """table[name], or a UserError that says which names the table knows."""
    if name not in table:
        raise UserError(f"{what} '{name}' is not known; {suggestion(name, list(table))}")
    return table[name]
