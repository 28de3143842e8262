"""The whole path of an evaluation: read `run` first."""

import collections
import csv
import io
import itertools
import json
import os
import time
from typing import Any, NamedTuple

from zennas.checker import with_dynamic_batch
from zennas.embed.checkpoint import load_network
from zennas.embed.embeddings import kept_path
from zennas.embed.model import usable_device
from zennas.embed.named import open_named
from zennas.evaluate.embedded import embedded
from zennas.evaluate.judges import JudgeTools
from zennas.evaluate.options import Options
from zennas.evaluate.protocols import PROTOCOLS
from zennas.evaluate.report import write_report
from zennas.export import export, fold
from zennas.latency.backends import takes_network
from zennas.latency.budget import choose_protocol, judged, local_budget, measure_onnx_file, reference_here
from zennas.latency.protocol import measure_calmly
from zennas.progress import Progress, silent
from zennas.provenance import Provenance, provenance
from zennas.records import Record, UserError, first_line, suggestion
from zennas.run_folder import lock_folder, write_atomically
from zennas.track import Track, load_experiment

RESULTS, TABLE, REPORT, LOG = "results.json", "results.csv", "report.html", "evaluate.log"
THUMBNAIL_PX = 112
PAGE_EVERY_S = 60.0


class Evaluation(Record):
    """What `evaluate` returns, and results.json holds."""

    made_by: Provenance
    track: str | None
    budget: dict[str, Any] | None
    models: tuple[dict[str, Any], ...]
    sets: tuple[dict[str, Any], ...]
    results: tuple[dict[str, Any], ...]  # of each model on each set
    failures: tuple[dict[str, Any], ...]  # a model on a set, and why


class Opened(NamedTuple):
    """A set as it was given, its protocol, and what it holds."""

    given: str
    protocol: str
    flip: bool
    set: Any  # an EvaluationSet


def check(options: Options) -> Track | None:
    """The track by whose rule latency is measured; UserError for what cannot be used, before a set is opened."""
    if options.track is None and (options.budget_ms is not None or options.backend is not None):
        raise UserError("--budget-ms and --backend are about latency, which --track measures; give it too")
    usable_device(options.device)
    for option, given in (("--model", options.model), ("--set", options.set)):
        if twice := [text for text, count in collections.Counter(given).items() if count > 1]:
            raise UserError(f"{option} {twice[0]}: is given twice")
    return load_experiment(options.track)[1] if options.track else None


def run(options: Options, *, progress: Progress | None = None) -> Evaluation:
    """The results of every model on every set; files are written after each of them.

    UserError for everything that was given and cannot be used, before any network is asked. What fails afterwards, a
    network on a set, is among the `failures`, and the others go on; UserError where nothing is left.
    """
    progress = progress or silent()
    try:
        return Evaluation(**_evaluate(options, check(options), progress))
    except KeyboardInterrupt:
        progress.end()
        progress.say("stopped; embeddings are kept: give the same command again to go on")
        raise


def _evaluate(options: Options, track: Track | None, progress: Progress) -> dict[str, Any]:
    """The results as results.json has them."""
    device, out = usable_device(options.device), options.out.absolute()  # "." has no name
    opened = _opened_sets(options, progress)
    models = _distinct([open_named(text, device=device) for text in options.model])
    lock = lock_folder(out)
    try:
        _begin(out, progress)
        results = {
            "made_by": provenance().model_dump(),
            "track": options.track,
            "budget": None,
            "models": [_model_entry(named) for named in models],
            "sets": [_set_entry(opened_set) for opened_set in opened],
            "results": [],
            "failures": [],
        }
        for entry in results["models"]:
            if entry["notice"]:
                progress.say(entry["notice"], style="yellow")
        if track is not None:
            results["budget"] = _measure_latencies(results["models"], models, track, options, progress)
        _evaluate_all(models, opened, results, device, out, progress)
        return results
    finally:
        lock.release()


def _evaluate_all(models, opened, results, device, out, progress):
    """Adds every model on every set to `results`, and writes what there is so far after each: the page, which holds all
    of it again and takes a second, only now and then, and in the end."""
    shown, pages, last = [], 0, time.monotonic()
    try:
        for named in models:
            for opened_set in opened:
                try:
                    entry, thumbnails = _result(named, opened_set, device, out, progress)
                except UserError as error:
                    progress.end()
                    progress.say(f"{named.name} on {opened_set.set.name}: {error}", style="red")
                    results["failures"].append({"model": named.name, "set": opened_set.set.name, "error": str(error)})
                else:
                    results["results"].append(entry)
                    shown.append(entry | {"thumbnails": thumbnails})
                if not shown:
                    continue
                write_atomically(out / RESULTS, json.dumps(results, indent=1))
                write_atomically(out / TABLE, as_csv(results))
                if time.monotonic() - last >= PAGE_EVERY_S:
                    write_report(out / REPORT, results | {"results": shown})
                    pages, last = len(shown), time.monotonic()
        if not shown:
            raise UserError(results["failures"][0]["error"])
    finally:
        if shown and (len(shown) > pages or results["failures"]):
            write_report(out / REPORT, results | {"results": shown})


