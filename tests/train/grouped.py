"""A task of the tests whose batches are groups: faces, four images of a person side by side, nothing else new."""

import dataclasses

from zennas.data.groups import people_of_batch
from zennas.data.stream import steps_per_epoch
from zennas.tasks.face.task import FACE
from zennas.tasks.identity.preparing import stream_of
from zennas.tasks.table import Row

TOGETHER = 4


def check_data(request, data, teacher, ranks, progress):
    FACE.check_data(request, data, teacher, ranks, progress)
    people_of_batch(request.plan.batch, TOGETHER, num_ranks=ranks.num_ranks, accumulate=request.plan.accumulate)


def epoch_steps(plan, data):
    return steps_per_epoch(data.source, plan.batch, together=TOGETHER)


def stream(request, data, **steps):
    return stream_of(request, data, together=TOGETHER, **steps)


GROUPED = dataclasses.replace(FACE, check_data=check_data, steps_per_epoch=epoch_steps, stream=stream)
ROW = Row(plan="zennas.tasks.face.plan:FacePlan", task="tests.train.grouped:GROUPED")

# `zennas train` of this task; the first argument is a file to which each step's labels and images are added.
PROGRAM = """
import json, sys
import torch
torch.set_num_threads(1)
from tests.train.grouped import ROW
from zennas.tasks.table import TASKS
from zennas.train import loop
from zennas.train.__main__ import main
TASKS["grouped"] = ROW
seen, step = sys.argv.pop(1), loop.Training._step
def noted(self, batch, **others):
    with open(seen, "a") as file:
        file.write(json.dumps([batch.step, batch.label_B.tolist(), batch.index_B.tolist()]) + "\\n")
    return step(self, batch, **others)
loop.Training._step = noted
main(sys.argv[1:])
"""
