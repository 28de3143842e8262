"""From trained weights to what is handed on: network.pt, model.onnx with its proof, its latency measured anew, result.json."""

import copy
import json

import torch

from zennas.export import checker_problems, export, fold
from zennas.latency.backends import takes_network
from zennas.latency.budget import (
    choose_protocol,
    keep_network,
    kept_network,
    local_budget,
    measure_network,
    reference_here,
)
from zennas.latency.protocol import measure_calmly
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.train.teacher import NETWORK, save_network

MODEL, RESULT = "model.onnx", "result.json"
KEPT_SIZES = {
    "image_px": 112,
    "embedding_size": 512,
}  # of the whole networks that latency/budget.py keeps: a track's reference
TINY = 1e-8  # insightface's mxnet_to_ort.py zeroes what is smaller: such weights make denormals, which some runtimes crawl over


def finish(options, network, *, spent, accuracy, training, progress):
    """Export the trained network, measure it by the track's rule, and write and give the result (a plain dict).

    spent: its Cost. accuracy, training: what goes into the result as it is.
    """
    space, track, out = options.space, options.track, options.out
    network = copy.deepcopy(network).cpu().float().eval().to(memory_format=torch.contiguous_format)
    num_tiny = zero_tiny(network)
    save_network(out / NETWORK, network)
    progress.begin("exporting")
    progress.update({})
    made_by = provenance(seed=options.plan.seed, command=options.command).model_dump()
    metadata = {"zennas": json.dumps(made_by), "candidate": options.candidate.text, "trained": "yes"}
    exported = export(network, image_px=space.image_px, metadata=metadata)
    limits = track.limits
    problems = checker_problems(
        exported.onnx_bytes,
        min_nodes=limits.min_nodes,
        max_mb=limits.max_mb,
        max_embedding_size=limits.max_embedding_size,
    )
    write_atomically(out / MODEL, exported.onnx_bytes)
    latency = measured(options, network, exported.onnx_bytes, progress)
    progress.end()
    result = {
        "experiment": options.name,
        "track": track.name,
        "candidate": options.candidate.plain(),
        "params": spent.params,
        "macs": spent.macs,
        "num_blocks": options.candidate.num_blocks,
        "image_px": space.image_px,
        "embedding_size": space.embedding_size,
        "onnx": MODEL,
        "megabytes": round(exported.megabytes, 2),
        "export": exported.proof.model_dump() | {"checker": problems, "zeroed_weights": num_tiny},
        "latency": latency,
        "accuracy": accuracy,
        "training": training,
        "plan": options.plan.model_dump(mode="json"),
        "data": str(options.data),
        "teacher": str(options.teacher) if options.teacher else None,
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


def budget_here(options, progress):
    """(Protocol, LocalBudget) by which this machine measures for the track."""
    protocol, stand_in = choose_protocol(options.track, options.backend)
    if options.budget_ms is not None:
        return protocol, local_budget(options.track, None, stand_in, budget_ms=options.budget_ms)
    reference = reference_here(options.track, protocol, progress)
    return protocol, local_budget(options.track, reference, stand_in)


def untrained_latency(options, protocol, *, again=False):
    """The Measurement of the candidate with untrained weights: kept on this machine, or taken now."""
    sizes = {"image_px": options.space.image_px, "embedding_size": options.space.embedding_size}
    may_keep = sizes == KEPT_SIZES
    if may_keep and not again and (kept := kept_network(options.candidate, protocol)) is not None:
        return kept
    taken = measure_network(options.candidate, protocol, **sizes)
    if may_keep:
        keep_network(options.candidate, taken)
    return taken


def measured(options, network, onnx_bytes, progress):
    """The latency of the trained network, with the untrained one's taken in the same minute beside it."""
    protocol, budget = budget_here(options, progress)
    progress.begin("measuring the trained network")
    progress.update({})
    model = fold(network) if takes_network(protocol.backend) else onnx_bytes
    untrained = untrained_latency(options, protocol, again=True)
    trained = measure_calmly(model, protocol)
    progress.end()
    return {
        "measured_ms": trained.measured_ms,
        "untrained_ms": untrained.measured_ms,
        "median_ms": round(trained.median_ms, 4),
        "spread_pct": round(trained.spread_pct, 2),
        "budget_ms": budget.budget_ms,
        "origin": budget.origin,
        "within_budget": trained.measured_ms <= budget.budget_ms,
        "stand_in": budget.stand_in,
        "warning": trained.warning,
        **trained.model_dump(mode="json"),
    }
