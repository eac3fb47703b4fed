"""A real Prometheus on loopback that scrapes a cluster of integration/cluster.py, and what to ask it."""
import json
import pathlib
import re
import socket
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

import cluster as tessera

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ALERTS = ROOT / "charts" / "alerts"
CLUSTER = "test"
TRIES = 5  # another process may take a free port between our look and Prometheus'


def metrics_text(part):
    with urllib.request.urlopen(f"http://{part.endpoints()['metrics']}/metrics", timeout=60) as page:
        return page.read().decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def job_of(part):
    return part.binary if isinstance(part.binary, str) else part.binary.name


class Prometheus:
    """Scrapes and evaluates every second. start(), then values(); end with stop(). A part with a `label` counts as one
    of the cluster of that name."""

    def __init__(self, parts):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-prometheus-"))
        self.parts = parts
        self.process = None
        self.port = None

    def configuration(self):
        """In JSON, which is YAML."""
        jobs = {}
        for part in self.parts:
            jobs.setdefault(job_of(part), []).append({
                "targets": [part.endpoints()["metrics"]], "labels": {"cluster": getattr(part, "label", CLUSTER)}})
        return {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(path) for path in sorted(ALERTS.glob("*.rules.yaml"))],
            "scrape_configs": [{"job_name": job, "static_configs": targets} for job, targets in jobs.items()]}

    def start(self):
        path = self.folder / "prometheus.yaml"
        path.write_text(json.dumps(self.configuration()))
        for attempt in range(TRIES):
            self.port = free_port()
            with open(self.folder / "log", "ab") as log:
                self.process = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", "prometheus", f"--config.file={path}",
                     f"--storage.tsdb.path={self.folder / 'data'}",
                     f"--web.listen-address=127.0.0.1:{self.port}"],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            tessera.wait_until(lambda: self.process.poll() is not None or self.ready(), "Prometheus", 120)
            if self.process.poll() is None:
                return self
        raise RuntimeError(f"Prometheus ended {TRIES} times:\n{(self.folder / 'log').read_text()[-3000:]}")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, path, **parameters):
        """The "data" of an answer. AssertionError with Prometheus' words when it refuses."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{parameters}: {refusal.read().decode()}") from refusal

    def values(self, expression):
        """The numbers that an expression gives now, without those that are none."""
        found = [float(sample["value"][1]) for sample in self.ask("query", query=expression)["result"]]
        return [number for number in found if number == number]  # NaN differs from itself

    def names(self):
        return set(self.ask("label/__name__/values"))

    def rules(self):
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]


def metric_names(expression):
    """Names of metrics in a PromQL expression: what is left without labels, ranges, functions and words."""
    text = re.sub(r"\{[^{}]*\}", "", expression)
    text = re.sub(r"\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    words = re.findall(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", text)
    return set(words) - {"and", "or", "unless", "bool", "offset", "by", "without"} - {"d", "h", "m", "s"}
