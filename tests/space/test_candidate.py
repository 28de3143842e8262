import hashlib
import io
import json

import hypothesis
import hypothesis.strategies as st
import pydantic
import pytest
import yaml

from zennas.records import UserError
from zennas.space.candidate import EXAMPLE, Candidate, read_candidates

IR_SE_100 = Candidate(block="ir_se", stem=64, widths=(64, 128, 256, 512), depths=(3, 13, 30, 3))
IR_18 = Candidate(block="ir", stem=64, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))

STAGES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4)
CANDIDATES = st.builds(
    lambda block, stem, stages: Candidate(
        block=block, stem=stem, widths=tuple(w for w, _ in stages), depths=tuple(d for _, d in stages)
    ),
    st.sampled_from(["ir", "ir_se"]),
    st.integers(1, 40),
    STAGES,
)


def test_the_text_says_it_all():
    assert IR_SE_100.text == "ir_se-64-64x3-128x13-256x30-512x3"
    assert IR_SE_100.num_blocks == 3 + 13 + 30 + 3


@hypothesis.given(CANDIDATES, CANDIDATES)
def test_text_and_key_are_equal_exactly_when_the_candidates_are(one, other):
    assert (one.text == other.text) == (one == other) == (one.key == other.key)


@hypothesis.given(CANDIDATES)
def test_a_candidate_can_be_read_back_from_its_text(candidate):
    block, stem, *stages = candidate.text.split("-")
    pairs = [tuple(map(int, stage.split("x"))) for stage in stages]
    widths, depths = zip(*pairs, strict=True)
    assert Candidate(block=block, stem=int(stem), widths=widths, depths=depths) == candidate


def test_the_key_is_the_hash_of_the_text():
    """The ledger and the study keep keys: they may not change between versions, machines or runs (hash() would)."""
    assert IR_SE_100.key == hashlib.sha256(b"ir_se-64-64x3-128x13-256x30-512x3").hexdigest()[:16]
    assert len(IR_18.key) == 16 and IR_18.key != IR_SE_100.key


def test_a_candidate_is_a_value():
    again = Candidate(**IR_SE_100.plain())
    _ = IR_SE_100.text, IR_SE_100.key  # computed once and kept: that must not make two equal candidates differ
    assert again == IR_SE_100 and hash(again) == hash(IR_SE_100)
    assert {again: 1}[IR_SE_100] == 1 and len({again, IR_SE_100, IR_18}) == 2
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        again.stem = 8


def test_a_changed_copy_has_its_own_text_and_key():
    """model_copy copies what is kept, too: a mutant that kept its parent's key would never be scored."""
    _ = IR_SE_100.text, IR_SE_100.key
    copy = IR_SE_100.model_copy(update={"block": "ir"})
    assert copy.text == "ir-64-64x3-128x13-256x30-512x3"
    assert copy.key == Candidate(**IR_SE_100.plain() | {"block": "ir"}).key != IR_SE_100.key


