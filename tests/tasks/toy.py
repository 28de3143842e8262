"""A second task, as small as one can be: how bright is the left of a picture, how bright its right?

It shares nothing with faces: its data is one .npz of grey pictures and two numbers each, its head two numbers that the
network's own optimizer trains, its plan has a knob of its own, a set is judged by the error.
"""

import html
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from zennas.data.stream import Stream
from zennas.records import Record, UserError
from zennas.tasks.table import Row
from zennas.tasks.task import Data, HeadState, Judgement, Page, Task
from zennas.train_plan import Positive, TrainPlan

ROW = Row(
    plan="tests.tasks.toy:ToyPlan",
    task="tests.tasks.toy:TOY",
    tune="tests.tasks.toy_tuning:ToyTunePlan",
    tuning="tests.tasks.toy_tuning:TOY_TUNING",
    learn="tests.tasks.toy_learning:ToyLearnPlan",
    learning="tests.tasks.toy_learning:TOY_LEARNING",
)


class ToyPlan(TrainPlan):
    """The training of one network that sees how bright a picture is."""

    beta: Positive = 0.1  # of the smooth L1 loss


class Pictures(NamedTuple):
    """Grey pictures and what is asked of each; `name` as a set."""

    name: str
    image_NHW: np.ndarray
    target_N2: np.ndarray
    notices: tuple[str, ...] = ()


class ToyBatch(NamedTuple):
    """This rank's share of a step."""

    step: int
    epoch: int
    image_BHW: torch.Tensor
    target_B2: torch.Tensor
    corrupt: list = []
    gone: list = []

    def micro(self, number, num):
        size = len(self.image_BHW) // num
        part = slice(number * size, (number + 1) * size)
        return self._replace(image_BHW=self.image_BHW[part], target_B2=self.target_B2[part])


class Errors(Record):
    """How far off it is."""

    error: float  # mean absolute
    num_pictures: int


def draw(path, num, hw, *, seed):
    """Write pictures of that (height, width) to an .npz."""
    rng, (height, width) = np.random.default_rng(seed), hw
    level_N2 = rng.uniform(0, 255, (num, 2))
    half_N2W = (np.arange(width) < width / 2)[None] == np.array([True, False])[:, None]
    image_NHW = np.einsum("nk,kw->nw", level_N2, half_N2W)[:, None] + rng.normal(0, 20, (num, height, width))
    np.savez(
        path,
        image_NHW=image_NHW.clip(0, 255).astype(np.uint8),
        target_N2=((level_N2 - 127.5) / 73.6).astype(np.float32),
    )
    return path


def opened(path) -> Pictures:
    path = pathlib.Path(path)
    with np.load(path) as file:
        return Pictures(path.stem, file["image_NHW"], file["target_N2"])


def shape_of(options):
    return options.space.shape


def seen(image_BHW, shape, device="cpu"):
    """What the network sees."""
    image_BCHW = torch.as_tensor(image_BHW).to(device).float().div(127.5).sub(1)[:, None]
    return image_BCHW.expand(-1, shape.channels, -1, -1).contiguous()


def check_plan(plan, where):
    if plan.beta > 10:
        raise UserError(f"{where}: train.beta: given {plan.beta:g}, allowed: at most 10")


def open_data(options, progress):
    pictures = opened(options.data)
    num = len(pictures.image_NHW)
    return Data(pictures, f"{pictures.target_N2.sum():.6f}", {"num_pictures": num}, f"{num} pictures")


def check_data(options, data, teacher, ranks, progress):
    if data.source.image_NHW.shape[1:] != shape_of(options).hw:
        raise UserError(f"{options.data}: pictures of another size than the space's")


def steps_per_epoch(plan, data):
    return data.counts["num_pictures"] // plan.batch


class Reader:
    def __init__(self, pictures):
        self.pictures = pictures

    def __call__(self, step, epoch, start, index_B):
        image_BHW, target_B2 = self.pictures.image_NHW[index_B], self.pictures.target_N2[index_B]
        return ToyBatch(step, epoch, torch.from_numpy(image_BHW), torch.from_numpy(target_B2))


