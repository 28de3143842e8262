"""The whole path of an evaluation: read `run` first."""

import collections
import contextlib
import csv
import io
import itertools
import json
import os
import pathlib
import time
from typing import Any, NamedTuple

from zennas.checker import with_dynamic_batch
from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError
from zennas.data.inputs import first_inputs
from zennas.data.lists import list_and_images
from zennas.embed.checkpoint import load_network
from zennas.embed.embeddings import kept_path
from zennas.embed.model import usable_device
from zennas.embed.named import open_named
from zennas.evaluate.embedded import embedded
from zennas.evaluate.judges import JudgeTools
from zennas.evaluate.options import Options
from zennas.evaluate.pictures import Thumbnails
from zennas.evaluate.protocols import PROTOCOLS
from zennas.evaluate.report import write_report
from zennas.evaluate.results import EvaluatedModel, EvaluatedSet, Evaluation, Failure, Result
from zennas.export.onnx_file import export, fold
from zennas.latency.backends import takes_network
from zennas.latency.budget import LocalBudget, choose_protocol, judged, local_budget, measure_onnx_file, reference_here
from zennas.latency.inputs import calibration, seeing
from zennas.latency.protocol import measure_calmly
from zennas.progress import Progress, silent
from zennas.provenance import provenance
from zennas.records import UserError, first_line, suggestion
from zennas.run_folder import lock_folder, write_atomically
from zennas.space.shape import Shape
from zennas.space.space import Space
from zennas.tasks.face.crops import AUTO, set_of_crops
from zennas.track import Track, load_experiment

RESULTS, TABLE, REPORT, LOG = "results.json", "results.csv", "report.html", "evaluate.log"
THUMBNAIL_PX = 112
PERSON_PX = (128, 64)  # of a ranked list: height, width
PAGE_EVERY_S = 60.0
NUM_SEEN = 16  # images of the first set from which the one is chosen that networks see while they are timed


class Opened(NamedTuple):
    """A set as it was given, its protocol, and what it holds."""

    given: str
    protocol: str
    flip: bool
    set: Any  # an EvaluationSet


class Request(NamedTuple):
    """An evaluation as it is done."""

    options: Options
    out: pathlib.Path  # absolute
    device: str
    track: Track | None  # by whose rule latency is measured
    space: Space | None  # of the track's experiment


def check(options: Options) -> Request:
    """The Request of these options; UserError for what cannot be used, before a set is opened."""
    if options.track is None and (options.budget_ms is not None or options.backend is not None):
        raise UserError("--budget-ms and --backend are about latency, which --track measures; give it too")
    device = usable_device(options.device)
    for option, given in (("--model", options.model), ("--set", options.set)):
        if twice := [text for text, count in collections.Counter(given).items() if count > 1]:
            raise UserError(f"{option} {twice[0]}: is given twice")
    track, space = load_experiment(options.track)[1:] if options.track else (None, None)
    return Request(options, options.out.absolute(), device, track, space)  # absolute: "." has no name


def run(options: Options, *, progress: Progress | None = None) -> Evaluation:
    """The results of every model on every set; files are written after each of them.

    UserError for everything that was given and cannot be used, before any network is asked. What fails afterwards, a
    network on a set, is among the `failures`, and the others go on; UserError where nothing is left.
    """
    progress = progress or silent()
    try:
        return _evaluate(check(options), progress)
    except KeyboardInterrupt:
        progress.end()
        progress.say("stopped; embeddings are kept: give the same command again to go on")
        raise


def _evaluate(request: Request, progress: Progress) -> Evaluation:
    options, out = request.options, request.out
    opened = _opened_sets(options, progress)
    named_models = _distinct([open_named(text, device=request.device) for text in options.model])
    lock = lock_folder(out)
    try:
        _begin(out, progress)
        models, budget = [_evaluated_model(named) for named in named_models], None
        for model in models:
            if model.notice:
                progress.say(model.notice, style="yellow")
        if request.track is not None and request.space is not None:
            official = request.track.budget.reference
            shape = official.shape if official else request.space.shape
            models, budget = _with_latencies(
                models, named_models, request.track, options, progress, images=opened[0].set.images, shape=shape
            )
        begun = Evaluation(
            made_by=provenance(),
            track=options.track,
            budget=budget,
            models=tuple(models),
            sets=tuple(map(_evaluated_set, opened)),
            results=(),
            failures=(),
        )
        return _evaluate_all(begun, named_models, opened, request, progress)
    finally:
        lock.release()


