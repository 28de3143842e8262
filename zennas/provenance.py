"""Who made a file: version, command, seed, machine. Every file that zennas writes carries it."""

import datetime
import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import sys

import zennas
from zennas.records import Record

WRITERS = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "ray", "optuna", "numpy")


class Provenance(Record):
    """What it takes to make a file again."""

    zennas: str
    command: str
    seed: int | None
    machine: str
    date: str
    versions: dict[str, str]


def provenance(*, seed=None, command=None):
    """The Provenance of a file written now by this process; `command` replaces its own command line."""
    return Provenance(
        zennas=zennas.__version__,
        command=command or command_line(),
        seed=seed,
        machine=machine_name(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=versions(),
    )


def command_line():
    """The command as a user would type it again."""
    program = pathlib.Path(sys.argv[0])
    if program.name == "__main__.py":
        room = program.parent.name
        head = ["python", "-m", "zennas" if room == "zennas" else f"zennas.{room}"]
    elif program.suffix == ".py":
        inside = program.resolve().is_relative_to(pathlib.Path.cwd())
        head = ["python", str(program.resolve().relative_to(pathlib.Path.cwd())) if inside else program.name]
    else:
        head = [program.name]
    return shlex.join(head + sys.argv[1:])


@functools.cache
def versions():
    """Installed versions of the libraries that decide scores and latencies."""
    installed = {}
    for name in WRITERS:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **installed}


def num_cores():
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def machine_name():
    """Processor and cores (and GPU where there is one), as a folder name: 'amd-epyc-fam26-mod2-2c'.

    Family and model are part of it because virtual machines call very different processors by one name.
    """
    import torch

    name, family, model = platform.processor() or platform.machine(), "", ""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        name, family, model = (
            match.group(1) if (match := re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)) else default
            for key, default in (("model name", name), ("cpu family", ""), ("model", ""))
        )
    parts = [name, f"fam{family}-mod{model}" if family else "", f"{os.cpu_count()}c"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name(0))
    return re.sub(r"[^a-z0-9]+", "-", " ".join(filter(None, parts)).lower()).strip("-")
