"""What a network is fed, how it is timed, and what its time decides."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.submit.conftest import network, scaled, verdicts
from zennas.export.onnx_file import open_session
from zennas.latency.budget import LocalBudget
from zennas.latency.protocol import Measurement
from zennas.submit.runtime import run_rules, time_rule, time_verdict
from zennas.track import Protocol

AMPLE = ("--budget-ms", "1000")
SINGLE = Protocol(backend="onnxruntime-cpu", num_runs=4, kth_fastest=2)
STAND_IN = "stand-in: it is measured elsewhere"


# --- what is fed

OVERFLOWING = 3e35  # outputs of 4.9 (pixels of -1 to 1) and of 470 (0 to 255), summed over 32 images; 3.4e38 ends it


def test_the_checkers_run_feeds_what_the_normalisation_says():
    model = scaled(OVERFLOWING).SerializeToString()
    options = {"batch": 32, "image": (3, 32, 32)}
    fed = {
        name: {rule.name: rule.verdict for rule in run_rules(model, normalise=name, **options)}["finite"]
        for name in ("insightface", "none")
    }
    assert fed == {"insightface": "kept", "none": "broken"}


@pytest.mark.parametrize(("factor", "verdicts_there"), [(1.0, []), (0.0, ["noted"])])
def test_a_network_that_answers_all_images_alike_is_noted(factor, verdicts_there):
    """No checker looks, and it recognises nobody."""
    rules = run_rules(scaled(factor).SerializeToString(), normalise="insightface", batch=32, image=(3, 32, 32))
    assert [rule.verdict for rule in rules if rule.name == "two images"] == verdicts_there


def ending_in(*shape):
    """The network whose embeddings have further axes."""
    model = network()
    model.graph.node[-1].output[0] = "plain"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape]), "shape"))
    model.graph.node.append(helper.make_node("Reshape", ["plain", "shape"], ["embedding"], name="Reshape"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", *shape]))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("shape", "verdict", "measured"), [((8, 1, 1), "kept", "32 x 8 x 1 x 1"), ((2, 2, 2), "broken", "32 x 2 x 2 x 2")]
)
def test_an_embedding_that_is_not_flattened_is_taken_as_judges_take_it(shape, verdict, measured):
    rules = run_rules(ending_in(*shape), normalise="insightface", batch=32, image=(3, 32, 32), max_embedding_size=8)
    assert {rule.name: (rule.verdict, rule.measured) for rule in rules}["batch of 32"] == (verdict, measured)
    assert all(rule.verdict == "kept" for rule in rules) == (verdict == "kept")


@pytest.mark.parametrize("normalise", [None, "insightface", "none"])
@pytest.mark.parametrize(("names", "finite"), [((), "kept"), (("Sub_1", "Mul_2"), "broken")])
def test_what_insightfaces_checker_feeds_is_not_the_users_to_say(submitted, flat, saved, normalise, names, finite):
    """It goes by the names of nodes; --normalise says what the model needs, and the rule whether the two agree."""
    words = ["--track", flat, "--model", saved(scaled(OVERFLOWING, *names)), *AMPLE]
    _, record = submitted(*words, *(["--normalise", normalise] if normalise else []))
    assert verdicts(record)["finite"] == finite
    agreed = normalise == ("none" if names else "insightface")
    assert verdicts(record)["normalisation"] == ("noted" if not normalise else "kept" if agreed else "broken")


# --- the network's time


def budget_of(ms, **changes):
    given = {"budget_ms": ms, "origin": "from there", "stand_in": None, "scale": None, "reference_ms": None}
    return LocalBudget(**(given | changes))


def measured(*raw_ms):
    protocol = Protocol(backend="onnxruntime-cpu", num_runs=len(raw_ms), kth_fastest=2)
    return Measurement(raw_ms=raw_ms, protocol=protocol, machine="", date="", versions={}, load_average=3.5)


CALM, NOISY = measured(9, 10, 10, 10.1), measured(9, 10, 15, 20)


@pytest.mark.parametrize(("budget_ms", "verdict", "where"), [(10, "kept", "within"), (9.99, "broken", "over")])
def test_the_time_against_its_budget(budget_ms, verdict, where):
    rule = time_verdict(CALM, budget_of(budget_ms), of_the_challenge=True)
    assert (rule.name, rule.verdict, rule.measured) == ("time", verdict, "10.00 ms (2 of 4)")
    assert rule.said == f"10.00 ms, {where} the budget of {budget_ms:.2f} ms: from there"
    part = time_verdict(CALM, budget_of(budget_ms), of_the_challenge=False)
    assert part.verdict == "noted" and part.said == rule.said and part.name != rule.name


@pytest.mark.parametrize("measurement", [CALM, NOISY])
@pytest.mark.parametrize(("budget_ms", "where"), [(10, "within"), (9.99, "over")])
def test_a_stand_in_decides_nothing(measurement, budget_ms, where):
    rule = time_verdict(measurement, budget_of(budget_ms, stand_in=STAND_IN), of_the_challenge=True)
    assert rule.verdict == "not judged here" and rule.measured == "10.00 ms (2 of 4, stand-in)"
    assert rule.limit == f"<= {budget_ms:.2f} ms" and "the verdict may be chance" not in rule.said
    assert rule.said.startswith(f"10.00 ms, {where} the budget of {budget_ms:.2f} ms: from there; {STAND_IN}")
    part = time_verdict(measurement, budget_of(budget_ms, stand_in=STAND_IN), of_the_challenge=False)
    assert part.verdict == "noted" and STAND_IN in part.said


@pytest.mark.parametrize(("budget_ms", "verdict"), [(10, "kept"), (9.99, "broken")])
def test_a_noisy_time_is_judged_and_its_sentence_says_that_it_is_noisy(budget_ms, verdict):
    # Quartiles of 9, 10, 15, 20: 9.75 and 16.25, around a median of 12.5.
    rule = time_verdict(NOISY, budget_of(budget_ms), of_the_challenge=True)
    assert rule.verdict == verdict and "spread by 52.0 % of their median" in rule.said and "load 3.5" in rule.said
    assert rule.said.endswith("; the verdict may be chance: measure again when the machine is quiet")
    part = time_verdict(NOISY, budget_of(budget_ms), of_the_challenge=False)
    assert "spread by 52.0 %" in part.said and "chance" not in part.said  # there is no verdict


def test_a_fixed_batch_is_timed_with_one_image_as_the_checker_does():
    fixed = network(batch=4).SerializeToString()
    image = np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(Exception, match=r"(?i)invalid dimensions"):
        open_session(fixed).run(None, {"image": image})
    rule, latency = time_rule(fixed, SINGLE, budget_of(1000), of_the_challenge=True)
    assert rule.verdict == "kept" and len(latency.raw_ms) == 4


def test_a_network_that_does_not_run_breaks_the_time_on_a_stand_in_too():
    model = network()
    model.graph.node[0].op_type = "Convolution"
    rule, latency = time_rule(
        model.SerializeToString(), SINGLE, budget_of(1000, stand_in=STAND_IN), of_the_challenge=True
    )
    assert (rule.verdict, rule.measured, latency) == ("broken", "does not run", None)
