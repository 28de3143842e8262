import pathlib
import re
import textwrap

import pydantic
import pytest

from zennas.records import (
    EXPERIMENTS,
    NAMED,
    SPACES,
    TRACKS,
    Record,
    UserError,
    data_root,
    first_line,
    names,
    parse_yaml,
    read_lines,
    read_yaml,
    resolve,
    some,
    suggestion,
)


class Wheel(Record):
    diameter_mm: int = pydantic.Field(ge=1)
    spokes: int = 32


class Bicycle(Record):
    name: str
    front: Wheel
    spare: tuple[Wheel, ...] = ()
    shelf: dict[str, Wheel] = {}
    lamp: Wheel | None = None


GOOD = {"name": "red", "front": {"diameter_mm": 622}}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "bicycle.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def error_of(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_good_file_becomes_a_frozen_record(write):
    bicycle = Bicycle.load(write("{name: red, front: {diameter_mm: 622}, spare: [{diameter_mm: 559, spokes: 28}]}"))
    assert bicycle == Bicycle(name="red", front=Wheel(diameter_mm=622), spare=(Wheel(diameter_mm=559, spokes=28),))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        bicycle.name = "blue"


def test_a_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)


def test_a_bad_value_names_file_key_given_and_allowed(write):
    path = write("{name: red, front: {diameter_mm: 0}}")
    message = error_of(Bicycle.load, path)
    assert message == f"{path}: front.diameter_mm: given 0, allowed: greater than or equal to 1"


def test_a_missing_key_is_named(write):
    path = write("{front: {diameter_mm: 622}}")
    assert error_of(Bicycle.load, path) == f"{path}: key 'name' is missing"


def test_every_mistake_is_told_at_once():
    message = error_of(Bicycle.parse, {"front": {"diameter_mm": 0}, "nmae": "red"}, "here")
    assert len(message.splitlines()) == 3
    assert all(line.startswith("here: ") for line in message.splitlines())


def test_a_long_value_is_shown_in_part():
    message = error_of(Bicycle.parse, GOOD | {"front": {"diameter_mm": "x" * 1000}}, "here")
    assert "given 'xxx" in message and "... allowed" not in message
    assert message.count("x") < 100 and re.search(r"\.\.\. \(9\d\d more characters\), allowed: ", message)


class Tandem(Record):
    seats: int = 2
    pedals: tuple[int, ...] = (2, 2)

    @pydantic.model_validator(mode="after")
    def _each_has_pedals(self):
        if len(self.pedals) != self.seats:
            raise ValueError("as many pairs of pedals as seats")
        return self


def test_where_may_be_said_by_the_keys():
    """As by the words of a command line that gave them; of several values together no mapping is printed."""

    def words(keys):
        return {("seats",): "--set seats=x", ("pedals",): "--set pedals=3"}.get(keys, "--seats 3")

    assert error_of(Tandem.parse, {"seats": "x"}, words).startswith(
        "--set seats=x: given 'x', allowed: a valid integer"
    )
    assert error_of(Tandem.parse, {"pedals": 3}, words) == "--set pedals=3: given 3, allowed: a list"
    assert error_of(Tandem.parse, {"seats": 3}, words) == "--seats 3: allowed: as many pairs of pedals as seats"
    assert error_of(Tandem.parse, {"bell": 3}, lambda keys: "--set bell=3").startswith(
        "--set bell=3: key 'bell' is not"
    )
    assert (
        error_of(Tandem.parse, {"seats": 3}, "tandem.yaml") == "tandem.yaml: allowed: as many pairs of pedals as seats"
    )


@pytest.mark.parametrize(
    ("values", "at", "meant", "known"),
    [
        ({"nmae": "red"}, "nmae", "name", "front, lamp, name, shelf, spare"),
        ({"front": {"diameter_mm": 622, "spoke": 20}}, "front.spoke", "spokes", "diameter_mm, spokes"),
        ({"lamp": {"diameter_mm": 622, "spoke": 20}}, "lamp.spoke", "spokes", "diameter_mm, spokes"),
        ({"spare": [{"diameter_mm": 622, "spoke": 20}]}, "spare.0.spoke", "spokes", "diameter_mm, spokes"),
        ({"shelf": {"left": {"diameter_mm": 622, "spoke": 20}}}, "shelf.left.spoke", "spokes", "diameter_mm, spokes"),
    ],
    ids=["top", "nested", "optional", "in a list", "in a mapping"],
)
def test_an_unknown_key_is_refused_with_what_was_meant(values, at, meant, known):
    message = error_of(Bicycle.parse, GOOD | values, "here")
    assert message == f"here: key '{at}' is not known; did you mean '{meant}'? known: {known}"


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words", "3"])
def test_a_file_that_is_no_mapping_says_which_keys_it_wants(write, text):
    path = write(text)
    message = error_of(Bicycle.load, path)
    assert message.startswith(f"{path}: expected keys and values (name, front, spare, shelf, lamp), got ")


