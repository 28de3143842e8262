"""A training from end to end, on one rank of it: prepare, train, finish, report; each skipped when it is done."""

import json

from zennas.records import UserError
from zennas.run_folder import lock_folder, open_run, save_run
from zennas.tasks.face.verify import in_eval, verify
from zennas.train import prepare
from zennas.train.finish import MODEL, RESULT, budget_here, finish, untrained_latency
from zennas.train.journal import read_metrics
from zennas.train.loop import Training
from zennas.train.report import write_report

# Times the budget that an untrained winner may take before its training is refused: twice a machine's noise.
OVER_BUDGET = 1.05
OVER_BUDGET_WHERE_NOISY = 1.5


def run(options, ranks, progress):
    """The result of a training (on the first rank; None on the others). UserError before the first step for bad
    input."""
    locks = []
    try:
        ranks.on_first(lambda: locks.append(lock_folder(options.out)))
        spent = prepare.check_fit(options)
        prepare.check_plan(options.plan, options.name)
        ranks.on_first(lambda: _build_index(options, progress))
        source = prepare.open_data(options, progress)
        teacher = prepare.open_teacher_of(options, ranks)
        settings = options.settings(source, teacher.fingerprint if teacher else None)
        state = ranks.on_first(lambda: _open_folder(options, settings, progress))
        if state["finished_with"] == options.measured_with() and (options.out / MODEL).is_file():
            progress.say(f"{options.out}: this training is done; --fresh trains again")
            return json.loads((options.out / RESULT).read_text(encoding="utf-8")) if ranks.is_first else None
        sets = prepare.open_sets(options, ranks)
        state = ranks.on_first(lambda: _check_latency(options, state, progress))
        job = prepare.prepare(options, source, teacher, ranks, progress, sets=sets)
        if ranks.is_first:
            _announce(job, spent, ranks, progress)
        training = Training(job, ranks, progress)
        training.run()
        corrupt = len(set().union(*ranks.objects(training.corrupt)))  # several ranks may have met the same image
        if not ranks.is_first:
            return None
        about = {
            "steps": job.num_steps,
            "epochs": round(job.num_steps / job.steps_per_epoch, 3),
            "num_images": source.num_images,
            "num_identities": source.num_identities,
            "seconds": round(training.seconds, 1),
            "images_per_s": round(job.num_steps * options.plan.batch / max(training.seconds, 1e-9), 1),
            "num_ranks": ranks.num_ranks,
            "device": str(ranks.device),
            "skipped_steps": training.num_skipped,
            "corrupt_images": corrupt,
        }
        result = finish(
            options,
            job.network,
            spent=spent,
            accuracy=_accuracies(options, job, ranks, progress),
            training=about,
            progress=progress,
            images=source.images,
        )
        write_report(options.out / "report.html", result, read_metrics(options.out))
        save_run(options.out, state | {"finished_with": options.measured_with()})
        return result
    finally:
        for lock in locks:
            lock.release()


def _build_index(options, progress):
    """Open the data once, so that the other ranks find its index kept."""
    prepare.open_data(options, progress)


def _open_folder(options, settings, progress):
    start = {"finished_with": None, "untrained_checked": False}
    state, _ = open_run(
        options.out, settings, start=start, resume=options.resume, fresh=options.fresh, seed=options.plan.seed
    )
    progress.log_to(options.out / "train.log")
    return state


def _check_latency(options, state, progress):
    """The state, once it is seen that the untrained winner keeps the track's budget: weeks later it would be no faster.
    UserError where it does not."""
    if options.any_size or state["untrained_checked"]:
        return state
    protocol, budget = budget_here(options, progress)
    progress.begin(f"measuring {options.candidate.text}, untrained")
    progress.update({})
    untrained = untrained_latency(options, protocol)
    progress.end()
    text, here_ms = options.candidate.text, untrained.measured_ms
    said = f"{text} takes {here_ms:.2f} ms here, untrained; the budget is {budget.budget_ms:.2f} ms"
    # On a busy machine a figure a few per cent over the budget says nothing: then the trained network's decides.
    allowed = OVER_BUDGET if untrained.warning is None else OVER_BUDGET_WHERE_NOISY
    if here_ms > allowed * budget.budget_ms:
        raise UserError(
            f"{said} ({budget.origin}); choose another --winner or --track, or train it all the same with --any-size "
            f"(a teacher)"
        )
    if here_ms > budget.budget_ms:
        why = untrained.warning or "over it by less than a machine's noise"
        progress.say(f"warning: {said}: {why}", style="yellow")
    state = state | {"untrained_checked": True}
    save_run(options.out, state)
    return state


def _announce(job, spent, ranks, progress):
    options, plan, head = job.options, job.options.plan, job.head
    per_step = f"{plan.batch} images a step" + (f" in {plan.accumulate} micro-batches" if plan.accumulate > 1 else "")
    sampled = f", {100 * plan.loss.sampling_rate:g} % of the centres a step" if plan.loss.sampling_rate < 1 else ""
    lines = {
        "track": f"{options.track.name}: {options.track.title}",
        "winner": f"{options.candidate.text}: {spent.params / 1e6:.1f} M parameters, {spent.macs / 1e9:.2f} GMACs",
        "data": f"{options.data}: {job.source.num_images:,} images of {job.source.num_identities:,} "
        f"identities{_chosen(options)}",
        "masks": f"{plan.data.mask.ratio:.0%} of the faces, others in every epoch" if plan.data.mask else "none",
        "loss": f"{plan.loss.name} {head.knobs}{sampled}",
        "teacher": f"{options.teacher}: {plan.distill.name}, weight {job.guide.weight:g}"
        if options.teacher
        else "none",
        "work": f"{job.num_steps:,} steps of {per_step}, {plan.epochs:g} epochs, {ranks.num_ranks} rank(s) on "
        f"{ranks.device}, "
        f"{job.num_workers} decoding process(es) each, seed {plan.seed}, out {options.out}",
    }
    for name, text in lines.items():
        progress.say(f"{name:>8}  {text}")


def _chosen(options):
    """What of the data is trained on, where that is not all of it."""
    given = options.labels or options.identities
    return "" if given is None else f", as {given} has them"


def _accuracies(options, job, ranks, progress):
    """{set: {"student", "untrained", "teacher"}}: the shares of each set that each of them gets right."""
    metrics = read_metrics(options.out)
    found = {}
    for pair_set in job.sets:
        course = [entry for entry in metrics if entry["kind"] == f"verify/{pair_set.name}"]
        student = verify(pair_set, in_eval(job.network, ranks.device), image_px=options.space.image_px)
        found[pair_set.name] = {
            "student": student.model_dump(),
            "untrained": course[0]["accuracy"] if course and course[0]["step"] == 0 else None,
            "teacher": None,
        }
    if options.teacher is not None and job.sets:
        teacher = job.guide.teacher
        for pair_set in job.sets:
            progress.begin(f"the teacher on {pair_set.name}")
            answer = verify(
                pair_set,
                lambda image: teacher(image).embedding_BD,
                image_px=teacher.input_hw,
                progress=progress.counting("images"),
            )
            found[pair_set.name]["teacher"] = answer.model_dump()
            progress.end()
    return found