def stream(options, data, *, first_step, last_step, ranks, num_workers):
    plan = options.plan
    return Stream(
        Reader(data.source),
        lambda epoch: np.random.default_rng([plan.seed, epoch]).permutation(data.counts["num_pictures"]),
        batch=plan.batch,
        steps_per_epoch=steps_per_epoch(plan, data),
        seed=plan.seed,
        first_step=first_step,
        last_step=last_step,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        num_workers=num_workers,
    )


def some_inputs(options, data, num):
    return seen(data.source.image_NHW[:num], shape_of(options))


class Student(nn.Module):
    """The network, whose first two numbers are its answers, and how sure it is of each."""

    def __init__(self, network):
        super().__init__()
        self.network, self.log_spread_2 = network, nn.Parameter(torch.zeros(2))

    def forward(self, image_BCHW):
        return self.network(image_BCHW)[:, :2], self.log_spread_2


class ToyHead:
    """Two numbers that are trained beside the network, by its own optimizer; nothing is shared out over ranks."""

    def __init__(self, options, data, network, teacher, ranks, progress):
        self.device, self.shape, self.beta = ranks.device, shape_of(options), options.plan.beta
        self.student = Student(network).to(ranks.device)
        self.seen = self.before = 0

    def begin(self, batch):
        self.before = self.seen

    def loss(self, forward, micro, step):
        answer_B2, log_spread_2 = forward(seen(micro.image_BHW, self.shape, self.device))
        self.seen += len(answer_B2)
        off_B2 = nn.functional.smooth_l1_loss(
            answer_B2, micro.target_B2.to(self.device), beta=self.beta, reduction="none"
        )
        loss = (off_B2 * (-log_spread_2).exp() + log_spread_2).mean()
        return {"loss": loss / step.num_micro, "off": off_B2.mean()}

    def step(self, lr):
        """Nothing of it moves by another optimizer."""

    def discard(self):
        self.seen = self.before

    def numbers(self):
        return {"seen": float(self.seen)}

    def state(self):
        return HeadState({"log_spread": self.student.log_spread_2.detach(), "seen": self.seen})

    def restore(self, shared, read):
        with torch.no_grad():
            self.student.log_spread_2.copy_(shared["log_spread"])
        self.seen = shared["seen"]


def judge(options, network, pictures, *, device, autocast=None):
    training = network.training
    network.eval()
    with torch.no_grad():
        answer_N2 = network(seen(pictures.image_NHW, shape_of(options), device))[:, :2].cpu().numpy()
    network.train(training)
    error = float(np.abs(answer_N2 - pictures.target_N2).mean())
    return Judgement(Errors(error=error, num_pictures=len(answer_N2)), f"off by {error:.3f}")


def no_teacher(options, ranks):
    if options.teacher is not None:
        raise UserError("--teacher: there is no learning from a teacher here")


def _told(result):
    return ", ".join(f"{name}: off by {row['student']['error']:.3f}" for name, row in result["accuracy"].items())


TOY = Task(
    check_plan=check_plan,
    taught="",
    set_paths=lambda text: [text],
    join_set="".join,
    open_data=open_data,
    open_teacher=no_teacher,
    open_set=lambda request, text: opened(text),
    check_data=check_data,
    steps_per_epoch=steps_per_epoch,
    head=ToyHead,
    stream=stream,
    some_inputs=some_inputs,
    measures=("error",),
    judge=judge,
    judge_teacher=None,
    announced=lambda options, head, teacher: {"loss": f"smooth L1, beta {head.beta:g}"},
    problems=lambda track, onnx_bytes: [],
    next_commands=lambda request, sets=(): [],
    page=Page(
        facts=lambda result: [("Pictures", f"{result['training']['num_pictures']}")],
        accuracy=lambda result, metrics: f"<h2>How far off</h2><p>{html.escape(_told(result))}</p>",
        summary=_told,
        table=lambda result: None,
        running={"seen": "Pictures that the head has seen."},
        meaning=("<b>It is a toy.</b>",),
    ),
)