def test_broken_yaml_names_file_and_line(write):
    path = write("""\
        name: red
        front: {diameter_mm: 622
        spare: []
        """)
    message = error_of(read_yaml, path)
    # The brace of line 2 is missed at the colon of line 3, which is where the parser stumbles.
    assert message.startswith(f"{path}, line 3: not valid YAML: ")


@pytest.mark.parametrize("text", ["day: 2026-13-01", "a: " + "9" * 5000, "[" * 5000], ids=["date", "number", "depth"])
def test_what_yaml_cannot_make_a_value_of_is_one_line(text):
    message = error_of(parse_yaml, text, "x.yaml")
    assert message.startswith("x.yaml") and "\n" not in message and len(message) < 300


ALIASES = {
    "doubling": "a: &a [x, x]\n"
    + "".join(f"k{n}: &k{n} [*k{n - 1}, *k{n - 1}]\n" for n in range(1, 40)).replace("*k0", "*a"),
    "merging": "a: &a {x: 1}\n"
    + "".join(f"k{n}: &k{n} {{<<: [*k{n - 1}, *k{n - 1}]}}\n" for n in range(1, 40)).replace("*k0", "*a"),
    "itself": "a: &a [1, *a]",
    "a mapping in itself": "&a {b: {c: *a}}",
}


@pytest.mark.parametrize("kind", ALIASES)
def test_aliases_that_stand_for_too_much_are_refused(kind):
    message = error_of(parse_yaml, ALIASES[kind], "x.yaml")
    assert message.startswith("x.yaml, line ") and "(*name)" in message and "\n" not in message
    # As YAML means them they are allowed: a few that say what is written above.
    assert parse_yaml("a: &a [1]\nb: *a\nc: {<<: {d: 1}, e: *a}", "x") == {"a": [1], "b": [1], "c": {"d": 1, "e": [1]}}


def test_a_key_that_is_given_twice_is_refused():
    assert error_of(parse_yaml, "a: {b: 1,\n c: 2,\n b: 3}", "x.yaml") == (
        "x.yaml, line 3: key 'b' is given twice in one mapping; give it once"
    )
    assert parse_yaml("{1: a, '1': b}", "x") == {1: "a", "1": "b"}


def test_parse_yaml_reads_json_too_and_names_its_origin():
    assert parse_yaml('{"a": [1, 2.5, null]}', "x") == {"a": [1, 2.5, None]}
    assert error_of(parse_yaml, "a: [1", "standard input").startswith("standard input, line 1: not valid YAML")


def test_yaml_builds_no_python_objects():
    message = error_of(parse_yaml, "!!python/object/apply:os.getcwd []", "x")
    assert message.startswith("x, line 1: not valid YAML")


def test_an_unreadable_file_says_why(tmp_path):
    assert error_of(read_yaml, tmp_path / "none.yaml").endswith("none.yaml: cannot be read: No such file or directory")
    assert error_of(read_yaml, tmp_path).startswith(f"{tmp_path}: cannot be read: ")
    (tmp_path / "latin.yaml").write_bytes("name: Zürich".encode("latin-1"))
    assert error_of(read_yaml, tmp_path / "latin.yaml").startswith(f"{tmp_path / 'latin.yaml'}: cannot be read: ")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "with a byte order mark"])
def test_lines_of_a_users_text(tmp_path, mark):
    """As editors of other systems save it, too; with the numbers of the lines, and names of any bytes."""
    (tmp_path / "list.txt").write_bytes(mark + b"Ada\r\n\n  Zo\xeb\n")
    assert read_lines(tmp_path / "list.txt") == [(1, "Ada"), (3, "  Zo\udceb")]
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: cannot be read: Is a directory")):
        read_lines(tmp_path)


