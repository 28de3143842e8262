"""What every row of TASKS must keep: its plan, and its head and stream as the loop of a training asks for them.

A new row needs an entry in WITH: a function that gives the Options of a training of seconds.
"""

import dataclasses
import functools
import math
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.tasks import toy
from tests.tasks.reid.conftest import options as reid_options  # noqa: F401
from tests.tasks.test_task_free import options as toy_options  # noqa: F401
from zennas.learn_plan import LearnPlan
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.tasks.judging import Unit
from zennas.tasks.learning import Learning
from zennas.tasks.table import (
    FIRST,
    TASKS,
    learn_plan_of,
    learning_of,
    plan_of,
    row_of,
    task_of,
    tune_plan_of,
    tuning_of,
)
from zennas.tasks.task import Judgement, Page, Step, Task
from zennas.tasks.tuning import Best, Tuning, TuningPage
from zennas.train import prepare
from zennas.train.options import Options as TrainOptions
from zennas.train.request import changed_plan
from zennas.train_plan import TrainPlan
from zennas.trials.trial import REWARD, Opened, read_json, train_judged
from zennas.tune.proposal import SHAPE, knobs_of
from zennas.tune.trials import NUMBER
from zennas.tune_plan import TunePlan

NAMES = [*TASKS, "toy"]  # the tests' own task stands for the ones to come
each_task = pytest.mark.parametrize("name", NAMES)
WITH = {
    "face": lambda request: request.getfixturevalue("face_options")(
        "loss.name=adaface", "loss.sampling_rate=0.5", verify=(request.getfixturevalue("material").held_out,)
    ),
    "reid": lambda request: request.getfixturevalue("reid_options")("softmax.name=bnneck", "centre.weight=0.01"),
    "toy": lambda request: request.getfixturevalue("toy_options")(),
}


@pytest.fixture(autouse=True)
def with_the_toy(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", toy.ROW)


@pytest.fixture
def job(request, name):
    """job(ranks) -> the Job of a small training of this task."""

    def made(ranks=None):
        ranks, options = ranks or Ranks(), WITH[name](request)
        options.out.mkdir(parents=True, exist_ok=True)
        task = task_of(name)
        sets = prepare.open_sets(options, ranks)
        return prepare.prepare(options, task.open_data(options, silent()), None, ranks, silent(), sets=sets)

    return made


def test_every_task_is_tried_and_the_first_is_there():
    assert set(WITH) == set(NAMES) and FIRST in TASKS


@each_task
def test_a_plan_is_a_record_that_says_what_a_run_is(name):
    plan_class, tune_class = plan_of(name), tune_plan_of(name)
    assert issubclass(plan_class, TrainPlan) and issubclass(tune_class, TunePlan)
    plan = plan_class()
    task_of(name).check_plan(plan, "defaults")
    assert plan_class.parse(plan.model_dump(mode="json"), "again") == plan
    # Another number of ranks, or of processes that decode, is the same run; another seed is not.
    same = plan_class(accumulate=2, data={"workers": 3}, keep_checkpoints=7)
    assert plan.of_the_run() == same.of_the_run() != plan_class(seed=1).of_the_run()


@pytest.mark.parametrize("name", TASKS)
def test_plans_import_without_what_takes_seconds(name):
    modules = {place.partition(":")[0] for place in (row_of(name).plan, row_of(name).tune, row_of(name).learn)}
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'cv2', 'ray', 'scipy') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"


@each_task
def test_a_task_is_whole(name):
    task = task_of(name)
    assert isinstance(task, Task) and isinstance(task.page, Page) and task.measures
    assert task.taught == "" or task.taught in plan_of(name).model_fields
    assert task.join_set(task.set_paths("pairs.txt")) == "pairs.txt"


