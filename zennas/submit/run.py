"""The work of `zennas submit`: every rule of a track judged for what the user gave, and the submission written where
none is broken.
"""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from zennas.checker import (
    BROKEN,
    NOT_JUDGED,
    NOTED,
    Rule,
    detected_normalisation,
    file_rules,
    needed_normalisation,
    parse,
)
from zennas.latency.backends import device_of, takes_network
from zennas.latency.budget import JudgedLatency, choose_protocol, local_budget, reference_here
from zennas.progress import Progress, silent
from zennas.provenance import Provenance, provenance
from zennas.records import Record, UserError, some
from zennas.run_folder import lock_folder
from zennas.space.space import Space
from zennas.submit.given import find_images, read_detector, read_model
from zennas.submit.options import Options
from zennas.submit.package import RECORD, check_name, earlier_files, write_submission
from zennas.submit.runtime import CHECKED_BATCH, run_rules, time_rule, unopened_rule, untimed_rule
from zennas.submit.system import FACE_PX, OURS, build_system, read_system, run_system, system_rules
from zennas.track import Protocol, Track, load_experiment

UNTIMED_IF_BROKEN = ("input", "input size", "one file", "loads")
# What no program can see in a file, as the challenges' own pages have it.
YOURS = {
    "insightface": (
        "train on the track's own set alone; no external data, no pretrained models",
        "no re-alignment: the network takes the 112 x 112 crop, RGB, as it comes",
        "no implicit batch in the graph, such as a flip test",
        "no fp16 weights, not even where the checker does not look",
        "augmentation with masks is allowed where its tool can be had by others",
        "at most 3 submissions a day; the best teams hand over their code",
    ),
    "webface": (
        "run demo_feat.py in the organisers' image webface260m/mfr: its versions are not written down",
        "compare the feature of one image with your own framework's, as the organisers ask",
        "sign up with the organisation's real name",
    ),
}


class Submission(Record):
    """What submission.json holds, but for where the files are."""

    track: str
    model: str  # where the recognition network comes from
    accepted: bool  # no rule that was judged is broken
    rules: tuple[Rule, ...]
    yours: tuple[str, ...]  # rules that no program can check
    latency: JudgedLatency | None = None  # the network alone, by the track's protocol
    system: dict[str, Any] | None = None  # the whole system, where the track times that
    made_by: Provenance


@dataclasses.dataclass(frozen=True)
class Submitted:
    """What `submit` returns: the judgement, and where it and the zip lie."""

    submission: Submission
    zip: pathlib.Path | None  # None where none was written
    folder: pathlib.Path

    def plain(self) -> dict[str, Any]:
        """What submission.json holds."""
        return json.loads((self.folder / RECORD).read_text(encoding="utf-8"))


class Opened(NamedTuple):
    """What the options name, loaded."""

    name: str  # of the experiment
    track: Track
    space: Space
    whole: bool  # whether the clock stands for a system, and the zip holds one
    protocol: Protocol
    stand_in: str | None


def check(options: Options) -> Opened:
    """What the options name; UserError for what cannot be used."""
    experiment, track, space = load_experiment(options.track)
    whole = track.budget.of_a_system
    _check_options(options, experiment.name, whole)
    protocol, stand_in = _protocol(track, options.backend, whole)
    check_name(_name_of(options, experiment.name))
    return Opened(experiment.name, track, space, whole, protocol, stand_in)


def run(options: Options, *, progress: Progress | None = None) -> Submitted:
    """Judge what is given by every rule of the track, and write the submission.

    What cannot be used is refused before anything is measured.
    A refused submission is written only with `anyway`; submission.json always.
    """
    progress = progress or silent()
    opened = check(options)
    the_track, whole, protocol, stand_in = opened.track, opened.whole, opened.protocol, opened.stand_in
    name, budget_ms, system = _name_of(options, opened.name), options.budget_ms, options.system
    out = options.out or pathlib.Path(f"runs/{opened.name}-submission")
    lock = lock_folder(out)
    try:
        earlier_files(out)
        made_by = provenance()
        images = find_images(options.images) if options.images else []
        made_system = read_system(system) if system else None
        assert made_system or options.model  # check saw to it
        given = made_system.recognizer if made_system else read_model(options.model)  # type: ignore[arg-type]
        try:
            network = parse(given.onnx_bytes)
        except UserError as error:
            raise UserError(f"{given.where}: {error}") from None
        checker = "webface" if whole else "insightface"
        metadata = {entry.key: entry.value for entry in network.metadata_props}
        used = options.normalise or needed_normalisation(network)
        fed = used if used and whole else detected_normalisation(network.graph, checker)
        del network
        if whole and not made_system:
            assert options.detector is not None  # check saw to it
            content, file = read_detector(options.detector), options.detector.name
            made_system = build_system(given, content, file, normalise=fed)

        progress.begin(f"checking {given.where}")
        progress.update({})
        limits, image = the_track.limits.of_a_file, (3, FACE_PX, FACE_PX) if whole else opened.space.shape.image
        rules = file_rules(given.onnx_bytes, **limits, image=image, checker=checker, normalise=used)
        if system:
            rules = [_fed_by_itself() if rule.name == "normalisation" else rule for rule in rules]
        rules += _history_rules(metadata, given)
        if any(rule.name == "one file" and rule.verdict == BROKEN for rule in rules):
            rules.append(unopened_rule())
        else:
            rules += run_rules(
                given.onnx_bytes,
                batch=1 if whole else CHECKED_BATCH,
                image=image,
                normalise=fed,
                max_embedding_size=limits["max_embedding_size"],
            )
        progress.end()
        unfit = [rule for rule in rules if rule.name in UNTIMED_IF_BROKEN and rule.verdict == BROKEN]
        timed, latency, system_runs = _times(
            given, made_system, not unfit, the_track, protocol, stand_in, budget_ms, whole, images, progress
        )
        rules += timed
        accepted = not any(rule.verdict == BROKEN for rule in rules)
        submission = Submission(
            track=the_track.name,
            model=given.where,
            accepted=accepted,
            rules=rules,
            yours=_yours(the_track.name),
            latency=latency,
            system=system_runs,
            made_by=made_by,
        )
        files: dict[str, bytes] = {}
        if accepted or options.anyway:
            files = made_system.files if made_system else {"model.onnx": given.onnx_bytes}
        path = write_submission(
            out, submission.model_dump(mode="json"), name=name, files=files, as_folder=made_system is not None
        )
        return Submitted(submission, path, out)
    finally:
        progress.end()
        lock.release()


