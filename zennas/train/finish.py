"""From trained weights to what is handed on: network.pt, model.onnx with its proof, its latency measured anew,
result.json.
"""

import copy
import json

import torch

from zennas.embed.checkpoint import NETWORK, save_network
from zennas.export.onnx_file import NotFiniteError, export, fold
from zennas.latency.backends import takes_network
from zennas.latency.budget import (
    choose_protocol,
    judged,
    keep_network,
    kept_network,
    local_budget,
    measure_network,
    reference_here,
)
from zennas.latency.inputs import seeing
from zennas.latency.protocol import measure_calmly
from zennas.provenance import provenance
from zennas.records import UserError
from zennas.run_folder import write_atomically
from zennas.tasks.table import task_of

MODEL, RESULT = "model.onnx", "result.json"
CALIBRATION_IMAGES = 32  # more change the ranges of int8 by little
# insightface's mxnet_to_ort.py zeroes what is smaller: such weights make denormals, which some runtimes crawl over
TINY = 1e-8


def finish(request, network, *, spent, accuracy, training, progress, data=None):
    """Export the trained network, measure it by the track's rule, and write and give the result (a plain dict).

    spent: its Cost. accuracy, training: what goes into the result as it is. data: its Data: on some of it the file is
    proven and timed, and another precision than float32 is calibrated.
    """
    space, track, out = request.space, request.track, request.out
    network = copy.deepcopy(network).cpu().float().eval().to(memory_format=torch.contiguous_format)
    num_tiny = zero_tiny(network)
    save_network(out / NETWORK, network)
    progress.begin("exporting")
    progress.update({})
    made_by = provenance(seed=request.plan.seed, command=request.command).model_dump()
    metadata = {"zennas": json.dumps(made_by), "candidate": request.candidate.text, "trained": "yes"}
    precision = choose_protocol(track, request.backend)[0].precision
    task = task_of(request.task)
    sample_BCHW = None if data is None else task.some_inputs(request, data, CALIBRATION_IMAGES)
    try:
        exported = export(network, space.shape, metadata=metadata, precision=precision, calibration_BCHW=sample_BCHW)
    except NotFiniteError as error:
        raise UserError(
            f"{out}: {error}; train with a lower learning rate (optimizer.lr is {request.plan.optimizer.lr:g}) and "
            "another --out, or with --fresh"
        ) from None
    problems = task.problems(track, exported.onnx_bytes)
    write_atomically(out / MODEL, exported.onnx_bytes)
    latency = measured(request, network, exported.onnx_bytes, progress, seen_BCHW=sample_BCHW)
    progress.end()
    result = {
        "experiment": request.name,
        "track": track.name,
        "candidate": request.candidate.plain(),
        "params": spent.params,
        "macs": spent.macs,
        "num_blocks": request.candidate.num_blocks,
        **space.shape.plain(),
        "onnx": MODEL,
        "megabytes": round(exported.megabytes, 2),
        "export": exported.proof.model_dump() | {"checker": problems, "zeroed_weights": num_tiny},
        "latency": latency,
        "accuracy": accuracy,
        "training": training,
        "plan": request.plan.model_dump(mode="json"),
        "data": str(request.data),
        "teacher": str(request.teacher) if request.teacher else None,
        **({"from": str(request.initial)} if request.initial else {}),
        "made_by": made_by,
    }
    write_atomically(out / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def zero_tiny(network):
    """Set the weights that are nearer to zero than TINY to zero; how many there were."""
    num = 0
    with torch.no_grad():
        for weight in network.parameters():
            tiny = (weight.abs() < TINY) & (weight != 0)
            num += int(tiny.sum())
            weight.masked_fill_(tiny, 0.0)
    return num


def budget_here(request, progress):
    """(Protocol, LocalBudget) by which this machine measures for the track."""
    protocol, stand_in = choose_protocol(request.track, request.backend)
    if request.budget_ms is not None:
        return protocol, local_budget(request.track, None, stand_in, budget_ms=request.budget_ms)
    reference = reference_here(request.track, protocol, progress)
    return protocol, local_budget(request.track, reference, stand_in)


def untrained_latency(request, protocol):
    """The Measurement of the candidate with untrained weights: kept on this machine, or taken now and kept."""
    candidate, shape = request.candidate, request.space.shape
    kept = kept_network(candidate, protocol, shape)
    if kept is None:
        kept = measure_network(candidate, protocol, shape)
        keep_network(candidate, kept, shape)
    return kept


def measured(request, network, onnx_bytes, progress, *, seen_BCHW=None):
    """The latency of the trained network on what it was trained on, with the untrained one's taken in the same minute
    beside it, as a search takes it.

    seen_BCHW: some of what it was trained on; None: what the track says.
    """
    protocol, budget = budget_here(request, progress)
    progress.begin("measuring the trained network")
    progress.update({})
    model = fold(network) if takes_network(protocol.backend) else onnx_bytes
    untrained = measure_network(request.candidate, protocol, request.space.shape)
    trained = measure_calmly(model, protocol if seen_BCHW is None else seeing(protocol, seen_BCHW))
    progress.end()
    latency = judged(trained, budget).model_dump(mode="json")
    return latency | {"untrained_ms": untrained.measured_ms, "origin": budget.origin}