@pytest.mark.parametrize("name", [name for name in NAMES if name == "toy" or TASKS[name].tuning])
def test_a_tuning_is_whole_and_fits_its_plan(name):
    plan, tuning = tune_plan_of(name)(), tuning_of(name)
    assert isinstance(tuning, Tuning) and isinstance(tuning.page, TuningPage)
    for factor, knobs in plan.FACTORS.items():
        space = getattr(plan, factor)
        assert space is not None and knobs and set(knobs) <= set(type(space).model_fields), factor
    knobs = knobs_of(plan)
    assert len(knobs) == len(set(knobs)) and NUMBER not in knobs
    assert (*tuning.page.knobs, SHAPE) == knobs and set(tuning.page.counts_of) <= set(knobs)
    assert tuning.changes({}) == () and tuning.best({}) == Best({}, {})
    assert set(tuning.handed_on) <= set(TrainOptions.model_fields)
    # Columns of trials.csv and entries of a journal: no number of a task may have their name.
    taken = ["reward", "trial", "state", "epoch", "epochs", "step", "kind", "seconds", "error", "candidate", "macs"]
    assert [name for name in (*taken, "params", *knobs) if tuning.title(name)] == []


# --- what is learned from a few trainings

each_learned = pytest.mark.parametrize("name", [name for name in NAMES if name == "toy" or TASKS[name].learning])


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a Learning asks the request of `zennas learn` for."""

    learn: Any
    data: pathlib.Path
    space: Any
    device: str | None = None
    task: str = FIRST
    faces: str = "auto"
    held_out: pathlib.Path | None = None
    test: pathlib.Path | None = None


@each_learned
def test_a_learning_is_whole_and_fits_its_plan(name):
    plan_class, learning = learn_plan_of(name), learning_of(name)
    plan = plan_class()
    assert issubclass(plan_class, LearnPlan) and isinstance(learning, Learning) and isinstance(learning.unit, Unit)
    assert plan_class.parse(plan.model_dump(mode="json"), "again") == plan
    assert isinstance(learning.measure(plan), str) and learning.measure(plan)
    taken = ["reward", "step", "kind", "epoch", "seconds", "candidate", "macs", "params", "latency_ms", "error"]
    assert [name for name in taken if learning.title(name)] == []


@each_learned
def test_a_learning_judges_on_what_is_not_trained_on(name, request, tmp_path):
    learning, training = learning_of(name), WITH[name](request)
    asked = Learned(learn_plan_of(name)(), training.data, training.space, task=name)
    source = learning.open_source(asked, silent())
    groups = learning.split(asked, source)
    again = learning.split(asked, learning.open_source(asked, silent()))
    assert learning.settings(source, groups) == learning.settings(source, again)
    assert learning.announced(asked, groups) and learning.described(asked.learn, groups)
    folder, told = tmp_path / "trial", []

    def opened(progress):
        fields = learning.trained(asked, source, groups, folder)
        assert fields.keys() <= TrainOptions.model_fields.keys()  # a full training is given them, too
        plan = changed_plan(training.plan, ["epochs=2", "verify_epochs=1"])
        begun = dataclasses.replace(training, out=folder, verify=(), plan=plan, any_size=True, **fields)
        return Opened(begun, functools.partial(learning.judge, asked, source), groups.held_out, groups.test)

    train = functools.partial(train_judged, opened, folder, title=learning.title, num_threads=1)
    train(report=lambda *given: told.append(given), with_test=True)
    assert [epoch for epoch, _ in told] == [1, 2]
    assert all(math.isfinite(numbers[REWARD]) for _, numbers in told)
    assert all(key == REWARD or learning.title(key) for _, numbers in told for key in numbers)
    whole = task_of(name).open_data(training, silent()).counts
    assert all(read_json(folder / "trial.json")[count] < whole[count] for count in whole)
    assert read_json(folder / "test.json").keys() == told[-1][1].keys()
    # Again: what is done is told, and nothing is opened.
    train_judged(None, folder, report=lambda *given: told.append(given), title=learning.title, num_threads=1)
    assert told[2] == told[1]


def batches(job, ranks, first, last):
    task, options = task_of(job.request.task), job.request
    return list(task.stream(options, job.data, first_step=first, last_step=last, ranks=ranks, num_workers=0))


def parts(batch):
    """The tensors of a batch."""
    return [value for value in batch if torch.is_tensor(value)]


@each_task
def test_a_step_has_the_same_batch_from_wherever_and_on_however_many_ranks(name, job):
    made = job()
    whole = batches(made, Ranks(), 0, made.steps_per_epoch + 2)
    assert [batch.step for batch in whole] == list(range(made.steps_per_epoch + 2))
    assert [batch.epoch for batch in whole[-3:]] == [0, 1, 1]
    later = batches(made, Ranks(), 3, 4)
    halves = [batches(made, Ranks(rank, 2), 3, 4)[0] for rank in range(2)]
    micro = [whole[3].micro(number, 2) for number in range(2)]
    for expected, again, *pieces in zip(*map(parts, (whole[3], later[0], *halves, *micro)), strict=True):
        assert torch.equal(expected, again)
        assert torch.equal(expected, torch.cat(pieces[:2])) and torch.equal(expected, torch.cat(pieces[2:]))
    assert not all(torch.equal(one, other) for one, other in zip(parts(whole[0]), parts(whole[1]), strict=True))


def kept(head):
    """A copy of all that a checkpoint holds of a head."""
    state = head.state()
    copied = {name: value.clone() for name, value in state.rows.items()}
    for key, value in state.shared.items():
        copied[key] = {k: torch.as_tensor(v).clone() for k, v in flat(value).items()}
    return copied


def flat(value, prefix=""):
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in flat(inner, f"{prefix}.{name}").items()}
    return {prefix: value}


def same(one, other):
    one, other = flat(one), flat(other)
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


def walked(job, num, *, take=True):
    """The head after so many steps, each taken or discarded, and the losses."""
    head, losses = job.head, []
    for batch in batches(job, Ranks(), 0, num):
        head.begin(batch)
        numbers = head.loss(head.student, batch, Step(1, 0.0, False))
        numbers["loss"].backward()
        losses.append(numbers["loss"].item())
        if take:
            head.step(0.1)
        else:
            head.discard()
    return losses


@each_task
def test_a_head_gives_a_loss_whose_gradient_reaches_the_network(name, job):
    made = job()
    losses = walked(made, 2)
    assert all(torch.isfinite(torch.tensor(losses)))
    weights = list(made.network.parameters())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights)
    assert all(isinstance(value, float) for value in made.head.numbers().values())
    assert {id(weight) for weight in weights} <= {id(weight) for weight in made.head.student.parameters()}


@each_task
def test_a_loss_is_shared_out_over_micro_batches(name, job):
    """Their sum is the step's, but for what statistics of a half differ."""
    made = job()
    (batch,) = batches(made, Ranks(), 0, 1)
    made.network.eval()
    made.head.begin(batch)
    halves = [made.head.loss(made.head.student, batch.micro(n, 2), Step(2, 0.0, False))["loss"] for n in range(2)]
    made.head.discard()
    made.head.begin(batch)
    whole = made.head.loss(made.head.student, batch, Step(1, 0.0, False))["loss"]
    assert sum(halves).item() == pytest.approx(whole.item(), rel=0.05)


