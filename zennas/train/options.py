"""What a user asks of `zennas train`."""

import pathlib
from typing import Annotated, ClassVar

from zennas.flags import (
    RESUME_OR_FRESH,
    Address,
    Backend,
    BudgetMs,
    Changes,
    CommandOptions,
    Data,
    Device,
    Experiment,
    Faces,
    Network,
    Space,
    flag,
)
from zennas.train_plan import MOST_EPOCHS


class Options(CommandOptions):
    """Train a winner of a search: margin loss over sampled class centres, distillation from a teacher; then export it
    to ONNX and measure its latency again by the track's rule, with the trained weights.

    Where the task is faces, --data are aligned crops (--faces says more).
    The recipe is the `train:` part of the track's experiment; --set changes a value of it. Ctrl-C ends it with a
    checkpoint; the same command with the same --out goes on, also on another number of ranks. Start several ranks with
    torchrun (torchrun --nproc-per-node 8 -m zennas.train ...) or on Ray with --ray 8.

    Exit codes: 0 trained; 1 trained, but over the track's budget or refused by its checker; 2 something given
    cannot be used; 3 a process that it began died, or could not begin (what was done is kept); 130 stopped by
    Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = (*RESUME_OR_FRESH, ("epochs", "steps"))
    data: Data
    faces: Faces = "auto"
    track: Experiment = "webface-sfr"
    winner: Annotated[pathlib.Path | None, flag("Candidate (YAML).", unset="runs/TRACK/winner-1.yaml")] = None
    out: Annotated[pathlib.Path | None, flag("Folder of the run.", unset="runs/TRACK-trained")] = None
    teacher: Annotated[
        Network,
        flag(
            "Teacher: a folder that zennas train wrote, weights of another project (backbone.pth), an ONNX file, a "
            ".pt2; FILE[,normalise=...][,px=...], as zennas evaluate takes it.",
            unset="none",
        ),
    ] = None
    from_: Annotated[
        pathlib.Path | None,
        flag(
            "What to begin from: a checkpoint (a folder step-N of another run), at its step; or a network, at step 0: "
            "network.pt, the folder of one, weights of another project (backbone.pth). Without --winner its candidate "
            "is trained."
        ),
    ] = None
    verify: Annotated[tuple[str, ...], flag("SET.bin or PAIRS@SOURCE to verify on now and then; may be repeated.")] = ()
    identities: Annotated[pathlib.Path | None, flag("Text file of identities, one a line: train on these alone.")] = (
        None
    )
    labels: Annotated[
        pathlib.Path | None,
        flag("Labels (.npz, as zennas tune writes): who every image counts as, or that it is left out."),
    ] = None
    epochs: Annotated[float | None, flag("The same as --set epochs=N.", gt=0, le=MOST_EPOCHS)] = None
    steps: Annotated[int | None, flag("Instead of epochs; the same as --set steps=N.", ge=1, le=2**31 - 1)] = None
    batch: Annotated[
        int | None, flag("Images a step, over all ranks; the same as --set batch=N.", ge=1, le=2**31 - 1)
    ] = None
    seed: Annotated[int | None, flag("The same as --set seed=N.", ge=0, le=2**31 - 1)] = None
    set: Annotated[
        Changes,
        flag("KEY=VALUE of the recipe, such as optimizer.lr=0.05 or loss.name=arcface; may be repeated."),
    ] = ()
    space: Annotated[Space, flag("Search space: image and embedding size.", unset="the experiment's")] = None
    any_size: Annotated[bool, flag("The network need not keep the track's budget: a teacher.")] = False
    budget_ms: BudgetMs = None
    backend: Backend = None
    device: Device = None
    ray: Annotated[int | None, flag("Start so many ranks on Ray.", ge=1)] = None
    address: Annotated[
        Address, flag("Address of a Ray cluster, with --ray ('auto' inside one).", unset="a private local Ray")
    ] = None
    resume: Annotated[bool, flag("Go on with a training; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move a training that is there aside and begin anew.")] = False

    @property
    def changes(self) -> tuple[str, ...]:
        """All KEY=VALUE changes of the recipe; those of `set` count last."""
        return (*(f"{name}={value}" for name, value in self._short.items()), *self.set)

    @property
    def words(self) -> tuple[str, ...]:
        """How each of the changes was given, for errors."""
        short = (f"--{name} {value}" for name, value in self._short.items())
        return (*short, *(f"--set {change}" for change in self.set))

    @property
    def _short(self):
        short = {"epochs": self.epochs, "steps": self.steps, "batch": self.batch, "seed": self.seed}
        return {name: value for name, value in short.items() if value is not None}
