"""A real Prometheus scrapes a real cluster that has had a busy life: every page of metrics is as the conventions say,
every rule can be evaluated, and every query of every dashboard has an answer.

The life: IO of all kinds through NBD, calls that are refused, a server killed, its copies made anew elsewhere.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "faults")]
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
import pki  # noqa: E402  pylint: disable=wrong-import-position
import prometheus  # noqa: E402  pylint: disable=wrong-import-position

DASHBOARDS = prometheus.ROOT / "charts" / "dashboards"
METRICS_PAGE = prometheus.ROOT / "docs" / "operations" / "metrics.md"
VARIABLES = {"cluster": prometheus.CLUSTER, "instance": ".*", "volume": ".*", "service": ".*", "__rate_interval": "1m", "__range": "5m"}
# Panels that may have no answer in this cluster, and why; their metrics must exist all the same.
MAY_BE_EMPTY = {
    "Disk read": "the percentile is of reads that are not in the page cache: on a machine with enough memory there are none",
}
MIB = 1 << 20
# Longer than the cluster takes to get there on any machine that can run the rest of the tests.
STUCK = 300


def filled(expression):
    return re.sub(r"\$(\w+)", lambda match: VARIABLES[match.group(1)], expression)


def queries():
    """Dashboard, panel and expression of everything that a dashboard asks, variables included."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield board["title"], panel["title"], filled(target["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                selector, _ = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
                yield board["title"], f"variable {variable['name']}", filled(selector)


class Load:
    """IO of applications until it is ended, writes, zeroes, reads and flushes; and calls that the MDM refuses."""

    def __init__(self, cluster, uri, mgmt):
        self.cluster = cluster
        self.mgmt = mgmt
        self.uri = uri
        self.image = cluster.folder / "image"
        with open(self.image, "wb") as image:
            for _ in range(4):
                image.write(b"\x5a" * MIB)
                image.seek(MIB, 1)  # a hole: nbdcopy makes it a trim or a write of zeroes
            image.truncate(16 * MIB)
        self.done = threading.Event()
        self.fault = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            while not self.done.is_set():
                tessera.run(["nbdcopy", "--flush", self.image, self.uri])
                tessera.run(["nbdcopy", self.uri, "null:"])
                self.refused("--endpoint", self.cluster.mdm_address, "volume", "create", "volume", "--size", "16MiB")
                self.ask_console()
        except Exception as fault:  # pylint: disable=broad-except
            self.fault = fault

    @staticmethod
    def refused(*arguments):
        """A command that can't succeed."""
        try:
            tessera.run([tessera.BIN / "tessera", *arguments])
        except tessera.CommandFailed:
            return
        raise AssertionError(f"{arguments} should have been refused")

    def ask_console(self):
        """A browser that asks for what is not there, and signs in as nobody."""
        base = f"http://{self.mgmt.endpoints()['web']}"
        empty_message = b"\0" * 5
        sign_in = urllib.request.Request(f"{base}/tessera.v1.AuthService/SignIn", data=empty_message,
                                         headers={"Content-Type": "application/grpc-web+proto"})
        for request in (f"{base}/nothing", sign_in):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answer.read()
            except urllib.error.HTTPError:
                pass

    def end(self):
        self.done.set()
        self.thread.join()


@unittest.skipUnless(shutil.which("prometheus") and shutil.which("promtool") and shutil.which("nbdcopy"),
                     "needs prometheus, promtool and nbdcopy (Debian packages prometheus, libnbd-bin)")