@each_task
def test_a_discarded_step_leaves_no_trace(name, job):
    made = job()
    before = kept(made.head)
    walked(made, 1, take=False)
    after = kept(made.head)
    steps = [key for key in flat(after) if key.endswith(".steps")]  # a counter of steps goes on, so that draws do
    before, after = flat(before), flat(after)
    assert same({k: before[k] for k in before if k not in steps}, {k: after[k] for k in after if k not in steps})


@each_task
def test_a_head_takes_up_what_another_kept(name, job):
    first, second = job(), job()
    walked(first, 3)
    state = first.head.state()
    second.head.restore(state.shared, lambda name, low, high: state.rows[name][low - state.first : high - state.first])
    assert same(kept(first.head), kept(second.head))


@each_task
def test_a_network_is_judged_by_the_measures_that_curves_follow(name, job):
    made, task = job(), task_of(name)
    assert made.sets and all(judged.name for judged in made.sets)
    judgement = task.judge(made.request, made.network, made.sets[0], device=torch.device("cpu"))
    assert isinstance(judgement, Judgement) and judgement.text
    values = [getattr(judgement.record, measure) for measure in task.measures]
    assert all(value is None or isinstance(value, float) for value in values) and values[0] is not None
    assert made.network.training  # as it was


@each_task
def test_its_inputs_go_into_its_network(name, job):
    made = job()
    inputs = task_of(name).some_inputs(made.request, made.data, 5)
    assert len(inputs) == 5 and inputs.dtype is torch.float32
    assert len(made.network(inputs)) == 5


@each_task
def test_its_data_says_what_it_is(name, job):
    data = job().data
    assert data.fingerprint and data.text
    assert all(key.startswith("num_") and isinstance(value, int) for key, value in data.counts.items())
