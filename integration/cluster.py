"""A real cluster of processes on loopback in one folder, every port chosen by the kernel.

Used by the integration tests and by tools/bench. Processes are ended by pid; nothing outlives stop().
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from sanitizer_reports import reports_in

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = pathlib.Path(os.environ.get("TESSERA_BIN", ROOT / "build/release/bin"))
GRPCURL = shutil.which("grpcurl")
# All time-outs of the tests are for a plain build; a sanitizer build is some times slower.
TIMEOUT_FACTOR = float(os.environ.get("TESSERA_TIMEOUT_FACTOR", "1"))


class CommandFailed(Exception):
    """A command ended with another exit code than 0."""

    def __init__(self, arguments, code, output):
        super().__init__(f"{' '.join(map(str, arguments))} ended with {code}:\n{output}")
        self.code = code
        self.output = output


def run(arguments, timeout=300, **options):
    """Runs a command to its end and returns its standard output."""
    result = subprocess.run([str(a) for a in arguments], capture_output=True, text=True,
                            timeout=timeout * TIMEOUT_FACTOR, check=False, **options)
    # An exit code alone could be the one that a test expects.
    if reports := reports_in(result.stderr):
        raise AssertionError("\n".join([" ".join(map(str, arguments)), *reports]))
    if result.returncode != 0:
        raise CommandFailed(arguments, result.returncode, result.stdout + result.stderr)
    return result.stdout


def wait_until(condition, what, timeout=60.0):
    """Polls until condition() is true. The bound is for a stuck cluster, not for a slow machine."""
    timeout *= TIMEOUT_FACTOR
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.05)


class Part:
    """One process with its state folder."""

    def __init__(self, cluster, name, binary, arguments):
        self.cluster = cluster
        self.name = name
        self.binary = binary
        self.arguments = arguments
        self.state = cluster.folder / name
        self.process = None
        self.ended_by_test = False
        self.prefix = []        # a command that runs the binary: nsenter, say
        self.environment = {}   # in addition to ours

    def start(self):
        self.state.mkdir(mode=0o700, exist_ok=True)
        endpoints = self.state / "endpoints"
        endpoints.unlink(missing_ok=True)
        log = open(self.cluster.folder / "log" / f"{self.name}.log", "ab")
        arguments = self.arguments() if callable(self.arguments) else self.arguments
        self.process = subprocess.Popen([*map(str, self.prefix), str(BIN / self.binary), *map(str, arguments)],
                                        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                        env={**os.environ, **self.environment})
        log.close()
        self.ended_by_test = False

        def ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log()[-4000:]}")
            return endpoints.exists()
        wait_until(ready, f"{self.name} to listen", 120)
        return self

    def endpoints(self):
        text = (self.state / "endpoints").read_text()
        return dict(line.split("=", 1) for line in text.splitlines())

    def log(self):
        path = self.cluster.folder / "log" / f"{self.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self):
        return self.process.pid

    def kill(self, number=signal.SIGKILL):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.ended_by_test = True
                self.process.wait(60 * TIMEOUT_FACTOR)

    def end(self):
        """Ends the process in good order and returns all that was wrong with it, as lines for a person."""
        faults = []
        if self.process is not None and not self.ended_by_test:
            ended = self.process.poll() is not None
            try:
                self.kill(signal.SIGCONT)
                self.kill(signal.SIGTERM)
            except subprocess.TimeoutExpired as late:
                self.kill(signal.SIGKILL)
                faults.append(f"{self.name} did not end within {late.timeout:.0f} s of SIGTERM")
            if ended or self.process.returncode != 0:
                faults.append(f"{self.name} ended {'by itself ' if ended else ''}with {self.process.returncode}; "
                              f"the end of its log:\n{self.log()[-3000:]}")
        return faults + [f"{self.name}: {report}" for report in reports_in(self.log())]

    def alive(self):
        return self.process is not None and self.process.poll() is None


class Cluster:
    """mdm, sds1..n, sdc, and mgmt where add_mgmt() was called. Call start(), then create_pool(), create_volume()."""

    def __init__(self, folder=None, servers=3, devices=1, mdm_options=(), sdc_options=()):
        self.own_folder = folder is None
        self.folder = pathlib.Path(folder or tempfile.mkdtemp(prefix="tessera-"))
        (self.folder / "log").mkdir(exist_ok=True)
        # What clients keep for their next lives: in memory, as by default, and gone with the cluster.
        self.memory = pathlib.Path(tempfile.mkdtemp(prefix="tessera-", dir="/dev/shm"))
        self.mdm = Part(self, "mdm", "tessera-mdm", [
            "--state-dir", self.folder / "mdm", "--insecure", "--listen", "127.0.0.1:0",
            "--metrics-listen", "127.0.0.1:0", *mdm_options])
        self.mgmts = []
        self.sds = [self._sds(i + 1, devices) for i in range(servers)]
        self.sdc = Part(self, "sdc", "tessera-sdc", lambda: [
            "--state-dir", self.folder / "sdc", "--resume-dir", self.memory, "--insecure", "--name", "sdc1",
            *self._join(),
            "--control-listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0",
            "--metrics-listen", "127.0.0.1:0", "--nbd-listen", "127.0.0.1:0", *sdc_options])

    def _join(self):
        return ["--mdm", self.mdm_address, "--join-token-file", self.folder / "mdm" / "join_token"]

    def _sds(self, number, devices):
        def arguments():
            state = self.folder / f"sds{number}"
            flags = ["--state-dir", state, "--insecure", "--name", f"sds{number}", *self._join(),
                     "--control-listen", "127.0.0.1:0", "--management-listen", "127.0.0.1:0",
                     "--metrics-listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0",
                     "--protection-domain", "domain1"]
            for device in range(1, devices + 1):
                path = state / f"device{device}"
                path.mkdir(parents=True, exist_ok=True)
                flags += ["--device", f"{path},pool=pool1"]
            return flags
        return Part(self, f"sds{number}", "tessera-sds", arguments)

    def add_mgmt(self, console=None, options=()):
        """One more management service, of which start() and stop() take care, too."""
        name = f"mgmt{len(self.mgmts) or ''}"
        part = Part(self, name, "tessera-mgmt", lambda: [
            "--state-dir", self.folder / name, "--insecure", "--mdm", self.mdm_address, "--listen", "127.0.0.1:0",
            "--grpc-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0",
            *(["--console-dir", console] if console else []), *options])
        self.mgmts.append(part)
        return part

    @property
    def parts(self):
        return [self.mdm, *self.sds, self.sdc, *self.mgmts]

    @property
    def mdm_address(self):
        return self.mdm.endpoints()["grpc"]

    def start(self):
        for part in self.parts:
            part.start()
        return self

    def restart_all(self):
        for part in self.parts:
            part.start()

    def kill_all(self):
        for part in self.parts:
            part.kill()

    def stop(self):
        """Ends every process and removes the folder. AssertionError when a process had ended by itself, ended
        with another exit code than 0, or left a sanitizer's report in its log."""
        faults = [fault for part in reversed(self.parts) for fault in part.end()]
        shutil.rmtree(self.memory, ignore_errors=True)
        if self.own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        if faults:
            raise AssertionError("\n".join(faults))

    def cli(self, *arguments, timeout=120):
        return run([BIN / "tessera", "--endpoint", self.mdm_address, *arguments], timeout=timeout)

    def cli_json(self, *arguments):
        return json.loads(self.cli("-o", "json", *arguments))

    def create_pool(self, replicas=2, placement_groups=64):
        self.cli("domain", "create", "domain1")
        self.cli("pool", "create", "pool1", "--domain", "domain1", "--replicas", replicas,
                 "--placement-groups", placement_groups)
        wait_until(lambda: self.pool_ready(), "the pool's devices", 60)

    def pool_ready(self):
        devices = [device for sds in self.cli_json("sds", "list").get("sdss", []) for device in sds["devices"]]
        return devices and all(d["pool_id"] != "0" and d["placement_groups"] > 0 for d in devices)

    def verify(self, name):
        """All copies of a volume that nobody writes have the same content. Copies that are being made are waited for: the
        cluster evens itself out whenever it likes."""
        def all_in_sync():
            try:
                answer = self.cli("volume", "verify", name)
            except CommandFailed as error:
                if error.code != 8:  # degraded
                    raise
                answer = error.output
            if ", 0 different" not in answer:
                raise AssertionError(answer)
            return ", 0 copies not in sync" in answer
        wait_until(all_in_sync, f"all copies of {name} to be in sync", 180)

    def create_volume(self, name, size="1GiB"):
        """Creates and maps a volume and returns its NBD URI on the unix socket."""
        self.cli("volume", "create", name, "--size", size)
        self.cli("volume", "map", name)
        return self.nbd_uri(name)

    def nbd_uri(self, name, unix=True):
        mapping = self.cli_json("volume", "show", name)["mappings"][0]
        for uri in mapping["nbd_uris"]:
            if uri.startswith("nbd+unix" if unix else "nbd://"):
                return uri
        raise LookupError(f"no {'unix' if unix else 'TCP'} URI in {mapping}")

    def grpcurl(self, method, request=None, address=None, header=None):
        """One call by grpcurl, request and answer as dictionaries."""
        arguments = [GRPCURL, "-plaintext", "-emit-defaults", "-d", json.dumps(request or {})]
        if header:
            arguments += ["-H", header]
        output = run([*arguments, address or self.mdm_address, f"tessera.v1.{method}"])
        decoder = json.JSONDecoder()
        answers, position = [], 0
        while position < len(output.rstrip()):
            while output[position].isspace():
                position += 1
            value, position = decoder.raw_decode(output, position)
            answers.append(value)
        return answers[0] if len(answers) == 1 else answers

    def metric(self, part, name):
        """Sum over all label sets of one metric."""
        import urllib.request
        with urllib.request.urlopen(f"http://{part.endpoints()['metrics']}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        total = 0.0
        for line in text.splitlines():
            if line.startswith(name) and line[len(name):len(name) + 1] in (" ", "{"):
                total += float(line.rsplit(" ", 1)[1])
        return total
