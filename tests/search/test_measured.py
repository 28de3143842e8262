"""The record of a network that was measured whole, and the files that hold it."""

import json
import pathlib

import pytest

from zennas.records import UserError
from zennas.search.measured import Measured, parse_lines

PUBLISHED = pathlib.Path(__file__).parents[2] / "experiments" / "webface-sfr" / "winners.json"


@pytest.mark.parametrize("lacks", [(), ("elsewhere",)])
def test_a_published_file_is_read_and_written_byte_for_byte(lacks):
    """One that is older than the further devices of a cluster, too: what it lacks is not written into it."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    older = [{name: value for name, value in values.items() if name not in lacks} for values in published]
    winners = [Measured.parse(values, PUBLISHED) for values in older]
    assert all(entry.by_device == {} for entry in winners)
    text = PUBLISHED.read_text(encoding="utf-8") if not lacks else json.dumps(older, indent=2) + "\n"
    assert json.dumps([entry.plain() for entry in winners], indent=2) + "\n" == text


def test_a_line_is_read_and_written_byte_for_byte(space, make_entry):
    line = json.dumps(make_entry(space.cheapest()).plain())
    keys = ["role", "name", "key", "candidate", "score_mean", "score_std", "score", "params", "macs", "num_blocks"]
    keys += ["megabytes", "latency", "elsewhere", "export", "onnx", "verdict", "made_by"]
    assert list(json.loads(line)) == keys  # of a network whose search is not over yet
    entries, is_torn = parse_lines(line + "\n", "measured.jsonl")
    assert [json.dumps(entry.plain()) for entry in entries.values()] == [line] and not is_torn


def test_half_a_line_is_left_out_and_the_newest_of_a_key_counts(space, make_entry):
    entry = make_entry(space.cheapest())
    lines = [json.dumps(known.plain()) for known in (entry, entry.changed(role="winner"))]
    entries, is_torn = parse_lines("\n".join([*lines, lines[0][:100]]), "measured.jsonl")
    assert [known.role for known in entries.values()] == ["winner"] and is_torn


def test_a_line_of_another_format_is_one_clear_message(space, make_entry):
    values = make_entry(space.cheapest()).plain()
    values["zen_score"] = values.pop("score_mean")
    with pytest.raises(UserError, match=r"measured.jsonl, line 1: key 'zen_score' is not known") as error:
        parse_lines(json.dumps(values), "measured.jsonl")
    assert "'score_mean' is missing" in str(error.value)


def test_other_fields_are_refused_when_they_are_changed(space, make_entry):
    entry = make_entry(space.cheapest())
    with pytest.raises(ValueError, match="frozen"):
        entry.role = "winner"
    assert entry.changed(onnx="winner-1.onnx") == entry.model_copy(update={"onnx": "winner-1.onnx"})