def as_csv(results: dict[str, Any]) -> str:
    """One line for each number."""
    models, sets = ({entry["name"]: entry for entry in results[name]} for name in ("models", "sets"))
    text = io.StringIO()
    fields = ("name", "value", "std", "better", "threshold", "num_same", "num_different", "headline", "note")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["model", "set", "protocol", "subset", "metric", *fields[1:], "num_unusable", "measured_ms", "within_budget"]
    )
    for entry in results["results"]:
        latency = models[entry["model"]]["latency"] or {}
        for metric in entry["metrics"]:
            head = [entry["model"], entry["set"], sets[entry["set"]]["protocol"], metric["subset"]]
            tail = [entry["num_unusable"], latency.get("measured_ms"), latency.get("within_budget")]
            writer.writerow([*head, *(metric[field] for field in fields), *tail])
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
        progress.begin(f"opening {where}")
        progress.update({})
        try:
            the_set = protocol.open(where, progress.counting("files"))
        except UserError as error:
            raise UserError(f"--set {text}: {error}") from None
        finally:
            progress.end()
        opened.append(Opened(text, name, protocol.flip if options.flip is None else options.flip, the_set))
    sets = _distinct([opened_set.set for opened_set in opened])
    return [opened_set._replace(set=the_set) for opened_set, the_set in zip(opened, sets, strict=True)]


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


def _model_entry(named):
    size = named.file.stat().st_size / 2**20
    return {
        "name": named.name,
        "file": str(named.file),
        "kind": named.kind,
        "fingerprint": named.model.fingerprint,
        "embedding_size": named.model.embedding_size,
        "input": list(named.model.input_hw),
        "normalisation": named.normalisation,
        "megabytes": round(size, 2),
        "latency": None,
        "notice": named.notice,
    }


def _set_entry(opened_set):
    return {
        "name": opened_set.set.name,
        "protocol": opened_set.protocol,
        "num_images": opened_set.set.images.num_images,
        "flip": opened_set.flip,
        "given": opened_set.given,
        "how": PROTOCOLS[opened_set.protocol].how,
    }


def _result(named, opened_set, device, out, progress):
    """(the entry of results.json, the pictures of its pairs)."""
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
    judgement = PROTOCOLS[opened_set.protocol].judge(the_set, embeddings.embedding_ND, tools)
    progress.end()
    judgement = judgement._replace(notices=[*the_set.notices, *embeddings.notices, *judgement.notices])
    for notice in judgement.notices:
        progress.say(f"{what}: {notice}", style="yellow")
    shown = {image for pair in judgement.pairs for image in (pair.first, pair.second)}
    entry = {
        "model": named.name,
        "set": the_set.name,
        **judgement.plain(),
        "where": {str(image): the_set.images.where(image) for image in sorted(shown)},
        "num_unusable": embeddings.num_unusable,
        "seconds": round(time.monotonic() - start, 1),
    }
    return entry, _thumbnails(the_set.images, shown)


def _thumbnails(images, shown):
    """{number as text: data URI} of the images that can be read."""
    pictures = {str(image): images.thumbnail(image, THUMBNAIL_PX) for image in shown}
    return {image: picture for image, picture in pictures.items() if picture is not None}


def _measure_latencies(entries, models, track, options, progress):
    """The budget here, as results.json has it; the latency of each model is put into its entry."""
    protocol, stand_in = choose_protocol(track, options.backend)
    if stand_in:
        progress.say(stand_in, style="yellow")
    reference = None if options.budget_ms is not None else reference_here(track, protocol, progress)
    budget = local_budget(track, reference, stand_in, budget_ms=options.budget_ms)
    for entry, named in zip(entries, models, strict=True):
        progress.begin(f"measuring {named.name}")
        progress.update({})
        try:
            measurement = _measured(named, protocol)
        except UserError as error:
            progress.say(f"latency of {named.name} was not measured: {error}", style="yellow")
            continue
        finally:
            progress.end()
        entry["latency"] = judged(measurement, budget)
    return budget.model_dump()


def _measured(named, protocol):
    if named.kind == "onnx":
        return measure_onnx_file(named.file, protocol, prepare=with_dynamic_batch)
    if named.kind != "checkpoint":
        raise UserError(f"{named.file}: only ONNX files and zennas checkpoints are measured; export it to ONNX")
    network = load_network(named.file)
    if takes_network(protocol.backend):
        return measure_calmly(fold(network), protocol)
    try:
        exported = export(network, network.shape)
    except RuntimeError as error:
        # Numbers so large that ONNX Runtime and PyTorch differ: no reason to lose all results.
        raise UserError(f"{named.file}: {first_line(error)}") from None
    return measure_calmly(exported.onnx_bytes, protocol)