def _evaluate_all(
    evaluation: Evaluation, models: list[Any], opened: list[Opened], request: Request, progress: Progress
) -> Evaluation:
    """The Evaluation with every model on every set. What there is so far is written after each: the page, which holds
    all of it again and takes a second, only now and then, and in the end."""
    thumbnails: Thumbnails = {}
    out, pages, last = request.out, 0, time.monotonic()
    try:
        for named, opened_set in itertools.product(models, opened):
            name = opened_set.set.name
            try:
                result, pictures = _result(named, opened_set, request, progress)
            except UserError as error:
                progress.end()
                if len(models) * len(opened) > 1:  # else the command ends with it
                    progress.say(f"{named.name} on {name}: {error}", style="red")
                failure = Failure(model=named.name, set=name, error=str(error))
                evaluation = evaluation.model_copy(update={"failures": (*evaluation.failures, failure)})
            else:
                evaluation = evaluation.model_copy(update={"results": (*evaluation.results, result)})
                thumbnails[named.name, name] = pictures
            if not evaluation.results:
                continue
            write_atomically(out / RESULTS, json.dumps(evaluation.model_dump(mode="json"), indent=1))
            write_atomically(out / TABLE, as_csv(evaluation))
            if time.monotonic() - last >= PAGE_EVERY_S:
                write_report(out / REPORT, evaluation, thumbnails)
                pages, last = len(evaluation.results), time.monotonic()
        if not evaluation.results:
            raise UserError(evaluation.failures[0].error)
    finally:
        if evaluation.results and (len(evaluation.results) > pages or evaluation.failures):
            write_report(out / REPORT, evaluation, thumbnails)
    return evaluation


def as_csv(evaluation: Evaluation) -> str:
    """One line for each number."""
    protocols = {entry.name: entry.protocol for entry in evaluation.sets}
    text = io.StringIO()
    fields = ("name", "value", "std", "better", "threshold", "num_same", "num_different", "headline", "note")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["model", "set", "protocol", "subset", "metric", *fields[1:], "num_unusable", "measured_ms", "within_budget"]
    )
    for result in evaluation.results:
        latency = evaluation.timed.get(result.model)
        timing = (latency.measured_ms, latency.within_budget) if latency is not None else (None, None)
        for metric in result.metrics:
            head = [result.model, result.set, protocols[result.set], metric.subset]
            writer.writerow([*head, *(getattr(metric, field) for field in fields), result.num_unusable, *timing])
    return text.getvalue()


