"""Workers that cannot begin leave no connection to Ray behind: a script that searches again would meet it. A private
Ray begins whatever a container or a cluster makes of HOME and TMPDIR, and in any thread."""

import os

import pytest

from tests.processes import forked
from zennas import ray_connection
from zennas.records import UserError
from zennas.search import workers as of_workers
from zennas.search.workers import MeasuringError, Workers


@pytest.mark.parametrize("part", ["_find_device", "_scorers"])
@pytest.mark.parametrize("error", [UserError, MeasuringError, KeyboardInterrupt])
def test_whatever_stops_the_workers_ends_their_connection(part, error, monkeypatch):
    calls = []

    def fail(self, argument):
        raise error("no")

    monkeypatch.setattr(of_workers, "connect", lambda *_, **__: calls.append("connect"))
    monkeypatch.setattr(of_workers, "keep_off_standard_output", lambda: None)
    monkeypatch.setattr(of_workers.ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(Workers, "_find_device", lambda self, tag: None)
    monkeypatch.setattr(Workers, part, fail)
    with pytest.raises(error):
        Workers(1)
    assert calls == ["connect", "shutdown"]


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_sockets_lie_in_a_folder_with_a_short_name(variable, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, "/scratch")
    assert ray_connection._short_folder() == {}
    monkeypatch.setenv(variable, "/scratch" * 5)
    assert ray_connection._short_folder() == {"_temp_dir": f"/tmp/ray-{os.getuid()}"}
    monkeypatch.setattr(ray_connection, "TMP", str(tmp_path / "nowhere"))
    with pytest.raises(
        UserError, match=f"^{variable}=/scratch.*: has 40 bytes, .*107 .*; set RAY_TMPDIR to a folder of"
    ):
        ray_connection._short_folder()


@pytest.mark.parametrize("given", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", None])
def test_a_token_that_cannot_be_kept_at_home_is_kept_nowhere(given, monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is taken back
        monkeypatch.delenv(name)
    if given:
        monkeypatch.setenv(given, "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    ray_connection._keep_token()
    assert os.environ.get("RAY_AUTH_TOKEN") == ("mine" if given == "RAY_AUTH_TOKEN" else None)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    ray_connection._keep_token()
    token = os.environ.get("RAY_AUTH_TOKEN")
    assert token == "mine" if given == "RAY_AUTH_TOKEN" else token is None if given else len(token) == 64


@pytest.mark.slow
def test_a_private_ray_begins_in_a_thread_without_a_home_and_with_a_long_tmpdir(tmp_path):
    (long := tmp_path / ("long" * 20)).mkdir()
    code = """if True:
        import threading
        from zennas.ray_address import keep_ray_on_loopback
        keep_ray_on_loopback()
        from zennas.ray_connection import connect

        def run():
            connect(None, say=print, num_cpus=1)
            import ray
            print(ray.get(ray.remote(lambda: 6 * 7).remote()), flush=True)
            ray.shutdown()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    """
    ended = forked(code, env=os.environ | {"TMPDIR": str(long), "HOME": "/dev/null"})
    assert ended.stdout.splitlines()[-1] == "42", ended.stderr
