"""What a long run costs its driver, what each store costs a run, and how 64 scorers and four drivers get on with one
PostgreSQL.

    python experiments/benchmarks/load.py --postgres @FILE --work FOLDER --out experiments/benchmarks/load.json

FILE holds the URL of an empty PostgreSQL database's server, with {database} in place of the database's name, and the
databases zennas_store, zennas_proxy and zennas_many exist there. FOLDER is for the runs, and can be thrown away
afterwards.
  long    one run of 100,000 scored candidates: the driver's memory and the seconds per 1,000 candidates as they grow,
  the seconds
          until a resumed run proposes again, the seconds that optuna-dashboard takes to give its page the study
  stores  the same short run over each store: which share of its wall time its store took, and its longest write
  many    four drivers, 16 scorers each on a cluster of 64 processors that this machine does not have: errors, doubles,
  stalls
Every run is the command itself. What is done is kept in --out and not done again.
"""

import argparse
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import wsgiref.simple_server

import numpy as np
import optuna
import optuna_dashboard
import pandas
import yaml

from zennas.provenance import provenance
from zennas.records import EXPERIMENTS, resolve
from zennas.run_folder import write_atomically
from zennas.search.storage import asked_storage, open_storage

LONG, SHORT, MANY = 100_000, 20_000, 16_000
SAMPLE_S = 1.0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--postgres", help="URL with {database} in it, or @FILE; left out: SQLite and the journal file alone"
    )
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--track", default="webface-sfr")
    parser.add_argument(
        "--budget-ms", default="100", help="milliseconds here, so that no reference network is measured first"
    )
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    postgres = asked_storage(arguments.postgres) if arguments.postgres else None
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}

    def keep(**more):
        result.update(more, made_by=provenance(seed=0).model_dump())
        write_atomically(arguments.out, json.dumps(result, indent=1) + "\n")
        print(json.dumps(more, indent=1), flush=True)

    search = Search(arguments)
    if "long" not in result:
        keep(long=long_run(search))
    if "stores" not in result:
        keep(stores=each_store(search, postgres))
    if "many" not in result and postgres:
        keep(many=many(search, postgres.format(database="zennas_many")))


class Search:
    """`python -m zennas.search` in a folder, its driver watched from outside."""

    def __init__(self, arguments):
        self.arguments, self.work = arguments, arguments.work.resolve()
        # One finalist and no other scores: the finals are no part of the load.
        recipe = yaml.safe_load(resolve(EXPERIMENTS, arguments.track).read_text())
        recipe["search"] = recipe.get("search", {}) | {
            "num_winners": 1,
            "max_finalists": 1,
            "evidence": {"names": [], "rank_by": None},
        }
        self.work.mkdir(parents=True, exist_ok=True)
        self.experiment = self.work / "experiment.yaml"
        self.experiment.write_text(yaml.safe_dump(recipe))

    def begin(self, name, *words, num, storage=None):
        command = [sys.executable, "-m", "zennas.search", "--track", self.experiment, "--out", self.work / name]
        command += ["--candidates", num, "--budget-ms", self.arguments.budget_ms, *words]
        environment = os.environ | ({"ZENNAS_STORAGE": storage} if storage else {})
        log = open(self.work / f"{name}-{time.monotonic_ns()}.log", "w")  # noqa: SIM115
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=log, stderr=subprocess.STDOUT)
        process.log = pathlib.Path(log.name)
        return process

    def state(self, name):
        try:
            return json.loads((self.work / name / "run.json").read_text())
        except (OSError, ValueError):
            return {}


def ended(process):
    if process.wait() not in (0, 1):  # 1: the one finalist was over the budget, which is no matter here
        raise SystemExit(f"{process.args} ended with {process.returncode}:\n{process.log.read_text()[-3000:]}")


def memory_mb(process):
    """Resident memory of a process, without what it shares with files."""
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return None


def long_run(search):
    name, samples = "long", []
    process = search.begin(name, num=LONG)
    table = search.work / name / "scored.parquet"
    while process.poll() is None:
        time.sleep(SAMPLE_S)
        # While it searches: an export of a network takes more than all of the search, before it and after.
        if table.is_dir() and "searched:" not in process.log.read_text() and (mb := memory_mb(process)):
            samples.append(mb)
    ended(process)
    rows, state = pandas.read_parquet(table), search.state(name)
    by_share = np.array_split(np.array(samples), 10)
    ends = [rows["elapsed_s"].iloc[min(len(rows) - 1, at)] for at in range(0, len(rows) + 1, 10_000)]
    return {
        "screened": state["counters"]["screened"],
        "scored": len(rows),
        "search_s": round(state["search_s"], 1),
        "driver_mb_by_tenths": [round(float(part.mean()), 1) for part in by_share],
        "seconds_per_1000_by_10000": [round(float(b - a) / 10, 4) for a, b in itertools.pairwise(ends)],
        "store": state["store"] | {"share_of_wall": share(state)},
        "trials": len(study(f"sqlite:///{search.work / name / 'study.db'}", name).trials),
        "resume_s": resume(search, name, num=len(rows)),
        "dashboard_s": dashboard(f"sqlite:///{search.work / name / 'study.db'}"),
    }