@hypothesis.given(CANDIDATES)
def test_yaml_and_json_bring_it_back(candidate):
    assert Candidate(**yaml.safe_load(yaml.safe_dump(candidate.plain()))) == candidate
    assert Candidate(**json.loads(json.dumps(candidate.plain()))) == candidate
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": [3, 10**12, 1, 1]}, "depths.1: given 1000000000000, allowed: less than or equal to 65536"),
        ({"stem": 0}, "stem: given 0, allowed: greater than or equal to 1"),
        ({"widths": [64, -1, 256, 512]}, "widths.1: given -1"),
        ({"depths": [3, 13, 0, 3]}, "depths.2: given 0"),
        ({"depths": [3, 13, 30]}, "as many depths as widths, at least one; given 4 widths and 3 depths"),
        ({"widths": [], "depths": []}, "given 0 widths and 0 depths"),
        ({"stem": 64.5}, "stem: given 64.5"),
        ({"widths": 64}, "widths: given 64"),
        ({"width": [64]}, "key 'width' is not known; did you mean 'widths'?"),
    ],
)
def test_what_is_no_candidate_is_refused(change, words):
    with pytest.raises(UserError) as caught:
        Candidate.parse(IR_SE_100.plain() | change, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ") and words in str(caught.value)


YAML_ONE = "block: ir_se\nstem: 64\nwidths: [64, 128, 256, 512]\ndepths: [3, 13, 30, 3]\n"
ONE_LINE = {name: json.dumps(candidate.plain()) for name, candidate in (("100", IR_SE_100), ("18", IR_18))}
WINNERS = [{"key": c.key, "candidate": c.plain(), "scores": {"zen": 1.0}} for c in (IR_SE_100, IR_18)]
NAMED = {"mine": IR_SE_100.plain(), "other": IR_18.plain()}
FORMS = {
    "YAML block": (YAML_ONE, ["{}"]),
    "YAML flow": (EXAMPLE, ["{}"]),
    "YAML flow over two lines": (EXAMPLE.replace("widths", "\n  widths"), ["{}"]),
    "JSON over many lines": (json.dumps(IR_SE_100.plain(), indent=2), ["{}"]),
    "JSON lines": (f"{ONE_LINE['100']}\n\n{ONE_LINE['18']}\n", ["{}, line 1", "{}, line 3"]),
    "flow lines with a comment": (f"# mine\n{EXAMPLE}\n{ONE_LINE['18']}", ["{}, line 2", "{}, line 3"]),
    "YAML list": (f"- {EXAMPLE}\n- {ONE_LINE['18']}", ["{}, entry 1", "{}, entry 2"]),
    "JSON list": (json.dumps([IR_SE_100.plain(), IR_18.plain()]), ["{}, entry 1", "{}, entry 2"]),
    "JSON list over many lines": (f"[\n{ONE_LINE['100']},\n{ONE_LINE['18']}\n]", ["{}, entry 1", "{}, entry 2"]),
    "winners.json": (json.dumps(WINNERS, indent=2), ["{}, entry 1", "{}, entry 2"]),
    "YAML mapping of names": (yaml.safe_dump(NAMED), ["{}, mine", "{}, other"]),
    "JSON mapping of names over many lines": (json.dumps(NAMED, indent=2), ["{}, mine", "{}, other"]),
    "JSON mapping of names in one line": (json.dumps(NAMED), ["{}, mine", "{}, other"]),
    "one winner in one line": (json.dumps(WINNERS[0]), ["{}"]),
    "one winner over many lines": (json.dumps(WINNERS[0], indent=2), ["{}"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_candidates_is_read(form, tmp_path, monkeypatch):
    text, at = FORMS[form]
    path = tmp_path / "candidates.txt"
    path.write_text(text)
    expected = [IR_SE_100, IR_18][: len(at)]
    names, candidates = zip(*read_candidates(str(path)), strict=True)
    assert list(candidates) == expected
    # Several are told apart; of a single one the file's name is enough.
    assert [name.removesuffix(", line 1") if len(at) == 1 else name for name in names] == [n.format(path) for n in at]
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert [candidate for _, candidate in read_candidates("-")] == expected


BAD = {
    "nothing": ("", "{}: holds no candidate; one looks like {{block: ir_se"),
    "only a comment": ("# nothing yet\n", "{}: holds no candidate"),
    "an empty list": ("[]", "{}: holds no candidate"),
    "an empty mapping": ("{}", "{}"),
    "words": ("IR-SE-100", "{}: expected keys and values (family, form, block, stem, widths, depths), got str"),
    "a list of words": ("- IR-SE-100", "{}, entry 1: expected keys and values"),
    "a bad second entry": (f"- {EXAMPLE}\n- {{block: ir}}", "{}, entry 2: key 'stem' is missing"),
    "a bad third line": (f"{EXAMPLE}\n\n{{block: ir, stem: 0}}", "{}, line 3: stem: given 0"),
    "a broken third line": (f"{EXAMPLE}\n\n{{block: ir", "{}, line 3"),
    "a bad one among names": (yaml.safe_dump({"a": {"stem": 3}}), "{}, a: key 'block' is missing"),
    "broken YAML": ("a: [1\nb: 2", "{}, line 2: not valid YAML"),
}


@pytest.mark.parametrize("form", BAD)
def test_a_bad_entry_is_named(form, tmp_path):
    text, words = BAD[form]
    path = tmp_path / "candidates.txt"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_candidates(str(path))
    assert str(caught.value).startswith(words.format(path))


def test_a_file_that_is_not_there_is_named(tmp_path):
    (tmp_path / "backbone.pth").write_bytes(b"PK\x80\xff")
    with pytest.raises(UserError, match=r"backbone\.pth: is no text; .* python -m zennas\.export --model "):
        read_candidates(str(tmp_path / "backbone.pth"))
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read: No such file"):
        read_candidates(str(tmp_path / "none.yaml"))


def test_standard_input_is_named(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("[]"))
    with pytest.raises(UserError, match=r"^standard input: holds no candidate"):
        read_candidates("-")