def _begin(out, progress):
    """The folder, made; UserError where it holds something else. What an earlier evaluation left is written over."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out takes a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / LOG).is_file():
        raise UserError(f"{out}: is not empty and holds no evaluation; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; choose another --out") from None
    progress.log_to(out / LOG)
    for name in (RESULTS, TABLE, REPORT):  # an earlier evaluation's, which would look like this one's
        (out / name).unlink(missing_ok=True)


def _opened_sets(options, progress):
    opened = []
    for text in options.set:
        head, colon, rest = text.partition(":")
        name, where = (head, rest) if colon and head in PROTOCOLS else ("pairs", text)
        if not where:
            raise UserError(f"--set {text!r}: names nothing; --help says what a set is")
        if colon and head not in PROTOCOLS and head.isidentifier() and not os.path.exists(text.partition("@")[0]):
            raise UserError(f"--set {text}: protocol '{head}' is not known; {suggestion(head, list(PROTOCOLS))}")
        protocol = PROTOCOLS[name]
        flip = protocol.flip if options.flip is None else options.flip
        for part in protocol.sets_of(where):
            progress.begin(f"opening {part}")
            progress.update({})
            try:
                the_set = protocol.open(part, progress.counting("files"))
                if protocol.of_faces:
                    prefix = f"{head}:" if name == head else ""
                    the_set = the_set._replace(images=_crops(the_set.images, prefix, where, part, options.faces))
            except UserError as error:
                raise UserError(f"--set {text}: {error}") from None
            finally:
                progress.end()
            opened.append(Opened(text if part == where else part, name, flip, the_set))
    if options.faces != AUTO and not any(PROTOCOLS[opened_set.protocol].of_faces for opened_set in opened):
        names = [name for name, protocol in PROTOCOLS.items() if protocol.of_faces]
        raise UserError(f"--faces {options.faces}: says nothing to these sets; it is for {', '.join(names)}")
    if options.pictures and not any(PROTOCOLS[opened_set.protocol].has_lists for opened_set in opened):
        names = [name for name, protocol in PROTOCOLS.items() if protocol.has_lists]
        raise UserError(f"--pictures: says nothing to these sets; it is for {', '.join(names)}")
    sets = _distinct([opened_set.set for opened_set in opened])
    return [opened_set._replace(set=the_set) for opened_set, the_set in zip(opened, sets, strict=True)]


def _crops(images, prefix, where, part, faces):
    """The images of a set as --faces says; UserError for photographs. prefix: of its protocol; where: as the user gave
    it; part: the set itself, where that means several.
    """
    _, source = list_and_images(part)
    path = f"{list_and_images(where)[0]}@" if source else ""
    lies_at = source or (None if part.endswith(".bin") else part)
    return set_of_crops(
        images, faces, given="", where=lies_at, is_listed=bool(source), then=lambda out: f"--set {prefix}{path}{out}"
    )


def _distinct(things):
    """The things with names that no two share: of equal ones the later are numbered, from 2."""
    distinct, taken = [], {thing.name for thing in things}
    for thing in things:
        is_second, name = any(before.name == thing.name for before in distinct), thing.name
        numbers = itertools.count(2)
        while is_second and name in taken:
            name = f"{thing.name}-{next(numbers)}"
        taken.add(name)
        distinct.append(thing._replace(name=name))
    return distinct


def _evaluated_model(named: Any) -> EvaluatedModel:
    return EvaluatedModel(
        name=named.name,
        file=str(named.file),
        kind=named.kind,
        fingerprint=named.model.fingerprint,
        embedding_size=named.model.embedding_size,
        input=tuple(named.model.input_hw),
        normalisation=named.normalisation,
        megabytes=round(named.file.stat().st_size / 2**20, 2),
        latency=None,
        notice=named.notice,
    )


def _evaluated_set(opened: Opened) -> EvaluatedSet:
    return EvaluatedSet(
        name=opened.set.name,
        protocol=opened.protocol,
        num_images=opened.set.images.num_images,
        flip=opened.flip,
        given=opened.given,
        how=PROTOCOLS[opened.protocol].how,
    )


def _result(named, opened_set, request, progress):
    """(the Result, the pictures of its pairs and, where they are asked for, of its ranked lists)."""
    device, out = request.device, request.out
    start, the_set, what = time.monotonic(), opened_set.set, f"{named.name} on {opened_set.set.name}"
    progress.begin(f"{what}: embedding")
    embeddings = embedded(the_set, named.model, flip=opened_set.flip, progress=progress.counting("images"))
    progress.begin(f"{what}: judging")
    progress.update({})
    # Of this folder, which is locked: another evaluation of the same at the same time keeps its own.
    key = f"{out} {named.model.fingerprint} {the_set.images.fingerprint} {opened_set.given} {opened_set.flip}"
    tools = JudgeTools(
        device=device,
        kept=lambda subset: kept_path(f"{key} {subset}", ".pairs"),
        counting=progress.counting,
    )
    assessment = PROTOCOLS[opened_set.protocol].judge(the_set, embeddings.embedding_ND, tools)
    progress.end()
    assessment = assessment._replace(notices=[*the_set.notices, *embeddings.notices, *assessment.notices])
    for notice in assessment.notices:
        progress.say(f"{what}: {notice}", style="yellow")
    shown = {image for pair in assessment.pairs for image in (pair.first, pair.second)}
    listed = {image for ranked in assessment.lists for image in (ranked.query, *ranked.images)}
    result = Result.of(
        assessment,
        model=named.name,
        set=the_set.name,
        where={str(image): the_set.images.where(image) for image in sorted(shown | listed)},
        num_unusable=embeddings.num_unusable,
        seconds=round(time.monotonic() - start, 1),
    )
    pictures = _thumbnails(the_set.images, shown, THUMBNAIL_PX)
    if request.options.pictures:
        pictures |= _thumbnails(the_set.images, listed, PERSON_PX)
    return result, pictures


def _thumbnails(images, shown, size):
    """{number as text: data URI} of the images that can be read."""
    pictures = {str(image): images.thumbnail(image, size) for image in shown}
    return {image: picture for image, picture in pictures.items() if picture is not None}


def _with_latencies(
    models: list[EvaluatedModel],
    named_models: list[Any],
    track: Track,
    options: Options,
    progress: Progress,
    *,
    images: ImageSet,
    shape: Shape,
) -> tuple[list[EvaluatedModel], LocalBudget]:
    """(the models with the latency of each that could be measured, on the images they are judged on, as a network for
    this Shape sees them; the budget here).
    """
    protocol, stand_in = choose_protocol(track, options.backend)
    if stand_in:
        progress.say(stand_in, style="yellow")
    reference = None if options.budget_ms is not None else reference_here(track, protocol, progress)
    budget = local_budget(track, reference, stand_in, budget_ms=options.budget_ms)
    with contextlib.suppress(CorruptImageError):  # then on the track's own input
        protocol = seeing(protocol, first_inputs(images, shape, NUM_SEEN))
    timed = []
    for model, named in zip(models, named_models, strict=True):
        progress.begin(f"measuring {named.name}")
        progress.update({})
        try:
            latency = judged(_measured(named, protocol), budget)
            timed.append(model.model_copy(update={"latency": latency}))
        except UserError as error:
            progress.say(f"latency of {named.name} was not measured: {error}", style="yellow")
            timed.append(model)
        finally:
            progress.end()
    return timed, budget


def _measured(named, protocol):
    if named.kind == "onnx":
        return measure_onnx_file(named.file, protocol, prepare=with_dynamic_batch)
    if named.kind != "checkpoint":
        raise UserError(f"{named.file}: only ONNX files and weights are measured; export it to ONNX")
    network = load_network(named.file)
    if takes_network(protocol.backend):
        return measure_calmly(fold(network), protocol)
    try:
        seen_BCHW = calibration(protocol.input, network.shape.image)
        exported = export(network, network.shape, calibration_BCHW=seen_BCHW)
    except RuntimeError as error:
        # Numbers so large that ONNX Runtime and PyTorch differ: no reason to lose all results.
        raise UserError(f"{named.file}: {first_line(error)}") from None
    return measure_calmly(exported.onnx_bytes, protocol)
