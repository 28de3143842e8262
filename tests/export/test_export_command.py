import json
import pathlib

import numpy as np
import pytest
import torch
import yaml

import zennas
from tests.embed.public_networks import Body, IResNet, public, seeded_state, tface_layers
from tests.weights import weights_of
from zennas.embed.checkpoint import load_network
from zennas.export.__main__ import main
from zennas.export.onnx_file import metadata_of, open_session
from zennas.export.options import Options
from zennas.export.run import check, read
from zennas.space.candidate import read_candidates


@pytest.fixture
def command(ended_cleanly, tiny, tmp_path, monkeypatch):
    """command(*words, code=0) -> (standard output, standard error) of `zennas export --track TINY ...`."""
    monkeypatch.chdir(tmp_path)
    return lambda *words, code=0: ended_cleanly(main, *words, "--track", tiny, code=code)


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
    network = Body(tface_layers, (1, 1), stem=16, widths=(16, 32), size=65, px=32)
    torch.save(seeded_state(network), "r18.pth")
    out, _ = command("--model", "r18.pth", "--no-latency")
    words = " ".join(out.split())
    for text in (
        "r18.pth: IR or IR-SE (face.evoLVe, TFace)",
        "ir_tface-16-16x1-32x1",
        "3 x 32 x 32, RGB",
        "65 numbers",
        "not measured (--no-latency)",
        "would refuse it: ",  # embeddings of 65 numbers, where 64 are allowed
        "runs/r18-exported/model.onnx",
        "-m zennas.evaluate --model runs/r18-exported --set lfw.bin",
        "--from runs/r18-exported/network.pt --data DATA",
        "-m zennas.score runs/r18-exported/candidate.yaml",
        "-m zennas.submit --track",
    ):
        assert text in words, (text, out)


def test_a_network_of_other_images_is_not_sent_where_it_is_refused(command):
    """`train --from` and `score` take a candidate at the images of the track's space alone."""
    fits = fitting()
    other = IResNet((1, 2), stem=16, widths=(16, 32), size=64, px=64)
    seeded_state(other)
    for name, network in (("fits", fits), ("other", other.eval())):
        torch.save(network.state_dict(), f"{name}.pth")
    rooms = {
        name: [words[2] for words in json.loads(command("--model", f"{name}.pth", "--no-latency", "--json")[0])["next"]]
        for name in ("fits", "other")
    }
    assert {"zennas.train", "zennas.score"} <= set(rooms["fits"])
    assert rooms["other"] and not {"zennas.train", "zennas.score"} & set(rooms["other"])


def test_the_same_network_again_is_the_same_and_another_is_moved_aside_when_asked(command):
    torch.save(fitting().state_dict(), "backbone.pth")
    words = ("--out", "mine", "--no-latency")
    command("--model", "backbone.pth", *words)
    before = weights_of(pathlib.Path("mine/model.onnx").read_bytes())
    # What it wrote is a network of ours: the same, whatever the file.
    out, _ = command("--model", "mine", *words, "--json")
    assert json.loads(out)["read_as"] == "a zennas checkpoint"
    after = weights_of(pathlib.Path("mine/model.onnx").read_bytes())
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    torch.save(public("evolve se").state_dict(), "backbone.pth")
    _, err = command("--model", "backbone.pth", *words, code=2)
    assert "mine: holds a run with other settings (network: " in err and "--fresh" in err
    out, _ = command("--model", "backbone.pth", *words, "--fresh")
    assert "ir_se_evolve-16-16x2-32x1" in out and pathlib.Path("mine.old-1/model.onnx").is_file()
    trained = pathlib.Path("trained")
    trained.mkdir()
    (trained / "network.pt").write_bytes(b"precious")
    _, err = command("--model", "backbone.pth", "--out", "trained", "--no-latency", code=2)
    assert "is not empty and holds no run" in err and (trained / "network.pt").read_bytes() == b"precious"


def test_a_network_that_learned_from_bgr_is_turned_round(tiny, tmp_path):
    theirs = fitting()
    torch.save(theirs.state_dict(), tmp_path / "backbone.pth")
    ours = read(check(Options(model=tmp_path / "backbone.pth", track=str(tiny), colour="bgr"))).network
    with torch.no_grad():
        expected_BD = theirs(images(32).flip(1))
        assert torch.allclose(ours(images(32)), expected_BD, rtol=0, atol=1e-5 * float(expected_BD.abs().max()))


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