class Scrape(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-"))
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.cluster = tessera.Cluster(
            folder, servers=3, devices=2, mdm_options=["--stale-after", "5s", "--heartbeat-interval", "200ms"],
            sdc_options=["--cache-dir", folder / "cache", "--cache-size", "16MiB"])
        (folder / "cache").mkdir(mode=0o700)
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start()
        cls.mgmt = cls.start_mgmt()
        cls.parts = [*cls.cluster.parts, cls.mgmt, cls.start_mdm_with_certificate()]
        cls.live()

    @classmethod
    def start_mgmt(cls):
        """With a receiver of notifications that is not there."""
        folder = cls.cluster.folder / "mgmt"
        receivers = cls.cluster.folder / "receivers.toml"
        receivers.write_text(f'[[target]]\nname = "pager"\ntype = "json"\n'
                             f'url = "http://127.0.0.1:{prometheus.free_port()}/"\n')
        receivers.chmod(0o600)
        mgmt = tessera.Part(cls.cluster, "mgmt", "tessera-mgmt", [
            "--state-dir", folder, "--insecure", "--mdm", cls.cluster.mdm_address, "--listen", "127.0.0.1:0",
            "--grpc-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--poll-interval", "1000",
            "--notification-config", receivers])
        cls.addClassCleanup(mgmt.end)
        return mgmt.start()

    @classmethod
    def start_mdm_with_certificate(cls):
        """Of a cluster of its own: only parts with certificates say until when these are good."""
        authority = pki.CertificateAuthority(cls.cluster.folder / "authority")
        mdm = tessera.Part(cls.cluster, "secure", "tessera-mdm", [
            "--state-dir", cls.cluster.folder / "secure", *authority.issue("mdm", "1", "127.0.0.1"),
            "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
        mdm.label = "secure"
        cls.addClassCleanup(mdm.end)
        return mdm.start()

    @classmethod
    def live(cls):
        cluster = cls.cluster
        cluster.create_pool(placement_groups=32)
        cluster.cli("rebuild", "settings", "--delay", "0s")
        cls.load = Load(cluster, cluster.create_volume("volume", "16MiB"), cls.mgmt)
        cls.addClassCleanup(cls.load.end)
        cls.prometheus = prometheus.Prometheus(cls.parts)
        cls.addClassCleanup(cls.prometheus.stop)
        cls.prometheus.start()
        tessera.wait_until(lambda: cls.prometheus.values("sum(tessera_sdc_io_requests_total) > 50"), "IO", STUCK)
        cluster.sds[2].kill()
        tessera.wait_until(lambda: cls.prometheus.values('tessera_mdm_component_lost{kind="sds"} == 1'), "the loss", STUCK)
        tessera.wait_until(lambda: cls.prometheus.values("sum(tessera_sds_learnings_completed_total) > 0"), "a rebuild", STUCK)

    def test_every_page_passes_promtool(self):
        for part in self.parts:
            if not part.alive():
                continue
            with self.subTest(part=part.name):
                result = subprocess.run(["promtool", "check", "metrics"], input=prometheus.metrics_text(part),
                                        capture_output=True, text=True, check=False)
                self.assertEqual((result.returncode, result.stdout + result.stderr), (0, ""))

    def test_every_metric_is_on_the_page_about_metrics_and_the_page_lists_no_other(self):
        listed = set(re.findall(r"^\| `(\w+)` \|", METRICS_PAGE.read_text(), re.MULTILINE))
        served = set()
        for part in self.parts:
            if part.alive():
                served |= set(re.findall(r"^# HELP (\w+) ", prometheus.metrics_text(part), re.MULTILINE))
        self.assertEqual(served - listed, set(), "not on the page")
        self.assertEqual(listed - served, set(), "on the page, but no part has it")

    def test_every_query_of_every_dashboard_has_an_answer(self):
        missing = []

        def all_answered():
            missing[:] = [(board, panel, expression) for board, panel, expression in queries()
                          if panel not in MAY_BE_EMPTY and not self.prometheus.values(expression)]
            return not missing
        try:
            tessera.wait_until(all_answered, "answers", STUCK)
        except TimeoutError:
            self.fail("no data:\n" + "\n".join(f"{board}, {panel}: {expression}" for board, panel, expression in missing))
        self.assertIsNone(self.load.fault)

    def test_what_may_be_empty_is_of_metrics_that_exist(self):
        asked = {panel: expression for _, panel, expression in queries()}
        for panel in MAY_BE_EMPTY:
            self.assertLessEqual(prometheus.metric_names(asked[panel]), self.prometheus.names())

    def test_every_rule_is_evaluated_without_error_and_of_metrics_that_exist(self):
        def evaluated():
            return all(rule["health"] != "unknown" for rule in self.prometheus.rules())
        tessera.wait_until(evaluated, "all rules to be evaluated", STUCK)
        recorded = {rule["name"] for rule in self.prometheus.rules() if rule["type"] == "recording"}
        tessera.wait_until(lambda: recorded <= self.prometheus.names(), f"{recorded}", STUCK)
        names = self.prometheus.names()
        for rule in self.prometheus.rules():
            with self.subTest(rule=rule["name"]):
                self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""))
                self.assertTrue(prometheus.metric_names(rule["query"]))
                self.assertEqual(prometheus.metric_names(rule["query"]) - names, set(), "no part has this metric")

    def test_the_alert_about_a_dead_server_is_on_its_way_and_names_it(self):
        def pending():
            return [alert for rule in self.prometheus.rules() if rule["name"] == "TesseraSdsDown" for alert in rule["alerts"]]
        tessera.wait_until(pending, "the alert", STUCK)
        self.assertEqual([alert["labels"]["name"] for alert in pending()], ["sds3"])
        self.assertIn("sds3", pending()[0]["annotations"]["description"])


class MetricNames(unittest.TestCase):
    def test_are_found_in_an_expression_and_nothing_else_is(self):
        self.assertEqual(prometheus.metric_names(
            'sum by (a, le) (rate(x_total{b="c_d"}[5m] offset 1h)) / on (a) group_left (e) (y:z:p99 > 0.5) and abs(w) > 4 * 86400'),
            {"x_total", "y:z:p99", "w"})


if __name__ == "__main__":
    unittest.main()
