"""Python in processes of its own, which may be stopped and killed: forked from a server that has imported zennas and
its third parties already, in 0.02 s each, where a new interpreter takes three seconds."""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


MODULE = """
import runpy, sys
module = sys.argv.pop(1)
sys.modules.pop(f"{module}.__main__", None)  # the server imported it
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def _child(program, arguments, folder, environment, own_group, stdout, stderr):
    if own_group:
        os.setsid()
    for stream, number in ((stdout, 1), (stderr, 2)):
        os.dup2(stream.fileno(), number)
        stream.close()
    tempfile.tempdir = None  # the server may have looked it up in another environment
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # multiprocessing's own end of a process leaves them out


class Forked:
    """`python -c PROGRAM ARGUMENTS` under way, as subprocess.Popen(..., text=True) has it: standard output and error
    are pipes. own_group: in a process group of its own, as a shell gives it one."""

    def __init__(self, program, *arguments, cwd=None, env=None, own_group=False):
        pipes = [SERVER.Pipe(duplex=False) for _ in range(2)]
        words, folder = [str(argument) for argument in arguments], str(cwd or os.getcwd())
        ends = [writer for _, writer in pipes]
        given = (program, words, folder, dict(env or os.environ), own_group, *ends)
        self.process = SERVER.Process(target=_child, args=given)
        self.process.start()
        for end in ends:
            end.close()
        self.stdout, self.stderr = (os.fdopen(os.dup(reader.fileno()), encoding="utf-8") for reader, _ in pipes)
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=120):
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("program", timeout)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.process.kill()

    def communicate(self, timeout=120):
        """(standard output, standard error), read until every process that holds them has ended."""
        said = {}

        def read(stream):
            said[stream] = stream.read()

        threads = [threading.Thread(target=read, args=(stream,), daemon=True) for stream in (self.stdout, self.stderr)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired("program", timeout)
        self.wait(timeout)
        return said[self.stdout], said[self.stderr]


def forked(program, *arguments, timeout=120, **options):
    """A Forked to its end, as subprocess.run gives it."""
    process = Forked(program, *arguments, **options)
    try:
        stdout, stderr = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(["-c", *arguments], process.returncode, stdout, stderr)


def stopped_between_parts(child, out, number, code):
    """{table of a part: when it was written} of a run in parts that gets a signal once two parts are done, and ends
    with a code and without a traceback.
    """
    tables, deadline = (out / "parts").glob, time.monotonic() + 60
    while len(list(tables("part-??????.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    _, error = child.communicate(timeout=60)
    assert child.returncode == code and "Traceback" not in error
    return {path: path.stat().st_mtime_ns for path in tables("part-??????.parquet")}
