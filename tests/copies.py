"""Commands in processes of their own, without the many seconds that importing what they need takes.

A server (``python -m copies``) has imported it all; every command runs in a copy of it, alone or one of several that train
together, as where a cluster starts the processes. `pages` has a server of its own, whose copies run code blocks.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch


class Copy:
    """A command that runs in a copy.

    Attributes:
        pid: of its process.
    """

    def __init__(self, server, request):
        self._server, self._said = server, Path(request["said"])
        self._printed = Path(request["printed"])
        self.pid = server.ask({"start": request})

    def kill(self, number):
        os.kill(self.pid, number)

    def is_running(self):
        return self._server.ask({"status": self.pid}) is None

    def printed(self):
        """Return what it has printed so far, as far as it left its buffer."""
        return self._printed.read_text() if self._printed.exists() else ""

    def wait(self, seconds=300):
        """Return the status, negative for a signal's, and what was said to the user."""
        end = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > end:
                self.kill(signal.SIGKILL)
                raise TimeoutError(f"{self.pid} took more than {seconds} s: {self._said.read_text()}")
            time.sleep(0.02)
        return self._server.ask({"status": self.pid}), self._said.read_text()


class Copies:
    """The server, as seen by a test; starts when it is first needed.

    Args:
        module: what runs as the server.
    """

    def __init__(self, module="copies"):
        self._module, self._process, self._folder, self._count = module, None, TemporaryDirectory(), 0

    def start(self, *arguments, environment=(), most_bytes=0, **more):
        """Start a command; no file that it writes may have more than ``most_bytes``, 0 for any.

        ``first=("module", "function", argument, …)`` is called in the copy before: it may replace what the command calls.
        """
        self._count += 1
        return Copy(
            self,
            {
                "arguments": list(map(str, arguments)),
                "environment": dict(environment),
                "most_bytes": most_bytes,
                "said": f"{self._folder.name}/{self._count}",
                "printed": f"{self._folder.name}/{self._count}.printed",
                **more,
            },
        )

    def run(self, *arguments, **options):
        """Return the status of a command, and what it said."""
        return self.start(*arguments, **options).wait()

    def start_two(self, *arguments):
        """Start two processes of one training."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
        return [
            self.start(*arguments, "--trainer.devices=2", environment={**common, "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]

    def run_two(self, *arguments):
        """Let two processes of one training end well."""
        for status, said in [copy.wait() for copy in self.start_two(*arguments)]:
            assert status == 0, said

    def ask(self, request):
        if self._process is None:
            found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(found)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(60)
        self._folder.cleanup()


def start(request, run):
    """Return the process id of a copy that runs what is asked for."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        for number, target in ((0, os.devnull), (1, request["printed"]), (2, request["said"])):
            os.dup2(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
        if request["most_bytes"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["most_bytes"],) * 2)
        os.environ.update(request["environment"])
        status = run(request)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve(run):
    """Let ``run(request)`` return the status of each copy that is asked for, until nobody asks any more."""
    # A copy of a process with threads can hang; a shell starts what runs in its background deaf to Ctrl-C.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    statuses = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = start(request["start"], run)
        else:
            pid = request["status"]
            if statuses.get(pid) is None:
                ended, status = os.waitpid(pid, os.WNOHANG)
                statuses[pid] = os.waitstatus_to_exitcode(status) if ended else None
            answer = statuses[pid]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import torchmetrics.detection  # noqa: F401  (so that the copies have it)
    from lightning.pytorch.utilities import rank_zero_only

    import involution.commands.training
    import involution.data
    import involution.models  # noqa: F401
    from involution.commands.main import main

    def command(request):
        if "folder" in request:
            os.chdir(request["folder"])
        # Read from the environment when it was imported.
        rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", 0))
        if "first" in request:
            module, function, *given = request["first"]
            getattr(import_module(module), function)(*given)
        sys.argv = ["involution", *request["arguments"]]
        return main()

    serve(command)
