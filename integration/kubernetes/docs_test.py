#!/usr/bin/env python3
"""docs/kubernetes, page by page: every command runs as it stands there, against a real control plane whose nodes run
the containers as processes. Between the pages it is seen that they did what they say: a load that judges every answer
goes on while servers come and go, and no data is lost.

The tests of the class are one life of a cluster, in the order of their names.
"""
import json
import pathlib
import re
import shutil
import ssl
import sys
import unittest
import urllib.error
import urllib.request

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent.parent),
                str(pathlib.Path(__file__).resolve().parent.parent / "faults")]
# pylint: disable=wrong-import-position
from cluster import BIN, ROOT, wait_until
from kubernetes_cluster import CRDS, KubernetesCluster
from kubernetes_prometheus import KubernetesPrometheus
from load import VerifyingLoad
from prometheus import metric_names

PAGES = ROOT / "docs/kubernetes"
ORDER = ["install", "first-volume", "monitoring", "scale", "upgrade", "replace-a-disk", "certificates", "uninstall"]
SEED = 47
# The percentile is of reads that are not in the page cache: on a machine with enough memory there are none.
MAY_BE_EMPTY = {"Disk read"}
RECEIVERS = """
[[target]]
name = "pager"
type = "json"
url = "http://127.0.0.1:9/"
"""
ELSEWHERE = re.compile(r"<!-- run by (\S+) -->\n```\n(.*?)```", re.S)
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.S | re.M)
FENCE = re.compile(r"^```(\S*)", re.M)


def blocks_of(page):
    """The commands of a page, a text each."""
    return BLOCK.findall((PAGES / f"{page}.md").read_text())


class PagesTest(unittest.TestCase):
    """That no command escapes the test below."""

    def test_every_page_is_in_the_order(self):
        self.assertEqual(sorted([*ORDER, "README"]), sorted(page.stem for page in PAGES.glob("*.md")))
        index = (PAGES / "README.md").read_text()
        self.assertEqual(ORDER, re.findall(r"^\| \[(\S+)\.md\]", index, re.M))

    def test_every_block_is_run_here_or_says_where(self):
        for page in PAGES.glob("*.md"):
            text = page.read_text()
            elsewhere = ELSEWHERE.findall(text)
            for where, commands in elsewhere:
                self.assertIn(commands.split()[0].split("/")[-1], (ROOT / where).read_text(), page)
            kinds = FENCE.findall(text)[::2]
            self.assertEqual(kinds.count(""), len(elsewhere), f"{page}: a block that nobody runs")
            self.assertLessEqual(set(kinds), {"sh", ""}, page)


class DocsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"seed {SEED}")
        cls.zones = {f"node{number}": f"zone-{'abcd'[number - 1]}" for number in (1, 2, 3, 4)}
        cls.kubernetes = KubernetesCluster({
            name: {"topology.kubernetes.io/zone": zone} for name, zone in cls.zones.items()}).start()
        cls.load = cls.prometheus = None
        cls.failed = False

    @classmethod
    def tearDownClass(cls):
        if cls.load is not None:
            cls.load.kill()
        if cls.prometheus is not None:
            cls.prometheus.stop()
        wrong = cls.kubernetes.stop()
        assert not wrong, "\n".join(wrong)

    def setUp(self):
        if type(self).failed:
            self.skipTest("a page before this one failed")

    def tearDown(self):
        result = self._outcome.result
        if any(test is self for test, _ in [*result.failures, *result.errors]):
            type(self).failed = True

    def page(self, name):
        """Runs a page in one shell. What it printed."""
        return self.kubernetes.shell("\n".join(blocks_of(name)))

    def pods(self, component):
        listed = json.loads(self.kubernetes.plane.kubectl(
            "--namespace", "tessera", "get", "pods", "--selector", f"app.kubernetes.io/component={component}",
            "--output", "json"))
        return {pod["metadata"]["name"]: pod for pod in listed["items"]}

    def listing(self, *command):
        return json.loads(self.kubernetes.toolbox("--output", "json", *command))

    def socket(self, node):
        return self.kubernetes.host_path(node, "/run/tessera/nbd.sock")

    def assert_load_goes_on(self, what):
        try:
            self.load.wait_for_progress(500, 300)
        except (TimeoutError, RuntimeError) as error:
            self.fail(f"{what}: {error}\n{self.kubernetes.describe()}")

    def test_1_install(self):
        self.page("install")
        self.assertEqual([], self.kubernetes.agent.problems)
        self.assertEqual({"tessera-sds-0", "tessera-sds-1", "tessera-sds-2"}, set(self.pods("sds")))
        self.assertEqual(4, len(self.pods("sdc")))
        # Copies are apart by the nodes' labels.
        topology = self.listing("topology")
        domain = topology["protection_domains"][0]
        names = {each["fault_set_id"]: each["name"] for each in domain["fault_sets"]}
        for server in domain["sdss"]:
            node = self.pods("sds")[server["name"]]["spec"]["nodeName"]
            self.assertEqual(self.zones[node], names[server["fault_set_id"]])

    def test_2_first_volume(self):
        printed = self.page("first-volume")
        self.assertIn("what was written was read back", printed)
        self.kubernetes.toolbox("volume", "create", "judged", "--pool", "pool1", "--size", "256MiB")
        self.kubernetes.toolbox("volume", "map", "judged", "--sdc", "node2")
        wait_until(lambda: any(each.get("attached") for each in self.listing("volume", "show", "judged")["mappings"]),
                   "the volume to be attached")
        type(self).load = VerifyingLoad(f"nbd+unix:///judged?socket={self.socket('node2')}", SEED, rate=200)
        self.assert_load_goes_on("after its start")

    def test_3_monitoring(self):
        for file in sorted(CRDS.glob("*.yaml")):
            if re.search(r"servicemonitors|podmonitors|prometheusrules", file.name):
                self.kubernetes.plane.kubectl("apply", "--server-side", "--filename", str(file))
        self.page("monitoring")
        # What has metrics only where it is used. (The receiver of notifications is not there.)
        self.kubernetes.plane.kubectl("--namespace", "tessera", "create", "secret", "generic", "receivers",
                                      f"--from-literal=notifications.toml={RECEIVERS}")
        self.kubernetes.shell("helm upgrade tessera charts/tessera --namespace tessera --reuse-values --wait --timeout 15m"
                              " --set sdc.cache.enabled=true --set sdc.cache.size=64Mi"
                              " --set mgmt.notifications.existingSecret=receivers")
        if shutil.which("prometheus") is not None:
            type(self).prometheus = KubernetesPrometheus(self.kubernetes.plane, self.kubernetes.agent.client)
            self.prometheus.start()
            wanted = {("tessera-mdm", "tessera-mdm-0"), *(("tessera-sds", f"tessera-sds-{i}") for i in range(3)),
                      *(("tessera-sdc", node) for node in self.zones)}

            def all_scraped():
                # The management service's pod has a name by chance.
                seen = self.prometheus.targets()
                return wanted <= seen and "tessera-mgmt" in {job for job, _ in seen}
            wait_until(all_scraped, "all parts to be scraped")
            self.assertEqual({"tessera-mgmt"}, {job for job, _ in self.prometheus.targets() - wanted})
        self.assert_load_goes_on("while monitoring came")

    def test_4_scale(self):
        blocks = blocks_of("scale")
        self.kubernetes.shell(blocks[0])
        self.assertIn("tessera-sds-3", self.pods("sds"))

        def moved():
            return any(device["placement_groups"] for server in self.listing("sds", "list")["sdss"]
                       if server["name"] == "tessera-sds-3" for device in server["devices"])
        wait_until(moved, "placement groups to move to the new server", 600)
        self.kubernetes.shell(blocks[1])
        # Too early: it holds data.
        refused = self.kubernetes.shell(re.search(r"helm upgrade.*replicaCount=3", blocks[2]).group(0), check=False)
        self.assertIn("servers that would go still hold data: tessera-sds-3", refused)
        self.assertIn("tessera-sds-3", self.pods("sds"))
        self.kubernetes.shell(blocks[2])
        wait_until(lambda: "tessera-sds-3" not in self.pods("sds"), "the server's pod to be gone")
        self.kubernetes.shell(blocks[3])
        self.assertEqual(4, len(blocks), "the page has other blocks now: run them here, too")
        self.kubernetes.wait_for_well()
        self.assert_load_goes_on("after servers came and went")

    def test_5_upgrade(self):
        # Each pod once at least, servers one after the other, under the load.
        before = {name: pod["metadata"]["uid"] for part in ("mdm", "sds", "sdc", "mgmt")
                  for name, pod in self.pods(part).items()}
        self.page("upgrade")
        after = {name: pod["metadata"]["uid"] for part in ("mdm", "sds", "sdc", "mgmt")
                 for name, pod in self.pods(part).items()}
        self.assertEqual(set(), set(before.values()) & set(after.values()), "a pod that was not restarted")
        self.kubernetes.wait_for_well()
        self.assert_load_goes_on("after all parts were restarted")

    def test_6_replace_a_disk(self):
        claims = ["--namespace", "tessera", "get", "pvc", "disk0-tessera-sds-1", "--output", "jsonpath={.spec.volumeName}"]
        before = self.kubernetes.plane.kubectl(*claims)
        self.page("replace-a-disk")
        self.assertNotEqual(before, self.kubernetes.plane.kubectl(*claims))
        self.kubernetes.wait_for_well()
        self.assert_load_goes_on("after a disk was replaced")

    def test_7_certificates(self):
        def serial():
            return self.kubernetes.shell(
                "kubectl --namespace tessera get secret tessera-mdm-tls --output jsonpath='{.data.tls\\.crt}'")
        before = serial()
        self.page("certificates")
        self.assertNotEqual(before, serial())
        restarts = [each["restartCount"] for part in ("mdm", "sds") for pod in self.pods(part).values()
                    for each in pod["status"]["containerStatuses"]]
        self.assertEqual(set(restarts), {0})
        self.assert_load_goes_on("after certificates were renewed")

    def test_8_what_prometheus_has_seen(self):
        """Every rule is evaluated, of metrics that exist; every query of every dashboard had data in this life."""
        if self.prometheus is None:
            self.skipTest("needs prometheus (Debian package prometheus)")
        self.visit_console()
        wait_until(lambda: "tessera_mgmt_http_requests_total" in self.prometheus.names(), "the visit to be counted")
        names = self.prometheus.names()
        rules = self.prometheus.rules()
        self.assertGreater(len(rules), 40)
        for rule in rules:
            with self.subTest(rule=rule["name"]):
                self.assertEqual(("ok", ""), (rule["health"], rule.get("lastError", "")))
                self.assertEqual(set(), metric_names(rule["query"]) - names, "no part has this metric")
        self.assertIsNone(self.prometheus.discovery.fault)
        boards = list(self.prometheus.dashboards())
        self.assertGreater(len(boards), 60)
        variables = {"cluster": "tessera", "instance": ".*", "volume": ".*", "service": ".*", "__rate_interval": "1m",
                     "__range": "5m"}
        empty = []

        def all_had_data():
            empty[:] = []
            for board, panel, expression in boards:
                expression = re.sub(r"\$(\w+)", lambda match: variables[match.group(1)], expression)
                if panel not in MAY_BE_EMPTY and not self.prometheus.had_values(expression):
                    empty.append(f"{board}, {panel}: {expression}")
            return not empty
        try:
            wait_until(all_had_data, "data", 120)  # a rate needs two scrapes
        except TimeoutError:
            self.fail("no data:\n" + "\n".join(empty))

    def visit_console(self):
        """Pages, one that is not there, and a sign-in of nobody."""
        name, pod = next(iter(self.pods("mgmt").items()))
        self.assertIn("mgmt", name)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        base = f"https://{pod['status']['podIP']}:5000"
        sign_in = urllib.request.Request(f"{base}/tessera.v1.AuthService/SignIn", data=b"\0" * 5,
                                         headers={"Content-Type": "application/grpc-web+proto"})
        answers = []
        for _ in range(10):
            for request in (f"{base}/", f"{base}/nothing", sign_in):
                try:
                    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                        answers.append(answer.status)
                except urllib.error.HTTPError as refusal:
                    answers.append(refusal.code)
        self.assertIn(200, answers)

    def test_9_uninstall(self):
        verdict = self.load.verdict()
        type(self).load = None
        print(verdict)
        self.assertEqual(0, verdict["violations"], verdict)
        self.assertEqual({}, verdict["errors"], "clients that were replaced answered with errors")
        self.assertTrue(verdict["read_back"])
        # Ends with 8 while copies move.
        wait_until(lambda: self.kubernetes.shell(
            "kubectl --namespace tessera exec deploy/tessera-toolbox -- tessera volume verify judged || true")
            .rstrip().endswith(", 0 different, 0 copies not in sync"), "all copies to be equal")
        blocks = blocks_of("uninstall")
        refused = self.kubernetes.shell("helm uninstall tessera --namespace tessera --wait --timeout 5m", check=False)
        self.assertIn("there are 2 volumes: data1, judged", refused)
        self.kubernetes.toolbox("volume", "unmap", "judged")
        self.kubernetes.toolbox("volume", "delete", "judged")
        self.kubernetes.shell("\n".join(blocks[:2]))
        volumes = [each["name"] for each in self.listing("volume", "list")["volumes"]]
        self.assertEqual(["data1"], volumes)
        # What was written before is there.
        binary = BIN / "tessera"
        wait_until(lambda: self.socket("node1").exists(), "the client's socket")
        self.kubernetes.shell(f"set +o pipefail; nbdcopy 'nbd+unix:///data1?socket={self.socket('node1')}' - |"
                              f" head --bytes {binary.stat().st_size} | cmp - {binary}")
        self.kubernetes.shell("\n".join(blocks[2:]))
        wait_until(lambda: not self.kubernetes.plane.kubectl("get", "pv", "--output", "name").strip(), "disks to be given back")
        for node in self.zones:
            self.assertEqual([], list(self.kubernetes.host_path(node, "/var/lib/tessera").iterdir()))


if __name__ == "__main__":
    unittest.main(verbosity=2)