def _name_of(options: Options, experiment: str) -> str:
    """Of the zip, without .zip."""
    return experiment if options.name is None else options.name.removesuffix(".zip")


def _check_options(options: Options, name: str, whole: bool) -> None:
    model, detector, system, normalise = options.model, options.detector, options.system, options.normalise
    if not whole:
        for option, value in (("--detector", detector), ("--images", options.images), ("--system", system)):
            if value:
                raise UserError(f"{option}: track {name} takes one ONNX file and no system; leave it out")
        if model is None:
            raise UserError("--model is missing: the ONNX file to submit")
        return
    if system and (model or detector or normalise):
        raise UserError(
            "--system is a whole system already; --model, --detector and --normalise build one: give one or the other"
        )
    if not system and model is None:
        raise UserError(f"--model is missing: track {name} takes a system of a recognition network and a detector")
    if not system and detector is None:
        raise UserError(
            f"--detector is missing: track {name} takes a whole system; give a YuNet ONNX file, "
            "or a system of your own with --system DIR"
        )


def _protocol(track, backend, whole):
    protocol, stand_in = choose_protocol(track, backend)
    if takes_network(protocol.backend):
        raise UserError(
            f"--backend {protocol.backend}: times torch networks, not an ONNX file; use an onnxruntime backend"
        )
    if whole and device_of(protocol.backend) != "cpu":
        raise UserError(f"--backend {protocol.backend}: a whole system runs on one thread of the processor")
    return protocol, stand_in


def _history_rules(metadata, given):
    """What the file says of its own past, and what stays behind."""
    rules = []
    if metadata.get("trained") == "no":
        remark = "zennas search exported it with random weights: train it first (zennas train)"
        rules.append(Rule(name="trained", measured="no", limit="yes", verdict=NOTED, said=remark))
    if given.others:
        several = sum(name.endswith(".onnx") for name in given.others)
        remark = f"the zip will hold {given.where} alone; {some(given.others)} beside it stays behind"
        remark += "; of several ONNX files the last by name is taken, as the checker does" if several else ""
        measured = f"{len(given.others)} more files"
        rules.append(Rule(name="alone", measured=measured, limit="one ONNX file", verdict=NOTED, said=remark))
    return rules


def _fed_by_itself():
    """The rule of normalisation where somebody's own code decides."""
    remark = f"the system's own code decides: see {OURS[1]}"
    return Rule(name="normalisation", measured="not seen", limit="as the model needs", verdict=NOT_JUDGED, said=remark)


def _times(given, made_system, fit, track, protocol, stand_in, budget_ms, whole, images, progress):
    """(rules, latency, system) of what is timed: the network where the track times it,
    the system where images were given.
    """
    if not fit:
        why = "a network that cannot be loaded, has weights outside its file, or takes other images, is not timed"
        return [untimed_rule(why)], None, None
    reference = reference_here(track, protocol, progress) if budget_ms is None else None
    if not whole:
        budget = local_budget(track, reference, stand_in, budget_ms=budget_ms)
        progress.begin("measuring the network")
        progress.update({})
        rule, latency = time_rule(given.onnx_bytes, protocol, budget, of_the_challenge=True)
        progress.end()
        return [rule], latency, None
    total_ms, origin = budget_ms, f"--budget-ms {budget_ms or 0:g}, milliseconds of this machine, unscaled"
    if reference is not None:
        scale = reference.measured_ms / track.budget.reference.latency_ms
        total_ms = track.budget.total_ms * scale
        origin = f"{track.budget.total_ms:g} ms on {track.budget.reference.machine}, carried here (x {scale:.3f})"
    if images:
        progress.begin(f"running the whole system {protocol.num_runs} times")
        progress.update({})
        taken = run_system(made_system, images, protocol)
        progress.end()
        rules = system_rules(taken, total_ms=total_ms, origin=origin, stand_in=stand_in)
        return rules, None, None if isinstance(taken, str) else taken.model_dump(mode="json")
    remark = f"give photographs with --images to run the whole system; its budget is {total_ms:.1f} ms: {origin}"
    rules = [
        Rule(
            name="time of the system",
            measured="not taken",
            limit=f"<= {total_ms:.1f} ms",
            verdict=NOT_JUDGED,
            said=remark,
        )
    ]
    if reference is None:
        return rules, None, None
    progress.begin("measuring the recognition network alone")
    progress.update({})
    rule, latency = time_rule(
        given.onnx_bytes, protocol, local_budget(track, reference, stand_in), of_the_challenge=False
    )
    progress.end()
    return [rule, *rules], latency, None


def _yours(track):
    """The rules of the challenge that a track belongs to, by its name."""
    for challenge, rules in YOURS.items():
        if track.startswith(challenge):
            return rules
    return (f"track {track} is no challenge's: nobody but zennas checks it",)
