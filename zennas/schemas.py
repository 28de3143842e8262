"""JSON schemas, for editors and forms: of the YAML files (space, track, experiment) and of the options of each command.

    python -m zennas.schemas NAME       print one: space, track, experiment, or a command such as score
    python -m zennas.schemas --write    write those of the YAML files beside them, and zennas/__init__.pyi

A YAML file that begins with `# yaml-language-server: $schema=PATH` is completed and checked by editors that know the
YAML language server.
"""

import importlib
import json
import pathlib
import sys
from typing import Any

from zennas import COMMANDS
from zennas.records import Record, UserError, data_root, suggestion
from zennas.space.space import Space
from zennas.stub import stub
from zennas.tasks.table import TASKS
from zennas.track import PLANS, Experiment, Track

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# What a YAML file holds, and its schema under the root of the shipped folders.
FILES: dict[str, tuple[type[Record], str]] = {
    "space": (Space, "search_spaces/schema.json"),
    "track": (Track, "latency/schema.json"),
    "experiment": (Experiment, "experiments/schema.json"),
}
ROOMS = [f"zennas.{name}" for name in COMMANDS]


def schema(name: str) -> dict[str, Any]:
    """The JSON schema of a YAML file (space, track, experiment) or of the options of a command.

    >>> schema("score")["properties"]["budget_ms"]["unit"]
    'ms'
    """
    if name in FILES:
        made = FILES[name][0].model_json_schema()
        if name == "experiment":
            _add_plans(made)
    elif f"zennas.{name}" in ROOMS:
        made = importlib.import_module(f"zennas.{name}.options").Options.model_json_schema()
    else:
        known = [*FILES, *(room.rpartition(".")[2] for room in ROOMS)]
        raise UserError(f"schema '{name}' is not known; {suggestion(name, known)}")
    return {"$schema": DIALECT, **made}


def _add_plans(made: dict[str, Any]) -> None:
    """What `train:`, `tune:` and `learn:` hold is the task's own: any task's plan."""
    for field, plan_of in PLANS.items():
        plans = []
        for task in TASKS:
            plan = plan_of(task).model_json_schema(ref_template=f"#/$defs/{task}-{field}-{{model}}")
            inside = plan.pop("$defs", {})
            made["$defs"] |= {f"{task}-{field}-{name}": value for name, value in inside.items()}
            plans.append(plan)
        made["properties"][field] = plans[0] if len(plans) == 1 else {"anyOf": plans}


def generated() -> dict[pathlib.Path, str]:
    """{file: its text} of all that is made of declarations and committed."""
    files = {data_root() / place: json.dumps(schema(name), indent=1) + "\n" for name, (_, place) in FILES.items()}
    return files | {pathlib.Path(__file__).with_name("__init__.pyi"): stub(ROOMS)}


def main(arguments: list[str] | None = None) -> None:
    """Print or write schemas."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--write"]:
        for path, text in generated().items():
            path.write_text(text, encoding="utf-8")
            print(path)
    elif len(arguments) == 1 and not arguments[0].startswith("-"):
        try:
            print(json.dumps(schema(arguments[0]), indent=1))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
    else:
        print(__doc__)


if __name__ == "__main__":
    main()
