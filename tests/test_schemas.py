"""JSON schemas and the stub are what the declarations make of them, and every YAML that ships is good by its schema."""

import jsonschema
import pytest
import yaml

from zennas import COMMANDS
from zennas.records import EXPERIMENTS, FILE_OF_NAME, SPACES, TRACKS, data_root, names
from zennas.schemas import FILES, ROOMS, generated, main, schema

FOLDERS = {"space": SPACES, "track": TRACKS, "experiment": EXPERIMENTS}
SHIPPED = [(kind, name) for kind, folder in FOLDERS.items() for name in names(folder)]


def path_of(kind, name):
    return data_root() / FOLDERS[kind] / FILE_OF_NAME[FOLDERS[kind]].format(name)


def test_what_is_generated_is_committed():
    wrong = [str(path) for path, text in generated().items() if not path.is_file() or path.read_text("utf-8") != text]
    assert wrong == [], "python -m zennas.schemas --write"


@pytest.mark.parametrize("kind, name", SHIPPED)
def test_a_file_that_ships_is_good_by_its_schema_and_names_it(kind, name):
    path = path_of(kind, name)
    text = path.read_text("utf-8")
    jsonschema.validate(yaml.safe_load(text), schema(kind))
    head, _, place = text.splitlines()[0].partition("$schema=")
    assert head == "# yaml-language-server: "
    assert (path.parent / place).resolve() == (data_root() / FILES[kind][1]).resolve()


@pytest.mark.parametrize(
    "kind, name, change",
    [
        ("space", "ir_se", {"blok": "ir_se"}),
        ("track", "webface-sfr", {"title": 3}),
        ("experiment", "webface-sfr", {"serach": {}}),
        ("experiment", "webface-sfr", {"train": {"epochs": -1}}),
        ("experiment", "lfw-smoke", {"search": {"population": 0}}),
    ],
)
def test_a_schema_refuses_what_a_record_refuses(kind, name, change):
    values = yaml.safe_load(path_of(kind, name).read_text("utf-8"))
    jsonschema.validate(values, schema(kind))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values | change, schema(kind))


def keys_of(made):
    """Every key that a file of a schema may hold."""
    if isinstance(made, dict):
        return set(made.get("properties", {})).union(*map(keys_of, made.values()))
    return set().union(*map(keys_of, made)) if isinstance(made, list) else set()


@pytest.mark.parametrize("kind", FOLDERS)
def test_no_key_of_a_file_is_a_word_that_yaml_takes_for_a_truth(kind):
    """`on: [embedding]` is `True: [embedding]`."""
    keys = keys_of(schema(kind))
    assert len(keys) > 10 and {key for key in keys if yaml.safe_load(key) != key} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_the_options_of_a_command_have_a_schema(room):
    made = schema(room.rpartition(".")[2])
    jsonschema.Draft202012Validator.check_schema(made)
    assert made["additionalProperties"] is False
    assert all(field["description"] for field in made["properties"].values())


def test_schemas_are_printed_by_name(capsys):
    main(["space"])
    assert '"baselines"' in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["spcae"])
    assert ended.value.code == 2 and "did you mean 'space'?" in capsys.readouterr().err


def test_every_command_has_a_function():
    assert {room.rpartition(".")[2] for room in ROOMS} <= set(COMMANDS)
