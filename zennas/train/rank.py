"""A training from end to end, on one rank of it: prepare, train, finish, report; each skipped when it is done."""

import json

from zennas.latency.protocol import ms_text
from zennas.progress import Progress
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.run_folder import lock_folder, open_run, save_run
from zennas.tasks.table import task_of
from zennas.train import prepare
from zennas.train.finish import MODEL, RESULT, budget_here, finish, untrained_latency
from zennas.train.journal import read_metrics
from zennas.train.loop import Training
from zennas.train.report import write_report
from zennas.train.request import Request

# Times the budget that an untrained winner may take before its training is refused: twice a machine's noise.
OVER_BUDGET = 1.05
OVER_BUDGET_WHERE_NOISY = 1.5


def train_on(request: Request, ranks: Ranks, progress: Progress) -> dict | None:
    """The result of a training (on the first rank; None on the others). UserError before the first step for bad
    input."""
    locks, task = [], task_of(request.task)
    try:
        ranks.on_first(lambda: locks.append(lock_folder(request.out)))
        spent = prepare.check_fit(request)
        task.check_plan(request.plan, request.name)
        ranks.on_first(lambda: _build_index(request, progress))
        data = task.open_data(request, progress)
        teacher = task.open_teacher(request, ranks)
        settings = request.settings(data, teacher.fingerprint if teacher else None)
        state = ranks.on_first(lambda: _open_folder(request, settings, progress))
        if state["finished_with"] == request.measured_with() and (request.out / MODEL).is_file():
            progress.say(f"{request.out}: this training is done; --fresh trains again")
            return json.loads((request.out / RESULT).read_text(encoding="utf-8")) if ranks.is_first else None
        sets = prepare.open_sets(request, ranks)
        data = prepare.noticed(request, data, sets, progress)
        state = ranks.on_first(lambda: _check_latency(request, state, progress))
        job = prepare.prepare(request, data, teacher, ranks, progress, sets=sets)
        if ranks.is_first:
            _announce(job, spent, ranks, progress)
        trained = Training(job, ranks, progress).run()
        # Several ranks may have met the same image.
        corrupt, gone = (len(set().union(*ranks.objects(met))) for met in (trained.corrupt, trained.gone))
        if not ranks.is_first:
            return None
        about = {
            "steps": job.num_steps,
            "epochs": round(job.num_steps / job.steps_per_epoch, 3),
            **data.counts,
            "seconds": round(trained.seconds, 1),
            "images_per_s": round(job.num_steps * request.plan.batch / max(trained.seconds, 1e-9), 1),
            "num_ranks": ranks.num_ranks,
            "device": str(ranks.device),
            "skipped_steps": trained.num_skipped,
            "corrupt_images": corrupt,
            **({"gone": gone} if gone else {}),  # how many have no sample that can be read
            "data_notices": list(data.notices),
        }
        result = finish(
            request,
            job.network,
            spent=spent,
            accuracy=_accuracies(job, ranks, progress),
            training=about,
            progress=progress,
            data=data,
        )
        write_report(request.out / "report.html", result, read_metrics(request.out), task.page)
        save_run(request.out, state | {"finished_with": request.measured_with()})
        return result
    finally:
        for lock in locks:
            lock.release()


def _build_index(request, progress):
    """Open the data once, so that the other ranks find its index kept."""
    task_of(request.task).open_data(request, progress)


def _open_folder(request, settings, progress):
    start = {"finished_with": None, "untrained_checked": False}
    state, _ = open_run(
        request.out, settings, start=start, resume=request.resume, fresh=request.fresh, seed=request.plan.seed
    )
    progress.log_to(request.out / "train.log")
    return state


def _check_latency(request, state, progress):
    """The state, once it is seen that the untrained winner keeps the track's budget: weeks later it would be no faster.
    UserError where it does not."""
    if request.any_size or state["untrained_checked"]:
        return state
    protocol, budget = budget_here(request, progress)
    progress.begin(f"measuring {request.candidate.text}, untrained")
    progress.update({})
    untrained = untrained_latency(request, protocol)
    progress.end()
    winner, here_ms = request.candidate.text, untrained.measured_ms
    text = f"{winner} takes {ms_text(here_ms)} here, untrained; the budget is {ms_text(budget.budget_ms)}"
    # On a busy machine a figure a few per cent over the budget says nothing: then the trained network's decides.
    allowed = OVER_BUDGET if untrained.warning is None else OVER_BUDGET_WHERE_NOISY
    if here_ms > allowed * budget.budget_ms:
        raise UserError(
            f"{text} ({budget.origin}); choose another --winner or --track, or train it all the same with --any-size "
            f"(a teacher)"
        )
    if here_ms > budget.budget_ms:
        why = untrained.warning or "over it by less than a machine's noise"
        progress.say(f"warning: {text}: {why}", style="yellow")
    state = state | {"untrained_checked": True}
    save_run(request.out, state)
    return state


def _announce(job, spent, ranks, progress):
    request, plan, task = job.request, job.request.plan, task_of(job.request.task)
    per_step = f"{plan.batch} images a step" + (f" in {plan.accumulate} micro-batches" if plan.accumulate > 1 else "")
    epochs = plan.epochs or round(job.num_steps / job.steps_per_epoch, 2)
    begun = {} if request.initial is None else {"from": f"the weights of {request.initial}"}
    lines = {
        "track": f"{request.track.name}: {request.track.title}",
        "winner": f"{request.candidate.text}: {spent.params / 1e6:.1f} M parameters, {spent.macs / 1e9:.2f} GMACs",
        **begun,
        "data": f"{request.data}: {job.data.text}",
        **task.announced(request, job.head, job.teacher),
        "work": f"{job.num_steps:,} steps of {per_step}, {epochs:g} epochs, {ranks.num_ranks} rank(s) on "
        f"{ranks.device}, {job.num_workers} decoding process(es) each, seed {plan.seed}, out {request.out}",
    }
    for name, text in lines.items():
        progress.say(f"{name:>8}  {text}")
    progress.notices(job.data.notices)


def _accuracies(job, ranks, progress):
    """{set: {"student", "untrained", "teacher"}}: how good each of them is on each set."""
    request, task = job.request, task_of(job.request.task)
    metrics, best = read_metrics(request.out), task.measures[0]
    accuracies = {}
    for judged_set in job.sets:
        course = [entry for entry in metrics if entry["kind"] == f"verify/{judged_set.name}"]
        student = task.judge(request, job.network, judged_set, device=ranks.device)
        accuracies[judged_set.name] = {
            "student": student.record.model_dump(),
            "untrained": course[0][best] if course and course[0]["step"] == 0 else None,
            "teacher": None,
        }
    for judged_set in job.sets if job.teacher is not None else ():
        teacher = task.judge_teacher(job.teacher, judged_set, progress)
        accuracies[judged_set.name]["teacher"] = teacher.record.model_dump()
    return accuracies
