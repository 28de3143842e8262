"""Nodes of a Ray cluster on one machine, and hosts for them: network namespaces with cables that can be pulled, for
root.
"""

import collections
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from tests.search.servers import free_port


def possible():
    """Whether this process may make network namespaces."""
    if os.geteuid() or not shutil.which("ip"):
        return False
    name = f"zn{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        run("ip", "netns", "del", name)
    return made


def run(*words):
    subprocess.run([*map(str, words)], check=True, capture_output=True, timeout=30)


class Hosts:
    """Namespaces host 1 to N at 10.77.NET.1N, on one bridge."""

    def __init__(self, num, *, net=0):
        self.prefix, self.bridge = f"zn{os.getpid() % 10000}", f"zn{os.getpid() % 10000}br"
        self.names = [f"{self.prefix}h{host}" for host in range(1, num + 1)]
        self.addresses = [f"10.77.{net}.1{host}" for host in range(1, num + 1)]
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"10.77.{net}.1/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for name, address in zip(self.names, self.addresses, strict=True):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"{name}v", "master", self.bridge, "up")
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", device, "up")
            run("ip", "-n", name, "route", "add", "default", "via", f"10.77.{net}.1")

    def pull_cable(self, name):
        run("ip", "link", "set", f"{name}v", "down")

    def plug_in(self, name):
        run("ip", "link", "set", f"{name}v", "up")

    def remove(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], check=False, capture_output=True)


def below(pid):
    """All processes that a process has begun, and those that they have."""
    children = collections.defaultdict(list)
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children[parent].append(int(folder.name))
    found = list(children[pid])
    for one in found:
        found += children[one]
    return found


def without_loopback(environment):
    """An environment without what ray_address.keep_ray_on_loopback put there: a command in this very process may have
    called it, and a node with it takes no others in."""
    return {name: value for name, value in environment.items() if name != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}


def within(namespace):
    """The words that run a command in a network namespace, if one is given."""
    return ["ip", "netns", "exec", namespace] if namespace else []


class Node:
    """One `ray start` in the foreground, in a network namespace if it is given one."""

    def __init__(self, folder, *words, namespace=None):
        command = [
            *within(namespace),
            str(pathlib.Path(sys.executable).parent / "ray"),
            "start",
            *map(str, words),
            "--block",
        ]
        environment = without_loopback(os.environ) | {
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(pathlib.Path.cwd()),
        }
        self.log = open(folder / f"node-{free_port()}.log", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def kill(self):
        """As if its power went: its raylet, its workers, everything."""
        for process in [*below(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def said(self):
        self.log.seek(0)
        return self.log.read()


ASK = """
import sys, time, ray
address, num = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 120
while True:
    try:
        ray.init(address=address, log_to_driver=False)
        break
    except Exception:  # the head is not up yet
        ray.shutdown()
        if time.monotonic() > deadline:
            raise
        time.sleep(1)
while (alive := sum(node["Alive"] for node in ray.nodes())) < num and time.monotonic() < deadline:
    time.sleep(0.5)
sys.exit(alive != num and f"{alive} nodes came up, not {num}")
"""


class Cluster:
    """Nodes that are started one after the other, each once the one before it is up."""

    def __init__(self, folder):
        self.folder, self.nodes, self.address, self.inside = folder, [], None, []

    def head(self, *words, ip=None, namespace=None):
        """The first node, with the latency device unless the words say otherwise."""
        port = free_port()
        self.address, self.inside = f"{ip or '127.0.0.1'}:{port}", within(namespace)
        device = [] if "--resources" in words else ["--resources", '{"latency_device": 1}']
        where = ["--node-ip-address", ip] if ip else []
        # Its server for clients has a port of its own too: another head may run on this machine.
        ports = ["--port", port, "--ray-client-server-port", free_port()]
        return self._start(
            "--head", *ports, *where, "--include-dashboard", "false", *device, *words, namespace=namespace
        )

    def join(self, *words, ip=None, namespace=None):
        where = ["--node-ip-address", ip] if ip else []
        return self._start("--address", self.address, *where, *words, namespace=namespace)

    def _start(self, *words, namespace):
        self.nodes.append(Node(self.folder, *words, namespace=namespace))
        ask = [*self.inside, sys.executable, "-c", ASK, self.address, str(len(self.nodes))]
        ended = subprocess.run(
            ask, env=without_loopback(os.environ), capture_output=True, text=True, check=False, timeout=180
        )
        assert ended.returncode == 0, "\n".join([ended.stdout, ended.stderr, *(node.said() for node in self.nodes)])
        return self.nodes[-1]
