"""The learning run from end to end: candidates of equal latency, a few trained, the line through them, what it says.
Read `run` first.
"""

from typing import Any

from zennas.learn.comparison import Device, device_of
from zennas.learn.equal import equal_pool
from zennas.learn.options import Options
from zennas.learn.outcome import Learned, complete_outcome, learned_of, write_outcome
from zennas.learn.request import SHARED, Asked, Request, check
from zennas.learn.trainings import Setting, check_trainings, opened_teacher, ready_teacher, run_trainings, short_fields
from zennas.progress import Progress, silent
from zennas.run_folder import explaining, lock_folder, open_run, save_run
from zennas.search.loop import begin
from zennas.search.measured import Measured
from zennas.search.opening import open_search
from zennas.search.prepare import prepare
from zennas.search.resources import Resources
from zennas.search.stages import Checked
from zennas.tasks.table import learning_of

LOG = "learn.log"


def run(options: Options, *, progress: Progress | None = None) -> Learned:
    """Learn. UserError before the first training for what cannot be used."""
    progress = progress or silent()
    asked = check(options)
    try:
        return learn(asked, progress)
    except KeyboardInterrupt:
        progress.end()
        shown_out = asked.request.shown_out
        progress.say(
            f"stopped; what was measured and trained is kept in {shown_out}: give the same command again to go on"
        )
        raise


def learn(asked: Asked, progress: Progress) -> Learned:
    """What a run that was checked comes to; one that is done is read."""
    request = asked.request
    learning = learning_of(request.task)
    lock = lock_folder(request.out)
    try:
        progress.begin(f"opening {request.data}")
        source = learning.open_source(request, progress)
        progress.end()
        groups = learning.split(request, source)
        teacher = opened_teacher(request)
        check_trainings(request, source, groups, teacher)
        settings = request.settings(
            learning.settings(source, groups), _of_latency(asked.latency), teacher.fingerprint if teacher else None
        )
        state, _ = open_run(
            request.out,
            settings,
            start={"learned": None},
            resume=request.resume,
            fresh=request.fresh,
            seed=request.learn.seed,
        )
        progress.log_to(request.out / LOG)
        if state["learned"] is not None:
            progress.say(f"{request.shown_out}: this run is done; --fresh learns again")
            learned = Learned.parse(state["learned"], request.out / "run.json")
            learned = learned.model_copy(update={"out": request.shown_out})
            complete_outcome(request, learned)
            return learned
        with explaining(request.out):
            (request.out / SHARED).mkdir(exist_ok=True)
        fields = short_fields(request, source, groups, request.out / SHARED)
        setting = Setting(request, groups, dict(fields))
        _announce(setting, source, progress)
        pool, device = _measured_pool(asked, progress)
        ready_teacher(setting, teacher, pool[0].candidate, progress)
        outcomes = run_trainings(setting, pool, progress, log=request.out / LOG)
        learned = learned_of(request, pool, outcomes, device=device, groups=groups)
        write_outcome(request, learned)
        save_run(request.out, state | {"learned": learned.plain()})
        return learned
    finally:
        progress.close()
        lock.release()


def trained_on(request: Request) -> dict[str, Any]:
    """{option of `zennas train`: value} by which a training leaves out what a learning run judges on."""
    learning = learning_of(request.task)
    source = learning.open_source(request, silent())
    return learning.trained(request, source, learning.split(request, source), request.out / SHARED)


def _of_latency(checked: Checked) -> dict[str, Any]:
    """What the latencies of the candidates depend on, for run.json."""
    return {
        "track": checked.track.model_dump(mode="json"),
        "backend": checked.backend,
        "images": str(checked.images) if checked.images else None,
        "budget_ms": checked.budget_ms,
    }


def _measured_pool(asked, progress) -> tuple[list[Measured], Device]:
    """(the pool, what decides about latency): measured by the beginning of a search,
    whose folder keeps every measurement."""
    plan = asked.request.learn
    resources = Resources(asked.latency.out, progress)
    with resources:
        opened = open_search(asked.latency, resources, progress)
        opened.ledger.go_on()
        searched = begin(prepare(opened, tells=False))
        pool = equal_pool(searched, plan)
        return pool, device_of(searched)


def _announce(setting, source, progress):
    request, plan, learning = setting.request, setting.request.learn, setting.learning
    again = f", {plan.twice} of them twice" if plan.twice else ""
    lines = {
        "track": f"{request.track.name}: {request.track.title}",
        "space": f"{request.space.name}: block {request.space.block}, {len(request.space.genes)} genes",
        "measure": learning.measure(plan),
        **learning.announced(request, setting.groups),
        "teacher": request.teacher or "none",
        "work": f"{plan.trainings} candidates of one latency trained for {plan.epochs} epochs{again}; "
        f"{request.num_workers} at once, {request.num_threads} thread(s) each, seed {plan.seed}, "
        f"out {request.shown_out}",
    }
    for name, text in lines.items():
        progress.say(f"{name:>8}  {text}")
    progress.notices(source.notices)
