import json
import pathlib

import numpy as np
import pytest
import torch
import yaml

import zennas
from tests.embed.public_networks import PUBLIC, Body, IResNet, public, seeded_state, tface_layers
from tests.weights import weights_of
from zennas.embed.checkpoint import load_network
from zennas.export.__main__ import main
from zennas.export.onnx_file import metadata_of, open_session
from zennas.space.candidate import read_candidates


@pytest.fixture
def command(capsys, tiny, cache, tmp_path, monkeypatch):
    """command(*words, code=0) -> (standard output, standard error) of `zennas export --track TINY ...`."""
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--track", str(tiny)])
        out, err = capsys.readouterr()
        assert ended.value.code == code and "Traceback" not in out + err, (ended.value.code, out, err)
        if code == 2:
            assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
        return out, err

    return run


def fitting():
    """An IResNet of the sizes of the tiny track's space, its weights drawn."""
    network = IResNet((1, 2), stem=16, widths=(16, 32), size=64, px=32)
    seeded_state(network)
    return network.eval()


def images(px, batch=3):
    return torch.randn(batch, 3, px, px, generator=torch.Generator().manual_seed(2))


def test_a_network_comes_out_in_every_form(command):
    theirs = fitting()
    torch.save({"state_dict_backbone": theirs.state_dict(), "epoch": 3}, "backbone.pth")
    out, _ = command("--model", "backbone.pth", "--out", "mine", "--budget-ms", "50", "--json")
    record, folder = json.loads(out), pathlib.Path("mine")
    assert record == json.loads((folder / "export.json").read_text())
    assert (record["text"], record["place"], record["left_aside"]) == (
        "ir-16-16x1-32x2",
        "state_dict_backbone",
        ["epoch"],
    )
    # as PyTorch answers there: to 1e-4, over any batch
    image_BCHW = images(32)
    with torch.no_grad():
        expected_BD = theirs(image_BCHW).numpy()
    answer_BD = open_session((folder / "model.onnx").read_bytes()).run(None, {"image": image_BCHW.numpy()})[0]
    assert np.abs(answer_BD - expected_BD).max() < 1e-4 * np.abs(expected_BD).max()
    with torch.no_grad():
        assert np.abs(load_network(folder)(image_BCHW).numpy() - expected_BD).max() < 1e-5 * np.abs(expected_BD).max()
    ((_, candidate),) = read_candidates(str(folder / "candidate.yaml"))
    assert candidate.plain() == record["candidate"] == yaml.safe_load((folder / "candidate.yaml").read_text())
    assert metadata_of((folder / "model.onnx").read_bytes())["trained"] == "yes"
    latency = record["latency"]
    assert len(latency["raw_ms"]) == 10 and latency["within_budget"] == (latency["measured_ms"] <= latency["budget_ms"])
    assert latency["budget_ms"] == 50 and "--budget-ms 50" in record["budget_origin"]
    assert record["params"] == sum(weight.numel() for weight in theirs.parameters())


def test_what_it_prints_names_the_files_and_goes_on(command):
    torch.save(fitting().state_dict(), "r18.pth")
    out, _ = command("--model", "r18.pth", "--no-latency")
    words = " ".join(out.split())
    for text in (
        "IResNet (insightface's arcface_torch)",
        "ir-16-16x1-32x2",
        "3 x 32 x 32, RGB",
        "64 numbers",
        "not measured (--no-latency)",
        "runs/r18-exported/model.onnx",
        "-m zennas.evaluate --model runs/r18-exported --set lfw.bin",
        "--from runs/r18-exported/network.pt --data DATA",
        "-m zennas.score runs/r18-exported/candidate.yaml",
        "-m zennas.submit --track",
    ):
        assert text in words, (text, out)
    assert "would refuse it" not in words


def test_the_same_again_is_the_same_and_another_is_moved_aside_when_asked(command):
    torch.save(fitting().state_dict(), "backbone.pth")
    words = ("--model", "backbone.pth", "--out", "mine", "--no-latency")
    command(*words)
    before = weights_of(pathlib.Path("mine/model.onnx").read_bytes())
    command(*words)
    after = weights_of(pathlib.Path("mine/model.onnx").read_bytes())
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    torch.save(public("tface").state_dict(), "backbone.pth")
    _, err = command(*words, code=2)
    assert "mine: holds a run with other settings (network: " in err and "--fresh" in err
    out, _ = command(*words, "--fresh")
    assert "ir_tface-16-16x2-32x1" in out and pathlib.Path("mine.old-1/model.onnx").is_file()
    trained = pathlib.Path("trained")
    trained.mkdir()
    (trained / "network.pt").write_bytes(b"precious")
    _, err = command("--model", "backbone.pth", "--out", "trained", "--no-latency", code=2)
    assert "is not empty and holds no run" in err and (trained / "network.pt").read_bytes() == b"precious"


def test_a_network_of_ours_is_taken_and_what_the_track_refuses_is_said(command):
    torch.save(PUBLIC["evolve se"][1]().state_dict(), "small.pth")  # 16 px; fine for a track that asks for 64 numbers
    command("--model", "small.pth", "--out", "one", "--no-latency")
    out, _ = command("--model", "one", "--out", "two", "--no-latency", "--json")
    assert json.loads(out)["read_as"] == "a zennas checkpoint"
    assert all(
        torch.equal(one, two)
        for one, two in zip(load_network("one").parameters(), load_network("two").parameters(), strict=True)
    )
    large = Body(tface_layers, (1, 1), stem=16, widths=(16, 32), size=65, px=32)
    torch.save(seeded_state(large), "large.pth")
    out, _ = command("--model", "large.pth", "--no-latency")
    assert "would refuse it: " in out and "65" in out


def test_a_network_that_learned_from_bgr_is_turned_round(command):
    theirs = fitting()
    torch.save(theirs.state_dict(), "backbone.pth")
    command("--model", "backbone.pth", "--out", "mine", "--no-latency", "--colour", "bgr")
    image_BCHW = images(32)
    with torch.no_grad():
        expected_BD = theirs(image_BCHW.flip(1)).numpy()
        assert np.allclose(load_network("mine")(image_BCHW).numpy(), expected_BD, atol=1e-5 * np.abs(expected_BD).max())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "nowhere.pth"), "--model nowhere.pth: no such file; allowed: a zennas checkpoint"),
        (("--model", "text.pth"), "--model text.pth: not a network of zennas"),
        (
            ("--model", "text.pth", "--no-latency", "--budget-ms", "3"),
            "--budget-ms and --backend are about the latency",
        ),
        (("--model", "text.pth", "--backend", "abacus"), "abacus"),
        (("--model", "text.pth", "--colour", "pink"), "pink"),
        ((), "'--model'"),
        (("--model", "nan.pth"), "--model nan.pth: "),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(command, words, message):
    pathlib.Path("text.pth").write_text("hello")
    state = fitting().state_dict()
    state["conv1.weight"].fill_(torch.nan)
    torch.save(state, "nan.pth")
    _, err = command(*words, code=2)
    assert message in err and not list(pathlib.Path().rglob("*.onnx"))


def test_the_file_of_old_still_hands_out_its_functions():
    from zennas.export import export, open_session

    assert export is zennas.export.onnx_file.export and callable(open_session)
    with pytest.raises(ImportError):
        from zennas.export import nothing  # noqa: F401
