"""The files of experiments/cluster: what Ray and a shell make of them."""

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from zennas.search.workers import DEVICE_RESOURCE

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "cluster"


def test_the_cluster_file_is_one_for_ray_and_tags_one_device():
    from ray.autoscaler._private.util import prepare_config, validate_config

    given = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
    validate_config(prepare_config(given))
    resources = {name: node["resources"] for name, node in given["available_node_types"].items()}
    assert [name for name, has in resources.items() if DEVICE_RESOURCE in has] == ["device"]
    assert resources["device"]["CPU"] == resources["head"]["CPU"] == 0  # no scorer beside drivers and measurements
    assert any(has.get("GPU") for has in resources.values()) and resources["scorer"]["CPU"] > 0
    commands = [*given["head_start_ray_commands"], *given["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)


def test_the_runtime_environment_holds_no_secret_and_builds_nothing():
    given = yaml.safe_load((FOLDER / "runtime_env.yaml").read_text())
    assert set(given) == {"excludes", "env_vars"} and set(given["env_vars"]) == {"PYTHONUNBUFFERED"}


def run(script, *words, folder, **environment):
    """What a script says and the words with which it calls `ray`, which here writes them down."""
    ray = folder / "ray"
    ray.write_text('#!/bin/sh\necho "$RAY_AUTH_MODE $*"\n')
    ray.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
    environment.pop("RAY_AUTH_MODE", None)
    return subprocess.run(
        ["bash", FOLDER / script, *words], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell")
def test_nodes_are_started_as_what_they_are(tmp_path):
    said = run("nodes.sh", "head", folder=tmp_path).stdout
    assert said.startswith("token start --block") and "--head" in said and "--num-cpus 0" in said
    assert "--dashboard-host 127.0.0.1" in said
    said = run("nodes.sh", "scorer", "10.0.0.1:6379", folder=tmp_path, CPUS="7").stdout
    assert "--address 10.0.0.1:6379" in said and "--num-cpus 7 --num-gpus 0" in said
    assert "num-gpus" not in run("nodes.sh", "gpu-scorer", "10.0.0.1:6379", folder=tmp_path).stdout
    said = run("nodes.sh", "device", "10.0.0.1:6379", folder=tmp_path).stdout
    assert '--num-cpus 0 --resources {"latency_device": 1}' in said
    said = run("nodes.sh", "device", "10.0.0.1:6379", "phone", folder=tmp_path, ADDRESS="10.0.0.9").stdout
    assert '{"latency_device:phone": 1}' in said and "--node-ip-address 10.0.0.9" in said
    wrong = run("nodes.sh", "tail", "10.0.0.1:6379", folder=tmp_path)
    assert wrong.returncode == 2 and "nodes.sh head" in wrong.stderr
    assert run("nodes.sh", "scorer", folder=tmp_path).returncode != 0


def test_a_job_is_submitted_for_every_island_without_a_password(tmp_path):
    said = run("job.sh", "--minutes", "3", folder=tmp_path, ISLANDS="3", TRACK="webface-main").stdout.splitlines()
    assert len(said) == 3 and len(set(said)) == 1
    for word in (
        "job submit --no-wait --working-dir .",
        "--track webface-main",
        "--storage @/etc/zennas/storage",
        "--islands 3",
        "--address auto",
        "--minutes 3",
    ):
        assert word in said[0]
