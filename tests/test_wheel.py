"""The package as a wheel, installed elsewhere than in the checkout: it finds its spaces, tracks and experiments
there."""

import os
import subprocess
import sys
import zipfile

import pytest

DATA = "zennas/_data/"  # where the folders beside the package lie inside a wheel


@pytest.mark.slow
def test_wheel_carries_its_yaml_folders_and_runs_elsewhere(tmp_path, checkout):
    def run(*command, **environment):
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(checkout))
    (wheel,) = (tmp_path / "dist").glob("zennas-*.whl")
    inside = {item.filename: item.file_size for item in zipfile.ZipFile(wheel).infolist()}
    assert {"zennas/py.typed", "zennas/__init__.pyi"} <= set(inside)
    assert {"zennas/README.md", "zennas/train/README.md", "zennas/_data/search_spaces/ir_se.yaml"} <= set(inside)
    carried = {name.removeprefix(DATA) for name in inside if name.startswith(f"{DATA}experiments/")}
    recipes = {str(path.relative_to(checkout)) for path in checkout.glob("experiments/*/experiment.yaml")}
    assert carried == recipes | {"experiments/schema.json"}
    shipped = {
        name.removeprefix(DATA) for name in inside if name.startswith((f"{DATA}latency/", f"{DATA}search_spaces/"))
    }
    assert shipped == {str(path.relative_to(checkout)) for path in checkout.glob("latency/**/*.*")} | {
        str(path.relative_to(checkout)) for path in checkout.glob("search_spaces/*")
    }
    assert not [name for name in inside if name.endswith((".html", ".png")) and name.startswith(DATA)]
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    site = {"PYTHONPATH": str(tmp_path / "site")}

    found = run(
        sys.executable, "-c", "import zennas.records as r; print(r.data_root(), *r.names(r.EXPERIMENTS))", **site
    )
    root, *names = found.split()
    assert root == str(tmp_path / "site" / "zennas" / "_data")
    assert {"webface-sfr", "webface-main", "insightface-ms1m"} <= set(names)

    listing = run(
        sys.executable, "-m", "zennas.score", "--baselines", "--no-latency", "--repeats", "1", "--csv", **site
    )
    assert listing.count("\n") == 7  # a header and the six baselines
