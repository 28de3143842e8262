"""Task: all that a training asks of what its network is for. A record of functions over frozen values, a row of TASKS.

`request` is a training's Request throughout, `network` is the module that is searched, exported and timed, `data` a
Data, `ranks` the Ranks that train together.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zennas.records import Record


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained on, opened."""

    source: Any  # what the task reads it from; nobody else looks inside
    fingerprint: str  # of the content, the same wherever it lies
    counts: dict[str, int]  # num_...: how much it is; stands in run.json and result.json
    text: str  # the same for people
    notices: tuple[str, ...] = ()  # sentences on what of it is not used, and on how it was read


class Batch(typing.Protocol):
    """This rank's share of a step, as a task's stream gives it."""

    step: int  # from 0, of all epochs
    epoch: int
    corrupt: list  # (where, why) of samples that could not be read and were replaced
    gone: list  # (who, why) of those of whom no sample could be read, so that others stood in for them

    def micro(self, number: int, num: int) -> "Batch":
        """The part `number` of `num` equal ones."""


class Step(NamedTuple):
    """What a head is told of the step whose loss it gives."""

    num_micro: int  # micro-batches of the step: the loss of one is divided by that
    epoch: float  # how far the training is
    channels_last: bool  # the memory format that the network's convolutions want


class HeadState(NamedTuple):
    """What a checkpoint holds of a head."""

    shared: dict  # what all ranks have alike: entries of the checkpoint's common file
    rows: dict = {}  # tensors that are shared out over ranks by their first axis: this rank's rows
    first: int = 0  # where these rows begin in the whole


class Head(typing.Protocol):
    """How a network is trained, on one rank: its loss, and whatever is trained beside it.

    A step is `begin`, `loss` for every micro-batch, then `step` or `discard`.
    """

    student: "nn.Module"  # the network, and what the same optimizer trains beside it

    def begin(self, batch: Batch) -> None:
        """Make ready for a step on this batch, all its micro-batches together."""

    def loss(self, forward: Callable, micro: Batch, step: Step) -> dict[str, "torch.Tensor"]:
        """{"loss": what gradients flow back from, as its share of the step's; other numbers, for the curves}.

        forward: the student in parallel training, under autocast; called once with what the student takes.
        """

    def step(self, lr: float) -> None:
        """Move what the head trains itself, at the network's learning rate."""

    def discard(self) -> None:
        """Forget the gradients since `begin`, and what the head learnt beside them: the step is not taken."""

    def numbers(self) -> dict[str, float]:
        """Running values, for the curves."""

    def state(self) -> HeadState:
        """What a checkpoint holds of it."""

    def restore(self, shared: dict, read: Callable) -> None:
        """Take a checkpoint: its common file, and read(name, first, last) -> these rows of a tensor of `rows`.

        UserError where the checkpoint is of other data.
        """


class Judgement(NamedTuple):
    """How good a network is on one set."""

    record: "Record"  # its numbers, those of Task.measures among them; stands in result.json
    text: str  # the same in a line


@dataclasses.dataclass(frozen=True)
class Page:
    """What a report shows of a task, beside what every training has. `result` is what result.json holds."""

    facts: Callable[[dict], list]  # result -> [(name, text)] among the facts at the top
    accuracy: Callable[[dict, list], str]  # (result, entries of metrics.jsonl) -> HTML: how good it is, and its course
    summary: Callable[[dict], str]  # result -> a line: how good it is
    table: Callable[[dict], Any]  # result -> what the terminal prints of it (rich), or None
    running: dict[str, str]  # a running value of a head -> what it is
    meaning: tuple[str, ...]  # what to know before concluding anything: HTML, an item each


@dataclasses.dataclass(frozen=True)
class Task:
    """What a network is for."""

    check_plan: Callable[[Any, str], None]  # (plan, where); UserError for a name or a knob that no table knows
    taught: str  # the part of the plan that counts only with a teacher; "": there is no learning from a teacher
    set_paths: Callable[[str], Iterable[str]]  # a --verify -> the files that it names
    join_set: Callable[[Iterable[str]], str]  # the files -> the --verify that names them

    open_data: Callable[..., Data]  # (request, progress)
    open_teacher: Callable[..., Any]  # (request, ranks) -> the teacher, which has a fingerprint, or None
    # (request, a --verify) -> the set, which has a name; UserError where no network could be judged
    open_set: Callable[..., Any]
    check_data: Callable[..., None]  # (request, data, teacher, ranks, progress); UserError before anything is built
    steps_per_epoch: Callable[..., int]  # (plan, data)

    head: Callable[..., Head]  # (request, data, network, teacher, ranks, progress)
    # (request, data, *, first_step, last_step, ranks, num_workers) -> the Batch of every step from first_step on
    stream: Callable[..., Iterable[Batch]]
    # (request, data, num) -> what the network sees of the first samples that can be read, on the processor
    some_inputs: Callable[..., "torch.Tensor"]

    measures: tuple[str, ...]  # what of a Judgement's record the curves follow; the first says how good it is
    judge: Callable[..., Judgement]  # (request, network, set, *, device, autocast); UserError where it cannot be judged
    judge_teacher: Callable[..., Judgement]  # (teacher, set, progress)

    announced: Callable[..., dict]  # (request, head, teacher) -> {name: a line} before the first step
    problems: Callable[..., list]  # (track, onnx_bytes) -> why the challenge would refuse the file, a sentence each
    # (request, sets that it was verified on) -> commands, as lists of words, that use the trained network
    next_commands: Callable[..., list]
    page: Page
    # (data, the set, the --verify that named it, progress) -> sentences on images of the set that are trained on, too;
    # None where nobody looks for them
    trained_on: Callable[..., list[str]] | None = None
    # (data, the Shape of the network, progress); UserError where a sample of --data shows that they are not what the
    # task takes; None where it takes whatever there is
    look: Callable[..., None] | None = None
    finds_crops: bool = False  # whether a word of the user has what it takes found in whole pictures, on the way