def resume(search, name, *, num):
    """Seconds from the start of the command over a finished run to its first new part."""
    start, process = time.monotonic(), search.begin(name, num=num + 2000)
    parts = search.work / name / "scored.parquet"
    before = len(list(parts.glob("part-*")))
    while process.poll() is None and len(list(parts.glob("part-*"))) == before:
        time.sleep(0.05)
    found = round(time.monotonic() - start, 1)
    process.terminate()
    process.wait()
    return found


def study(url, name):
    return optuna.load_study(study_name=name, storage=open_storage(url))


def dashboard(url):
    """Seconds that the dashboard's server takes for all that the page of a study asks for, the first time and again."""

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *arguments):
            pass

    server = wsgiref.simple_server.make_server("127.0.0.1", 0, optuna_dashboard.wsgi(url), handler_class=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opener, spent = urllib.request.build_opener(urllib.request.ProxyHandler({})), []
    for _ in range(2):
        start = time.monotonic()
        with opener.open(f"http://127.0.0.1:{server.server_port}/api/studies/1", timeout=60) as answer:
            answer.read()
        spent.append(round(time.monotonic() - start, 2))
    server.shutdown()
    return spent


def share(state):
    """The store's share of a run's wall time: what its thread took beside the search, and what was waited for."""
    wall = state["wall_s"]
    names = ("writing the study, beside the search", "waiting for the study", "opening the study")
    return {name: round(wall.get(name, 0.0) / state["total_s"], 4) for name in names}


def each_store(search, postgres):
    found, proxy = {}, None
    urls = {"sqlite": None, "journal": f"journal:{search.work}/study.log"}
    if postgres:
        port = free_port()
        urls |= {"postgres": postgres.format(database="zennas_store"), "grpc": f"grpc://127.0.0.1:{port}"}
        serve = "import sys; from optuna.storages import get_storage, run_grpc_proxy_server; "
        serve += "run_grpc_proxy_server(get_storage(sys.stdin.read()), port=int(sys.argv[1]))"
        proxy = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", serve, str(port)], stdin=subprocess.PIPE, text=True
        )
        proxy.stdin.write(postgres.format(database="zennas_proxy"))
        proxy.stdin.close()
    for kind, url in urls.items():
        process = search.begin(f"store-{kind}", num=SHORT, storage=url)
        ended(process)
        state = search.state(f"store-{kind}")
        found[kind] = state["store"] | {"share_of_wall": share(state), "wall_s": round(state["total_s"], 1)}
        found[kind]["ms_per_write"] = round(
            1e3 * state["wall_s"]["writing the study, beside the search"] / state["store"]["writes"], 2
        )
    if proxy:
        proxy.kill()
    return found


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def many(search, url):
    port = free_port()
    ray = pathlib.Path(sys.executable).with_name("ray")
    head = [ray, "start", "--head", "--block", "--port", port, "--num-cpus", 64, "--include-dashboard", "false"]
    head += ["--resources", '{"latency_device": 1}', "--node-ip-address", "127.0.0.1", "--disable-usage-stats"]
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = subprocess.Popen(
        list(map(str, head)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        time.sleep(10)
        start = time.monotonic()
        words = ["--islands", 4, "--workers", 16, "--address", f"127.0.0.1:{port}"]
        drivers = [search.begin("many", *words, num=MANY, storage=url) for _ in range(4)]
        for process in drivers:
            ended(process)
        wall_s = time.monotonic() - start
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)
    rows = pandas.read_parquet(search.work / "many" / "scored.parquet")
    states = [search.state(f"many/island-{island}") for island in range(4)]
    trials = study(url, "many").trials
    keys = [trial.user_attrs["key"] for trial in trials]
    said = [process.log.read_text() for process in drivers]
    return {
        "wall_s": round(wall_s, 1),
        "scored": len(rows),
        "scored_twice": int(len(rows) - rows["key"].nunique()),
        "failed": int(rows["error"].notna().sum()),
        "trials": len(trials),
        "trials_twice": len(keys) - len(set(keys)),
        "left_running": sum(not trial.state.is_finished() for trial in trials),
        "warnings_of_the_store": sum(text.count("the store does not answer") for text in said),
        "workers_lost": sum(text.count("a worker died") for text in said),
        "longest_write_s": max(state["store"]["longest_s"] for state in states),
        "writes": sum(state["store"]["writes"] for state in states),
    }


if __name__ == "__main__":
    main()