def test_suggestion():
    assert suggestion("ir-se", ["ir_se", "ir"]) == "did you mean 'ir_se'? known: ir, ir_se"
    assert suggestion("zzz", ["ir_se", "ir"]) == "known: ir, ir_se"  # nothing near: no guess
    assert suggestion("zzz", []) == "known: none"


def test_the_folders_of_the_checkout_are_found(checkout):
    assert data_root() == checkout
    assert names(SPACES) == sorted(path.stem for path in (checkout / "search_spaces").glob("*.yaml"))
    assert "webface-sfr" in names(TRACKS) and "webface-sfr" in names(EXPERIMENTS)
    assert "benchmarks" not in names(EXPERIMENTS)  # a folder without an experiment.yaml is no recipe


def test_a_name_resolves_to_its_file(checkout):
    assert resolve(SPACES, "ir_se") == checkout / "search_spaces" / "ir_se.yaml"
    assert resolve(TRACKS, "webface-main") == checkout / "latency" / "tracks" / "webface-main.yaml"
    assert resolve(EXPERIMENTS, "webface-main") == checkout / "experiments" / "webface-main" / "experiment.yaml"


def test_a_path_resolves_to_itself(tiny):
    for kind in (SPACES, TRACKS, EXPERIMENTS):
        assert resolve(kind, str(tiny)) == tiny
    assert resolve(EXPERIMENTS, str(tiny.parent)) == tiny  # the folder of an experiment stands for the file in it
    assert "no such file" in error_of(resolve, SPACES, str(tiny.parent))


def test_a_file_of_the_working_folder_resolves_by_its_ending(tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    assert resolve(SPACES, "space.yaml") == pathlib.Path("space.yaml")


def test_an_unknown_name_is_answered_with_the_known_ones():
    message = error_of(resolve, EXPERIMENTS, "webface-srf")
    assert "'webface-srf'" in message and "did you mean 'webface-sfr'?" in message and "insightface-ms1m" in message
    assert error_of(resolve, SPACES, "ir-se").startswith("search space 'ir-se' is not known; did you mean 'ir_se'?")


def test_a_missing_path_says_which_names_there_are():
    message = error_of(resolve, TRACKS, "no/such/track.yaml")
    assert message.startswith("no/such/track.yaml: no such file") and "webface-sfr" in message


def test_zennas_home_replaces_the_folders(tmp_path, monkeypatch):
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "mine.yaml").write_text("{}")
    monkeypatch.setenv("ZENNAS_HOME", str(tmp_path))
    assert data_root() == tmp_path
    assert names(SPACES) == ["mine"] and names(TRACKS) == []
    assert resolve(SPACES, "mine") == tmp_path / "search_spaces" / "mine.yaml"
    assert error_of(resolve, TRACKS, "webface-sfr").endswith("known: none; or give the path of a YAML file")


def test_a_wrong_zennas_home_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_HOME", str(tmp_path))
    message = error_of(data_root)
    assert message.startswith(f"ZENNAS_HOME={tmp_path}: ") and "'search_spaces'" in message


@pytest.mark.parametrize("num", [0, 1, 5, 6, 40, 1234])
def test_a_list_in_a_message_says_how_many_it_leaves_out(num):
    text = some([f"n{number}" for number in range(num)])
    named = [word for word in re.split(r", | and ", text) if word.startswith("n")]
    assert len(named) == min(num, NAMED)
    assert text.endswith(f" and {num - NAMED:,} more") == (num > NAMED)
    assert some(["n0"], num).endswith("more") == (num > 1)  # of a list that was cut before


def test_what_is_known_is_listed_with_the_number_of_what_is_not_named():
    assert suggestion("x", [f"n{number:03d}" for number in range(100)]).endswith("n039 and 60 more")


@pytest.mark.parametrize("length", [299, 300, 301, 400, 5000])
def test_a_long_text_in_a_message_says_how_much_it_leaves_out(length):
    text = first_line(ValueError("x" * length))
    left_out = int(re.findall(r"\((.*) more characters\)", text)[0].replace(",", "")) if "more" in text else 0
    assert text.count("x") + left_out == length
    assert len(text) < 340
