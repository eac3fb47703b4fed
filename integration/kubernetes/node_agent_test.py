"""The node agent does for pods what kubelet, a runtime, a network and a storage plug-in do, and says so where it does
not: plain pods of a real control plane, without Tessera but for one grpc probe.
"""
import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import control_plane  # noqa: E402  pylint: disable=wrong-import-position
from cluster import BIN, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from control_plane import ControlPlane  # noqa: E402  pylint: disable=wrong-import-position
from node_agent import NodeAgent, need_root_and_tools  # noqa: E402  pylint: disable=wrong-import-position
from node_api import ApiError  # noqa: E402  pylint: disable=wrong-import-position
from node_image import Image  # noqa: E402  pylint: disable=wrong-import-position
from node_namespace import PrivateNetwork  # noqa: E402  pylint: disable=wrong-import-position
from node_network import POLICY  # noqa: E402  pylint: disable=wrong-import-position
from node_spec import expand, quantity, refusals, selects  # noqa: E402  pylint: disable=wrong-import-position

FOREVER = "sleep infinity & wait"  # a shell as process 1 has no SIGTERM of its own: see ends()
SERVER = ["python3", "-m", "http.server", "8080", "--directory", "/srv"]
RESTRICTED = {"runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False,
              "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
NODES = {"node1": {"topology.kubernetes.io/zone": "a"}, "node2": {"topology.kubernetes.io/zone": "b"}}


def ends(script=""):
    """A shell that waits, and ends on SIGTERM."""
    return ["sh", "-c", f"trap 'exit 0' TERM; {script}\n{FOREVER}"]


def pod(name, command, labels=None, container=None, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name, **(labels or {})}},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [
                {"name": "main", "image": "tool:1", "command": command, **(container or {})}], **spec}}


def ready(item):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions") or [])


class SpecTest(unittest.TestCase):
    """The rules that need no cluster."""

    def test_what_is_not_known_is_refused_by_its_path(self):
        spec = pod("a", ["true"])["spec"]
        self.assertEqual(refusals(spec), [])
        spec["hostNetwork"] = True
        spec["runtimeClassName"] = "x"
        spec["containers"][0]["securityContext"] = {"privileged": True, "procMount": "Default"}
        self.assertEqual(sorted(refusals(spec)), [
            "spec.containers[0].securityContext.privileged: True is not supported",
            "spec.containers[0].securityContext.procMount is not supported",
            "spec.hostNetwork: True is not supported", "spec.runtimeClassName is not supported"])
        self.assertEqual(refusals({"ingress": [{"ports": [{"protocol": "SCTP"}]}]}, POLICY),
                         ["spec.ingress[0].ports[0].protocol: 'SCTP' is not supported"])

    def test_names_quantities_and_selectors_are_read_as_kubernetes_reads_them(self):
        self.assertEqual(expand("$(A)-$$(A)-$(B)-$A", {"A": "1"}), "1-$(A)-$(B)-$A")
        self.assertEqual([quantity(text) for text in ("250m", "1Ki", "2", "1e3")], [0.25, 1024, 2, 1000])
        self.assertRaises(ValueError, quantity, "1X")
        self.assertTrue(selects({}, None))
        expression = {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}
        self.assertEqual([selects(expression, labels) for labels in ({"a": "1"}, {"a": "2"}, {})], [False, True, True])


class NodeAgentTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need_root_and_tools()
        if reason := control_plane.missing():
            raise unittest.SkipTest(reason)
        folder = tempfile.TemporaryDirectory(prefix="tessera-nodes-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        network = PrivateNetwork().enter()
        cls.addClassCleanup(network.leave)
        cls.plane = ControlPlane(cls.folder / "plane", bind_address=network.ADDRESS).start()
        cls.addClassCleanup(cls.plane.stop)
        cls.agent = NodeAgent(cls.plane, cls.folder / "nodes", NODES, {
            "tool:*": Image(files={"/srv/hello": HERE / "node_agent_test.py"}),
            "tessera:*": Image(files={"/usr/bin/tessera-mdm": BIN / "tessera-mdm"}, user=(65532, 65532),
                               users={"tessera": (65532, 65532)}, entrypoint=["tessera-mdm"])}).start()
        cls.addClassCleanup(cls.agent.stop)

    def tearDown(self):
        problems, self.agent.problems[:] = list(self.agent.problems), []
        self.assertEqual(problems, [], "the agent could not do what was asked")

    def apply(self, *items):
        self.plane.kubectl("apply", "-f", "-", input={"apiVersion": "v1", "kind": "List", "items": list(items)})
        for item in items:
            if item["kind"] != "Pod":
                continue
            self.addCleanup(self.forget, item["metadata"]["name"])

    def forget(self, name):
        try:
            self.agent.client.delete(f"/api/v1/namespaces/default/pods/{name}", {"gracePeriodSeconds": 0})
        except ApiError as error:
            self.assertEqual(error.code, 404)

    def get(self, name, kind="pods"):
        return self.agent.client.get(f"/api/v1/namespaces/default/{kind}/{name}")

    def state(self, name):
        """The status of a pod's first container; an empty one while there is no such pod."""
        try:
            statuses = self.get(name)["status"].get("containerStatuses")
        except ApiError as error:
            self.assertEqual(error.code, 404)
            statuses = None
        return statuses[0] if statuses else {"state": {}, "restartCount": 0, "ready": False, "lastState": {}}

    def wait_ready(self, *names):
        for name in names:
            try:
                wait_until(lambda: ready(self.get(name)), f"pod {name} to be ready", 30)
            except TimeoutError as error:
                raise AssertionError(f"{error}\n{self.plane.kubectl('describe', 'pod', name)}") from None

    def run_in(self, name, script, code=0):
        """The output of a shell script in a pod."""
        found, output = self.agent.exec(name, ["sh", "-c", script])
        self.assertEqual(found, code, output)
        return output.strip()

    # Containers.

    def test_a_container_is_given_what_its_spec_says_and_nothing_more(self):
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}, "stringData": {"key": "xyz"}}
        env = [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
               {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
               {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "password", "key": "key"}}},
               {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
               {"name": "BOTH", "value": "$(NODE)/$(PASSWORD)"}]
        self.apply(secret, pod(
            "narrow", ends("echo $0 $BOTH >&2; echo $(BOTH)"), nodeName="node1",
            securityContext={"fsGroup": 3000, "supplementalGroups": [4000], "runAsGroup": 2000},
            container={"env": env, "securityContext": RESTRICTED, "workingDir": "/data",
                       "resources": {"limits": {"memory": "64Mi"}},
                       "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "ram", "mountPath": "/ram"},
                                        {"name": "token", "mountPath": "/token", "readOnly": True}]},
            volumes=[{"name": "data", "emptyDir": {}},
                     {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                     {"name": "token", "secret": {"secretName": "password", "defaultMode": 0o400}}]))
        self.wait_ready("narrow")
        self.assertEqual(self.run_in("narrow", "id -u; id -g; id -G; pwd").split(),
                         ["1000", "2000", "2000", "3000", "4000", "/data"])
        self.assertIn("node1/xyz", self.agent.logs("narrow"))
        self.assertEqual(self.run_in("narrow", "echo $ADDRESS $MEMORY $HOSTNAME; hostname"),
                         f"{self.agent.pod_ip('narrow')} {64 << 20} narrow\nnarrow")
        status = self.run_in("narrow", "grep -E 'Cap(Bnd|Eff)|NoNewPrivs' /proc/self/status | tr -s '\\t\\n' ' '")
        self.assertRegex(status, "CapEff: 0+ CapBnd: 0+ NoNewPrivs: 1")
        for path in ("/", "/etc", "/usr/bin", "/tmp", "/var/lib", "/run"):
            self.assertRegex(self.run_in("narrow", f"touch {path}/file 2>&1", 1), "Read-only|Permission denied")
        self.assertIn("Read-only", self.run_in("narrow", "touch /tmp/file 2>&1", 1))
        self.run_in("narrow", "echo x > /dev/null && head -c 1 /dev/urandom > /dev/shm/file")
        self.run_in("narrow", "touch /data/file /ram/file && test -g /data && test $(stat -c %g /ram/file) = 3000")
        self.assertIn("No space", self.run_in("narrow", "head -c 2M /dev/zero 2>&1 >/ram/big", 1))
        self.assertEqual(self.run_in("narrow", "cat /token/key; stat -Lc ' %a %g' /token/key"), "xyz 440 3000")
        unseen = self.run_in("narrow", "ls /root /home /var/lib/dpkg /etc/machine-id 2>&1 | grep -c 'No such\\|denied'")
        self.assertEqual(unseen, "3")
        self.assertEqual(self.run_in("narrow", "ls /sys/class/net").split(), ["eth0", "lo"])
        self.assertLess(int(self.run_in("narrow", "ls /proc | grep -c '^[0-9]'")), 8)

    def test_root_without_limits_may_write_to_its_own_files_only(self):
        self.apply(pod("wide", ends("touch /usr/bin/new /etc/new /new")))
        self.wait_ready("wide")
        self.run_in("wide", "ls /usr/bin/new /etc/new /new")
        self.assertFalse(pathlib.Path("/usr/bin/new").exists() or pathlib.Path("/new").exists())

    def test_a_pod_that_asks_for_more_than_the_agent_does_waits_and_says_why(self):
        self.apply(pod("greedy", ends(), shareProcessNamespace=True),
                   pod("root", ends(), securityContext={"runAsNonRoot": True}),
                   {**pod("imageless", ends()), "spec": {"containers": [{"name": "main", "image": "other:1"}]}})
        for name, why in (("greedy", "shareProcessNamespace"), ("root", "would run as root"),
                          ("imageless", "no image")):
            wait_until(lambda: why in json.dumps(self.state(name)["state"]), f"{name} to be refused", 20)
        self.assertIn("shareProcessNamespace", self.agent.problems.pop())

    def test_init_containers_run_in_order_before_the_others(self):
        def init(name, script):
            return {"name": name, "image": "tool:1", "command": ["sh", "-c", script],
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
        self.apply(pod("ordered", ends("echo main >> /data/order"),
                       container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
                       volumes=[{"name": "data", "emptyDir": {}}],
                       initContainers=[init("one", "echo one >> /data/order"),
                                       init("two", "test -e /data/again || { touch /data/again; exit 1; }; "
                                                   "echo two >> /data/order")]))
        self.wait_ready("ordered")
        self.assertEqual(self.run_in("ordered", "cat /data/order").split(), ["one", "two", "main"])
        statuses = self.get("ordered")["status"]["initContainerStatuses"]
        self.assertEqual([status["restartCount"] for status in statuses], [0, 1])

    def test_jobs_succeed_and_fail_with_their_pods(self):
        def job(name, script):
            return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
                "backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never", "containers": [
                    {"name": "main", "image": "tool:1", "command": ["sh", "-c", script],
                     "terminationMessagePolicy": "FallbackToLogsOnError"}]}}}}
        self.apply(job("good", "echo done"), job("bad", "echo broken; exit 7"))

        def condition(name):
            item = self.agent.client.get(f"/apis/batch/v1/namespaces/default/jobs/{name}")
            return {c["type"] for c in item["status"].get("conditions") or [] if c["status"] == "True"}
        wait_until(lambda: "Complete" in condition("good"), "the good job", 30)
        wait_until(lambda: "Failed" in condition("bad"), "the bad job", 30)
        pods = self.agent.client.get("/api/v1/namespaces/default/pods?labelSelector=job-name%3Dbad")["items"]
        ended = pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]
        self.assertEqual((pods[0]["status"]["phase"], ended["exitCode"], ended["message"]), ("Failed", 7, "broken\n"))
        self.plane.kubectl("delete", "job", "good", "bad")

    # Probes and ends.

    def test_probes_decide_who_is_restarted_and_who_is_sent_to(self):
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probed"}, "spec": {
            "selector": {"app": "probed"}, "ports": [{"port": 80, "targetPort": "http"}]}}
        quick = {"periodSeconds": 1, "failureThreshold": 2}
        self.apply(service, pod("probed", SERVER, container={
            "ports": [{"name": "http", "containerPort": 8080}],
            "startupProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 30},
            "readinessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/not-ready"]}, **quick},
            "livenessProbe": {"httpGet": {"path": "/hello", "port": "http"}, "terminationGracePeriodSeconds": 1,
                              **quick}}))
        self.wait_ready("probed")
        first = self.state("probed")

        def addresses():
            slices = self.agent.client.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
                                           "?labelSelector=kubernetes.io%2Fservice-name%3Dprobed")["items"]
            return [e["conditions"]["ready"] for item in slices for e in item.get("endpoints") or []]
        wait_until(lambda: addresses() == [True], "an endpoint", 20)
        self.run_in("probed", "touch /tmp/not-ready")
        wait_until(lambda: addresses() == [False], "the endpoint not to be ready", 20)
        self.assertEqual(self.state("probed")["restartCount"], 0)
        self.run_in("probed", "rm /srv/hello")
        wait_until(lambda: self.state("probed")["restartCount"] == 1, "a restart", 20)
        self.wait_ready("probed")
        again = self.state("probed")
        self.assertEqual(again["lastState"]["terminated"]["containerID"], first["containerID"])
        self.assertNotEqual(again["containerID"], first["containerID"])
        self.assertTrue(self.run_in("probed", "ls /srv/hello"), "a restarted container has the image's files")

    def test_a_grpc_probe_asks_the_service_that_it_names(self):
        if not (BIN / "tessera-mdm").exists():
            self.skipTest("tessera-mdm is not built")
        probe = {"periodSeconds": 1, "failureThreshold": 60}
        self.apply(*(pod(name, None, container={
            "image": "tessera:1", "args": ["--insecure", "--state-dir", "/data", "--health-listen", "0.0.0.0:8007"],
            "readinessProbe": {"grpc": {"port": 8007, "service": service}, **probe},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}], "securityContext": {"runAsNonRoot": True}},
            volumes=[{"name": "data", "emptyDir": {}}], securityContext={"fsGroup": 65532})
            for name, service in (("health", "readiness"), ("strange", "nonsense"))))
        self.wait_ready("health")
        self.assertEqual(self.run_in("health", "id -un"), "tessera")
        wait_until(lambda: "running" in self.state("strange")["state"], "the other to run", 20)
        self.assertFalse(ready(self.get("strange")))

    def test_a_crashing_container_is_restarted_later_and_later(self):
        self.apply(pod("crashing", ["sh", "-c", "exit 3"]))
        wait_until(lambda: self.state("crashing")["restartCount"] >= 2, "restarts", 20)
        wait_until(lambda: self.state("crashing")["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff",
                   "the back-off", 20)
        self.assertEqual(self.state("crashing")["lastState"]["terminated"]["exitCode"], 3)
        self.apply(pod("killed", ends()))
        self.wait_ready("killed")
        self.agent.kill_container("killed")
        wait_until(lambda: self.state("killed")["restartCount"] == 1, "a restart", 20)
        self.assertEqual(self.state("killed")["lastState"]["terminated"]["exitCode"], 137)

    def test_a_deleted_pod_has_its_hook_its_signal_and_its_time(self):
        polite = "trap 'echo term >> /out/log; exit 0' TERM; echo up >> /out/log\n" + FOREVER
        out = {"name": "out", "hostPath": {"path": "/out", "type": "DirectoryOrCreate"}}
        self.apply(pod("polite", ["sh", "-c", polite], nodeName="node1", volumes=[out],
                       container={"volumeMounts": [{"name": "out", "mountPath": "/out"}], "lifecycle": {"preStop": {
                           "exec": {"command": ["sh", "-c", "echo hook >> /out/log"]}}}}),
                   pod("deaf", ["sh", "-c", "trap '' TERM\n" + FOREVER], terminationGracePeriodSeconds=2))
        self.wait_ready("polite", "deaf")
        started = time.monotonic()
        self.plane.kubectl("delete", "pod", "polite", "deaf")
        self.assertGreater(time.monotonic() - started, 1.9)
        self.assertEqual((self.agent.hosts["node1"].path("/out/log")).read_text().split(), ["up", "hook", "term"])

    def test_a_rebooted_node_brings_its_pods_back_with_what_was_on_disk(self):
        mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("disk", "ram")]
        self.apply(pod("survivor", ends("echo x >> /disk/starts; echo x >> /ram/starts"), nodeName="node2",
                       container={"volumeMounts": mounts},
                       volumes=[{"name": "disk", "emptyDir": {}}, {"name": "ram", "emptyDir": {"medium": "Memory"}}]))
        self.wait_ready("survivor")
        before = self.agent.pod_ip("survivor"), self.run_in("survivor", "cat /proc/sys/kernel/random/boot_id")
        self.agent.reboot("node2")
        wait_until(lambda: self.state("survivor")["restartCount"] == 1, "a restart", 20)
        self.wait_ready("survivor")
        after = self.agent.pod_ip("survivor"), self.run_in("survivor", "cat /proc/sys/kernel/random/boot_id")
        self.assertTrue(before[0] != after[0] and before[1] != after[1], f"{before} {after}")
        self.assertEqual(self.run_in("survivor", "wc -l </disk/starts; wc -l </ram/starts").split(), ["2", "1"])
        self.assertEqual(self.get("survivor")["status"]["podIPs"], [{"ip": after[0]}])

    # Objects as files.

    def test_a_pod_waits_for_a_secret_and_sees_it_change(self):
        def secret(value):
            return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"},
                    "data": {"tls.key": base64.b64encode(value).decode()}}
        self.apply(pod("patient", ends(), container={"volumeMounts": [{"name": "tls", "mountPath": "/tls"}]},
                       volumes=[{"name": "tls", "projected": {"sources": [
                           {"secret": {"name": "late", "items": [{"key": "tls.key", "path": "sub/key"}]}},
                           {"configMap": {"name": "not-there", "optional": True}},
                           {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {
                               "fieldPath": "metadata.labels"}}]}}]}}]))
        wait_until(lambda: 'late\\" not found' in json.dumps(self.state("patient")), "the pod to wait", 20)
        self.assertIn("ContainerCreating", json.dumps(self.state("patient")))
        self.apply(secret(b"one"))
        self.wait_ready("patient")
        look = "cat /tls/sub/key; echo; grep -E '^(app|colour)=' /tls/labels"
        self.assertEqual(self.run_in("patient", look).split(), ["one", 'app="patient"'])
        self.apply(secret(b"two"))
        self.plane.kubectl("label", "pod", "patient", "colour=red")
        wait_until(lambda: self.run_in("patient", look).split() == ["two", 'app="patient"', 'colour="red"'],
                   "the change", 20)
        self.assertEqual(self.run_in("patient", "readlink /tls/sub"), "..data/sub")

    def test_a_pods_token_lets_in_its_service_account(self):
        self.apply(pod("client", ends()))
        self.wait_ready("client")
        answer = self.run_in("client", """
            cd /var/run/secrets/kubernetes.io/serviceaccount
            curl -sS --cacert ca.crt -H "Authorization: Bearer $(cat token)" \\
                 "https://kubernetes.default.svc/api/v1/namespaces/$(cat namespace)/pods"
            """)
        self.assertIn("system:serviceaccount:default:default", json.loads(answer)["message"])
        self.assertEqual(json.loads(answer)["code"], 403)

    # Disks.

    def test_a_stateful_set_keeps_its_disks_its_nodes_and_its_names(self):
        labels = {"app": "store"}

        def claim(name, mode):
            return {"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeMode": mode,
                                                         "resources": {"requests": {"storage": "8Mi"}}}}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "store"}, "spec": {
            "clusterIP": "None", "selector": labels, "publishNotReadyAddresses": True, "ports": [{"port": 8080}]}}
        stateful_set = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "store"}, "spec": {
            "serviceName": "store", "replicas": 2, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "volumeClaimTemplates": [claim("files", "Filesystem"), claim("raw", "Block")],
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                                               "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {
                                                   "matchLabels": labels}}],
                "containers": [{"name": "main", "image": "tool:1", "command": SERVER,
                                "readinessProbe": {"exec": {"command": ["false"]}},
                                "volumeMounts": [{"name": "files", "mountPath": "/files"}],
                                "volumeDevices": [{"name": "raw", "devicePath": "/dev/raw-disk"}]}]}}}}
        self.apply(service, stateful_set)
        for name in ("store-0", "store-1"):
            wait_until(lambda: "running" in self.state(name)["state"], name, 30)
        self.assertEqual({self.get(name)["spec"]["nodeName"] for name in ("store-0", "store-1")}, set(NODES))
        self.run_in("store-0", "echo kept > /files/file; echo raw > /dev/raw-disk; sync /dev/raw-disk")
        size = self.run_in("store-0", "test -b /dev/raw-disk && head -c 9M /dev/raw-disk | wc -c")
        self.assertEqual(int(size), 8 << 20)
        before, container = self.get("store-0"), self.state("store-0")["containerID"]
        self.agent.client.delete("/api/v1/namespaces/default/pods/store-0")
        wait_until(lambda: "running" in self.state("store-0")["state"] and
                   self.state("store-0").get("containerID") != container, "a new pod", 30)
        self.assertEqual(self.run_in("store-0", "cat /files/file; head -c 3 /dev/raw-disk").split(), ["kept", "raw"])
        after = self.get("store-0")
        self.assertEqual(after["spec"]["nodeName"], before["spec"]["nodeName"])
        self.assertNotEqual(after["status"]["podIP"], before["status"]["podIP"])
        name = "store-0.store.default.svc.cluster.local"
        wait_until(lambda: after["status"]["podIP"] in self.agent.exec("store-1", ["getent", "ahostsv4", name])[1],
                   "the name of the new pod", 20)
        self.assertEqual(self.run_in("store-1", "getent ahostsv4 store | cut -d' ' -f1 | sort -u | wc -l"), "2")
        self.run_in("store-1", "getent hosts store-7.store", 2)
        self.plane.kubectl("delete", "statefulset,service", "store")
        self.plane.kubectl("delete", "pvc", "--all")
        wait_until(lambda: not self.agent.client.get("/api/v1/persistentvolumes")["items"], "the disks to go", 30)
        folders = [host.path("/var/lib/disks") for host in self.agent.hosts.values()]
        self.assertEqual([file for folder in folders for file in folder.iterdir()], [])

    # Network.

    def test_services_lead_to_their_pods_and_policies_forbid_the_rest(self):
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "selector": {"role": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}
        near = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "near"}, "spec": {
            "internalTrafficPolicy": "Local", "selector": {"app": "web1"}, "ports": [{"port": 80, "targetPort": 8080}]}}
        policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"}, "spec": {
            "podSelector": {"matchLabels": {"role": "web"}}, "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"role": "friend"}}}], "ports": [{"port": "http"}]}]}}
        bound = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "bound"}, "spec": {
            "podSelector": {"matchLabels": {"app": "bound"}}, "policyTypes": ["Egress"], "egress": [
                {"ports": [{"port": 53, "protocol": "UDP"}], "to": [{
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]}]}}
        ports = {"ports": [{"name": "http", "containerPort": 8080}], "readinessProbe": {
            "httpGet": {"path": "/hello", "port": 8080}, "periodSeconds": 1}}
        self.apply(service, near, pod("web1", SERVER, {"role": "web"}, ports, nodeName="node1"),
                   pod("web2", SERVER, {"role": "web"}, ports, nodeName="node2"),
                   pod("friend", ends(), {"role": "friend"}), pod("stranger", ends()),
                   pod("bound", ends(), {"role": "friend"}))
        self.wait_ready("web1", "web2", "friend", "stranger", "bound")
        fetch = "curl -sS --max-time 1 -o /dev/null {} 2>&1"
        through_web = ["sh", "-c", fetch.format("http://web/hello")]
        wait_until(lambda: self.agent.exec("stranger", through_web)[0] == 0, "web", 20)
        self.run_in("web1", "for i in $(seq 20); do " + fetch.format("http://web/hello") + " || exit 1; done")
        for name in ("web1", "web2"):  # also to itself
            served = [line for line in self.agent.logs(name).splitlines()
                      if "GET /hello" in line and not line.startswith("10.88.1.")]  # these are the nodes' probes
            self.assertTrue(served, f"{name} has had none of the requests")
        self.run_in("bound", fetch.format("http://web/hello"))
        self.run_in("web1", fetch.format("http://near/hello"))
        self.run_in("web2", fetch.format("http://near/hello"), 7)
        self.apply(policy, bound)
        self.addCleanup(self.plane.kubectl, "delete", "networkpolicy,service", "web", "near", "bound",
                        "--ignore-not-found")
        address = self.agent.pod_ip("web2")
        wait_until(lambda: self.agent.exec("stranger", through_web)[0] == 28, "the policy", 20)
        for name, code in (("friend", 0), ("stranger", 28), ("bound", 28)):
            self.run_in(name, fetch.format(f"http://{address}:8080/hello"), code)
        self.run_in("bound", "getent hosts web")
        self.run_in("friend", "python3 -m http.server 9000 >/dev/null 2>&1 &")
        self.run_in("web2", fetch.format(f"http://{self.agent.pod_ip('friend')}:8080/"), 7)
        self.assertTrue(ready(self.get("web2")), "a node's probes get through")
        self.assertEqual(self.run_in("friend", "curl -sS --max-time 1 http://10.96.77.77/ 2>&1; echo $?")[-1:], "7")

    # kubectl's way in.

    def test_kubectl_logs_and_exec_come_through_the_api_server(self):
        self.apply(pod("talker", ends("echo one; echo two >&2; echo three")))
        self.wait_ready("talker")
        self.assertEqual(self.plane.kubectl("logs", "talker", "--tail=2").split(), ["two", "three"])
        result = self.plane.kubectl("exec", "-i", "talker", "--", "sh", "-c", "tr a-z A-Z; echo err >&2; exit 4",
                                    input="loud\n", check=False)
        self.assertEqual((result.stdout, result.returncode), ("LOUD\n", 4), result.stderr)
        self.assertIn("err\n", result.stderr)
        result = self.plane.kubectl("exec", "talker", "--", "nonsense", check=False)
        self.assertIn("nonsense is not in PATH", result.stderr)

    def test_kubectl_forwards_ports_through_the_api_server(self):
        probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
        self.apply(pod("forwarded", SERVER, container={"readinessProbe": probe}))
        self.wait_ready("forwarded")
        with subprocess.Popen([control_plane.tool("kube"), "kubectl", "port-forward", "forwarded", ":8080", ":8081"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=self.plane.environment()) as forward:
            try:
                ports = []
                while len(ports) < 2:
                    line = forward.stdout.readline()
                    self.assertIn("Forwarding from", line)
                    if "127.0.0.1" in line:
                        ports.append(line.split()[2].split(":")[1])
                with ThreadPoolExecutor(4) as pool:
                    pages = list(pool.map(lambda _: fetch(f"http://127.0.0.1:{ports[0]}/hello"), range(8)))
                self.assertEqual(set(pages), {(HERE / "node_agent_test.py").read_bytes()})
                self.assertRaises(OSError, fetch, f"http://127.0.0.1:{ports[1]}/")
                self.assertIn("Connection refused", "".join(iter(forward.stdout.readline, "")))
            finally:
                forward.terminate()


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


class RemainsTest(unittest.TestCase):
    def test_an_agent_that_is_killed_leaves_no_process_and_no_device(self):
        need_root_and_tools()
        with tempfile.TemporaryDirectory(prefix="tessera-nodes-") as folder:
            # A container and a loop device without any control plane.
            script = f"""
import os, pathlib, sys
sys.path[:0] = [{str(HERE)!r}]
import node_namespace as ns
from node_image import Image, build_system
from node_process import Process
folder = pathlib.Path({folder!r})
build_system(folder / "system")
Image().build(folder / "image")
(folder / "scratch").mkdir()
(folder / "boot").write_text("x")
(folder / "disk").write_bytes(bytes(1 << 20))
ns.PrivateNetwork().enter()
device, _ = ns.attach_loop_device(folder / "disk")
pod = ns.PodNamespaces("pod")
process = Process({{"enter": [[pod.path(kind), flag] for kind, flag in pod.KINDS.items()], "new": True,
    "root": {{"scratch": str(folder / "scratch"), "image": str(folder / "image"), "system": str(folder / "system"),
             "boot_id": str(folder / "boot"), "mounts": [], "readonly": False}},
    "argv": ["sleep", "infinity"], "env": {{}}, "cwd": "/", "uid": 1, "gid": 1, "groups": [], "capabilities": [],
    "no_new_privileges": True}})
print(process.pid, device, flush=True)
sys.stdin.read()
"""
            with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True) as agent:
                pid, device = agent.stdout.readline().split()
                name = pathlib.Path(device).name
                self.assertIn(folder, pathlib.Path(f"/sys/block/{name}/loop/backing_file").read_text())
                self.assertEqual(pathlib.Path(f"/proc/{pid}/comm").read_text(), "sleep\n")
                agent.kill()
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the container to end", 10)
            wait_until(lambda: not os.path.exists(f"/sys/block/{name}/loop/backing_file"), "the device to go", 10)
            self.assertNotIn(folder, pathlib.Path("/proc/self/mounts").read_text())


if __name__ == "__main__":
    unittest.main()
