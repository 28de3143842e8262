"""Real servers for the tests of the store: a PostgreSQL of their own, and Optuna's gRPC proxy."""

import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

PASSWORD = "only-for-this-test"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def find(program):
    """The path of one of PostgreSQL's programs, or None: Debian keeps them out of PATH."""
    return shutil.which(program) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{program}"))), None)


class Postgres:
    """A PostgreSQL server on loopback, with its data in a folder; wants a password, as one that is reached by network
    should.
    """

    def __init__(self):
        # Not in one of pytest's folders, which are its user's alone.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="zennas-postgres-"))
        self.data, self.port, secret = self.folder / "data", free_port(), self.folder / "password"
        # The server refuses to run as root, and Debian's package brings a user for it.
        root = os.geteuid() == 0
        self.as_user = {"user": "postgres", "group": pwd.getpwnam("postgres").pw_gid} if root else {}
        secret.write_text(PASSWORD)
        if root:
            for path in (self.folder, secret):
                shutil.chown(path, "postgres")
        self._run(find("initdb"), "-D", self.data, "-U", "zennas", f"--pwfile={secret}", "-A", "scram-sha-256", "-N")
        self.start()
        self.create("faces")

    def _run(self, *command):
        subprocess.run([*map(str, command)], check=True, capture_output=True, cwd="/", timeout=60, **self.as_user)

    def start(self):
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data} -c "
            f"max_connections=200"
        )
        self._run(find("pg_ctl"), "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def stop(self, mode="immediate"):
        """As a crash would: connections end in the middle of what they do."""
        self._run(find("pg_ctl"), "-D", self.data, "-w", "-m", mode, "stop")

    def restart(self, down_s=3.0):
        self.stop()
        time.sleep(down_s)
        self.start()

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder)

    def create(self, database):
        """A new, empty database; its URL."""
        import psycopg

        with psycopg.connect(f"{self.libpq} dbname=postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    @property
    def libpq(self):
        return f"host=127.0.0.1 port={self.port} user=zennas password={PASSWORD}"

    def url(self, database="faces"):
        return f"postgresql://zennas:{PASSWORD}@127.0.0.1:{self.port}/{database}"


class Proxy:
    """Optuna's gRPC proxy in front of a database, as the README starts it."""

    def __init__(self, url, folder):
        self.port, self.log = free_port(), open(pathlib.Path(folder) / "proxy.log", "w")  # noqa: SIM115
        self.command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            textwrap.dedent(f"""
            from optuna.storages import get_storage, run_grpc_proxy_server
            run_grpc_proxy_server(get_storage({url!r}), host="127.0.0.1", port={self.port})
        """),
        ]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)

    def stop(self):
        self.process.kill()
        self.process.wait()

    @property
    def url(self):
        return f"grpc://127.0.0.1:{self.port}"
