"""Jobs of no time at all, which workers of Ray can train, and a run of them in a process that may be killed."""

import json
import pathlib
import time

from zennas.trials.engine import Job, fair_share, run_jobs, workers

EPOCHS = 3


def job(number, **values):
    return Job(f"job-{number}", f"candidate {number}", {"number": number, "widths": [8, number], **values})


def train(job, folder, report, *, seconds=0.0):
    """A curve like one of train_judged, with a line in a file for every start."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "starts", "a") as file:
        file.write("start\n")
    if job.values.get("fails"):
        (folder / "failed.json").write_text(json.dumps({"error": "UserError: nothing is left"}))
        raise ValueError("nothing is left")
    path, reward = folder / "metrics.jsonl", job.values["number"] / 100
    for epoch in range(1 + len(path.read_text().splitlines() if path.exists() else []), EPOCHS + 1):
        time.sleep(seconds * (job.values["number"] > 0))
        entry = {"step": epoch, "kind": "reward", "reward": reward, "epoch": epoch, "seconds": 1.0}
        with open(path, "a") as file:
            file.write(json.dumps(entry) + "\n")
        report(epoch, {"reward": reward})


def slowly(job, folder, report):
    train(job, folder, report, seconds=0.3)


def starts(out):
    """{key: how often it was begun}"""
    paths = pathlib.Path(out).glob("trials/*/starts")
    return {path.parent.name: len(path.read_text().splitlines()) for path in paths}


def after_the_best(finished, under_way):
    """The next number after the best of what is finished, one at a time."""
    if under_way:
        return None
    return job(1 + max(outcome.job.values["number"] for outcome in finished.values()))


def run(out, jobs, *, function=train, num_at_once=2, place="nowhere", **others):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    return run_jobs(
        function,
        jobs,
        out=out,
        num_at_once=num_at_once,
        share=fair_share(num_at_once, 1, "cpu"),
        place=place,
        log=out / "log",
        **others,
    )


def run_slowly(out):
    """What is killed, and gone on with: four given, two proposed."""
    with workers(2, say=print):
        return run(out, [job(n) for n in range(4)], function=slowly, propose=after_the_best, most=6)
