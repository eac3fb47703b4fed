"""Programs in the namespaces of pods and containers, started by node_launch.py."""
import json
import pathlib
import socket
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent


class StartError(Exception):
    """A process could not be started."""


class Process:
    """A program in the namespaces of a pod or a container, through node_launch.py."""

    def __init__(self, spec, **streams):
        ours, theirs = socket.socketpair()
        with theirs:
            self._launcher = subprocess.Popen(
                [sys.executable, "-E", "-S", HERE / "node_launch.py", str(theirs.fileno())], start_new_session=True,
                pass_fds=[theirs.fileno()], **{"stdin": subprocess.DEVNULL, **streams})
        self._control = ours
        self._lines = ours.makefile("rb")
        self._lock = threading.Lock()
        try:
            ours.sendall(json.dumps(spec).encode() + b"\n")
            message = json.loads(self._lines.readline() or b'{"error": "the launcher ended"}')
        except OSError as error:
            message = {"error": str(error)}
        if "error" in message:
            self._launcher.wait()
            self._close()
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    stream.close()
            raise StartError(message["error"])
        self.pid = message["started"]

    def wait(self):
        """The exit code; 128 + the number of a signal. For one thread."""
        line = self._lines.readline()
        self._launcher.wait()
        self._close()
        return json.loads(line)["exit"] if line else 137

    def signal(self, number):
        with self._lock:
            if self._control is not None:
                try:
                    self._control.sendall(json.dumps({"signal": int(number)}).encode() + b"\n")
                except OSError:
                    pass  # it has just ended

    def _close(self):
        with self._lock:
            self._lines.close()
            self._control.close()
            self._control = None

    @property
    def stdin(self):
        return self._launcher.stdin

    @property
    def stdout(self):
        return self._launcher.stdout

    @property
    def stderr(self):
        return self._launcher.stderr
