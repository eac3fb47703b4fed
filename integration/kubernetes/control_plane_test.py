"""The control plane that the Kubernetes tests stand on does what a cluster's does: it admits and refuses, its
controllers and its scheduler work, clients get in with what they have been given and nothing more, and it ends.
"""
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import control_plane  # noqa: E402  pylint: disable=wrong-import-position
from cluster import CommandFailed, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from control_plane import ControlPlane  # noqa: E402  pylint: disable=wrong-import-position

IMAGE = "example.invalid/image:1"
NODE = "node-a"


def pod(name, **container):
    """A pod that the Pod Security level "restricted" takes, unless the container says otherwise."""
    security = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "main", "image": IMAGE, "securityContext": security, **container}]}}


def stateful_set(name, replicas):
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [
        {"name": "main", "image": IMAGE, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}
    claim = {"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "serviceName": name, "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels}, "template": template, "volumeClaimTemplates": [claim]}}


def local_volume(name):
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
        "persistentVolumeReclaimPolicy": "Retain", "local": {"path": f"/volumes/{name}"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}}}}


def process_ids(plane):
    return [part.process.pid for part in plane.parts]


@unittest.skipIf(control_plane.missing(), control_plane.missing())
class ControlPlaneTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-kubernetes-"))
        cls.plane = ControlPlane(cls.folder)
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.addClassCleanup(cls.plane.stop)
        cls.plane.start()
        cls.kubectl = cls.plane.kubectl

    def namespace(self, name, **labels):
        self.kubectl("create", "-f", "-", input={
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        wait_until(lambda: self.kubectl("get", "serviceaccount", "default", "-n", name, check=False).returncode == 0,
                   "the namespace's service account")
        return name

    def refused(self, *arguments, **options):
        """What kubectl says when the server refuses."""
        with self.assertRaises(CommandFailed) as caught:
            self.kubectl(*arguments, **options)
        return caught.exception.output

    def test_says_its_version(self):
        version = json.loads(self.kubectl("version", "-o", "json"))
        expected = "v" + control_plane.kubernetes_version()
        self.assertEqual(version["serverVersion"]["gitVersion"], expected)
        self.assertEqual(version["clientVersion"]["gitVersion"], expected)
        self.assertEqual((version["serverVersion"]["major"], version["serverVersion"]["minor"]),
                         tuple(expected.removeprefix("v").split(".")[:2]))

    def test_pod_security_is_enforced(self):
        name = self.namespace("restricted", **{"pod-security.kubernetes.io/enforce": "restricted"})
        create = ("create", "-n", name, "--dry-run=server", "-f", "-")
        self.assertIn("created", self.kubectl(*create, input=pod("good")))
        output = self.refused(*create, input=pod("bad", securityContext={"privileged": True}))
        self.assertIn('violates PodSecurity "restricted:latest"', output)
        self.assertIn("privileged", output)
        # Elsewhere a privileged pod may run: the SDC's are.
        name = self.namespace("privileged", **{"pod-security.kubernetes.io/enforce": "privileged"})
        self.kubectl("create", "-n", name, "--dry-run=server", "-f", "-",
                     input=pod("privileged", securityContext={"privileged": True}))

    def test_unknown_fields_are_refused(self):
        self.namespace("strict")
        output = self.refused("create", "-n", "strict", "--validate=strict", "-f", "-", input=pod("bad", comand=["a"]))
        self.assertIn('unknown field "spec.containers[0].comand"', output)

    def test_stateful_set_gets_pods_volumes_and_a_node(self):
        self.kubectl("create", "-f", "-", input={
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}}})
        resources = {"cpu": "2", "memory": "4Gi", "pods": "20"}
        self.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", json.dumps({"status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "as the test says"}]}}))
        self.kubectl("create", "-f", "-", input={
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})
        for name in ("volume-1", "volume-2"):
            self.kubectl("create", "-f", "-", input=local_volume(name))
        space = self.namespace("sets")
        self.kubectl("create", "-n", space, "-f", "-", input=stateful_set("set", 2))

        def pods():
            return json.loads(self.kubectl("get", "pods", "-n", space, "-o", "json"))["items"]

        wait_until(lambda: len([item for item in pods() if item["spec"].get("nodeName") == NODE]) == 2,
                   "both pods to have a node")
        self.assertEqual(sorted(item["metadata"]["name"] for item in pods()), ["set-0", "set-1"])
        claims = json.loads(self.kubectl("get", "persistentvolumeclaims", "-n", space, "-o", "json"))["items"]
        self.assertEqual(sorted(claim["spec"]["volumeName"] for claim in claims), ["volume-1", "volume-2"])
        self.kubectl("delete", "statefulset", "set", "-n", space)
        # Nobody runs the pods, so nobody but us ends them; that they are to end is the garbage collector's doing.
        wait_until(lambda: all("deletionTimestamp" in item["metadata"] for item in pods()), "the pods to be deleted")
        self.kubectl("delete", "pods", "--all", "-n", space, "--grace-period=0", "--force")
        self.kubectl("delete", "namespace", space)

    def test_helm_installs_upgrades_and_uninstalls(self):
        chart = self.folder / "chart"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text(
            f"{{apiVersion: v2, name: small, version: 1.0.0, kubeVersion: '>={control_plane.kubernetes_version()}'}}\n")
        (chart / "templates" / "map.yaml").write_text(
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: {{ .Release.Name }}},\n data: {a: {{ .Values.a }}}}\n")
        space = self.namespace("charts")

        def value():
            return self.kubectl("get", "configmap", "release", "-n", space, "-o", "jsonpath={.data.a}")

        self.plane.helm("install", "release", chart, "-n", space, "--set", "a=first", "--wait")
        self.assertEqual(value(), "first")
        self.plane.helm("upgrade", "release", chart, "-n", space, "--set", "a=second")
        self.assertEqual(value(), "second")
        listed = json.loads(self.plane.helm("list", "-n", space, "-o", "json"))
        self.assertEqual([(item["name"], item["revision"], item["status"]) for item in listed],
                         [("release", "2", "deployed")])
        self.plane.helm("uninstall", "release", "-n", space, "--wait")
        self.assertNotEqual(self.kubectl("get", "configmap", "release", "-n", space, check=False).returncode, 0)
        (chart / "Chart.yaml").write_text("{apiVersion: v2, name: small, version: 1.0.0, kubeVersion: '>=99.0.0'}\n")
        with self.assertRaisesRegex(CommandFailed, "incompatible with Kubernetes"):
            self.plane.helm("install", "release", chart, "-n", space, "--set", "a=third")

    def test_service_accounts_may_what_roles_say(self):
        space = self.namespace("rights")
        self.kubectl("create", "serviceaccount", "reader", "-n", space)
        token = self.kubectl("create", "token", "reader", "-n", space).strip()
        config = self.plane.write_kubeconfig(self.folder / "reader.kubeconfig", {"token": token}, namespace=space)
        as_reader = ("--kubeconfig", config)
        self.assertIn(f"system:serviceaccount:{space}:reader", self.kubectl("auth", "whoami", *as_reader))
        self.assertIn("forbidden", self.refused("get", "secrets", *as_reader).lower())
        self.kubectl("create", "role", "reader", "-n", space, "--verb=list,get", "--resource=secrets")
        self.kubectl("create", "rolebinding", "reader", "-n", space, "--role=reader",
                     f"--serviceaccount={space}:reader")
        wait_until(lambda: self.kubectl("get", "secrets", *as_reader, check=False).returncode == 0,
                   "the role to take effect")
        self.assertIn("forbidden", self.refused("get", "nodes", *as_reader).lower())
        strangers = ssl.create_default_context(cafile=str(self.plane.ca_file))
        with self.assertRaisesRegex(urllib.error.HTTPError, "403"):
            urllib.request.urlopen(f"{self.plane.server}/api/v1/namespaces/{space}/secrets", context=strangers)

    def test_certificate_is_good_for_what_pods_call(self):
        context = ssl.create_default_context(cafile=str(self.plane.ca_file))
        for name in ("kubernetes.default.svc", "kubernetes.default.svc.cluster.local", self.plane.service_address):
            with self.subTest(name), socket.create_connection((self.plane.bind_address, self.plane.port)) as plain, \
                    context.wrap_socket(plain, server_hostname=name) as secured:
                self.assertTrue(secured.getpeercert())
        with socket.create_connection((self.plane.bind_address, self.plane.port)) as plain, \
                self.assertRaises(ssl.SSLCertVerificationError):
            context.wrap_socket(plain, server_hostname="another.name")

    def test_custom_resources_can_be_defined(self):
        files = sorted(control_plane.CRDS.glob("*.yaml"))
        if not files:
            self.skipTest("no custom resource definitions: run tools/setup_kubernetes")
        monitors = [path for path in files if "servicemonitors" in path.name]
        self.assertEqual(len(monitors), 1, files)
        self.kubectl("create", "-f", monitors[0])
        self.kubectl("wait", "--for=condition=Established", "customresourcedefinition",
                     "servicemonitors.monitoring.coreos.com", "--timeout=60s")
        self.namespace("monitors")
        monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "monitor"},
                   "spec": {"selector": {}, "endpoints": [{"port": "metrics"}]}}
        create = ("create", "-n", "monitors", "-f", "-")
        wait_until(lambda: self.kubectl(*create, input=monitor, check=False).returncode == 0, "a monitor to be taken")
        monitor["metadata"]["name"], monitor["spec"]["endpoints"] = "bad", [{"prot": "metrics"}]
        self.assertIn("prot", self.refused(*create, input=monitor))


@unittest.skipIf(control_plane.missing(), control_plane.missing())
class LifeTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-kubernetes-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.plane = ControlPlane(self.folder)
        self.addCleanup(self.plane.stop)

    def test_stops_and_goes_on(self):
        self.plane.start()
        self.plane.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        address, before = self.plane.server, process_ids(self.plane)
        self.assertEqual(self.plane.stop(), [])
        for number in before:
            self.assertFalse(os.path.exists(f"/proc/{number}"), f"process {number} is left")
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((self.plane.bind_address, self.plane.port)).close()
        self.plane.start()
        self.assertEqual(self.plane.server, address)
        self.assertEqual(self.plane.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}"), "b")
        self.assertEqual(self.plane.stop(), [])

    def test_comes_back_after_a_kill(self):
        self.plane.start()
        self.plane.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        address = self.plane.server
        for part in self.plane.parts:
            part.kill()
        self.plane.start()
        self.assertEqual(self.plane.server, address)
        self.assertEqual(self.plane.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}"), "b")
        before = process_ids(self.plane)
        self.plane.scheduler.kill()
        self.plane.start()
        self.assertEqual(process_ids(self.plane)[:-1], before[:-1])
        self.assertNotEqual(process_ids(self.plane)[-1], before[-1])

    def test_a_part_that_is_gone_is_named_at_the_end(self):
        self.plane.start()
        self.plane.etcd.kill()
        faults = self.plane.stop()
        self.assertEqual(len(faults), 1, faults)
        self.assertIn("etcd ended by itself with -9", faults[0])

    def test_a_part_that_cannot_start_is_named_and_nothing_stays(self):
        self.plane.options["kube-apiserver"] = ["--no-such-option"]
        with self.assertRaisesRegex(RuntimeError, "kube-apiserver ended with 1(.|\n)*unknown flag: --no-such-option"):
            self.plane.start()
        self.assertFalse(any(part.alive() for part in self.plane.parts))


@unittest.skipIf(control_plane.tool("kubeconform") is None or not control_plane.schema_versions(),
                 "kubeconform or its schemas are not installed: run tools/setup_kubernetes")
class SchemasTest(unittest.TestCase):
    """What kubeconform says with our schemas."""

    def errors(self, version, *documents):
        """{name of the object: message} of those that are not valid."""
        result = subprocess.run(
            [control_plane.tool("kubeconform"), "-strict", "-schema-location", control_plane.SCHEMAS,
             "-kubernetes-version", version, "-output", "json", "-"], text=True, capture_output=True, check=False,
            input="\n---\n".join(json.dumps(document) for document in documents))
        answer = json.loads(result.stdout)
        return {item["name"]: item["msg"] for item in answer.get("resources") or []}

    def everywhere(self, *documents):
        """The same as errors(), when all releases agree on who is wrong."""
        versions = control_plane.schema_versions()
        answers = [self.errors(version, *documents) for version in versions]
        for version, answer in zip(versions, answers):
            self.assertEqual(set(answer), set(answers[0]), version)
        return answers[0]

    def test_three_releases_with_the_one_that_runs(self):
        self.assertIn(control_plane.kubernetes_version(), control_plane.schema_versions())
        self.assertEqual(len(control_plane.schema_versions()), 3)

    def test_good_objects_pass(self):
        probe = {"httpGet": {"path": "/", "port": "http"}}
        numbered = {"httpGet": {"path": "/", "port": 80}}
        limits = {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "100m"}}
        self.assertEqual(self.everywhere(
            pod("pod", livenessProbe=probe, readinessProbe=numbered, resources=limits, command=None),
            stateful_set("set", 3), local_volume("volume"),
            {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "budget"},
             "spec": {"maxUnavailable": "50%", "selector": {"matchLabels": {"a": "b"}}}},
            {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
             "metadata": {"name": "monitor", "labels": {"a": "b"}},
             "spec": {"selector": {"matchLabels": {"a": "b"}}, "endpoints": [{"port": "metrics", "interval": "15s"}]}},
            {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "rules"},
             "spec": {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "up == 0", "for": "5m"},
                                                         {"record": "a:b", "expr": 1}]}]}},
            {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "certificate"},
             "spec": {"secretName": "s", "issuerRef": {"name": "i", "kind": "Issuer"}, "duration": "2160h",
                      "uris": ["spiffe://a/b/c"], "privateKey": {"algorithm": "ECDSA", "size": 256}}},
            {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "issuer"},
             "spec": {"selfSigned": {}}},
            {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "route"},
             "spec": {"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}}), {})

    def test_bad_objects_are_named(self):
        typo, number, big = pod("typo"), pod("number"), pod("big")
        typo["spec"]["containers"][0]["comand"] = ["a"]
        number["spec"]["containers"][0]["image"] = 1
        big["spec"]["terminationGracePeriodSeconds"] = 2 ** 63
        no_name = pod("no-name")
        del no_name["spec"]["containers"][0]["name"]
        null_name = pod("null-name")
        null_name["spec"]["containers"][0]["name"] = None
        bad_label = pod("label")
        bad_label["metadata"]["labels"] = {"a": 1}
        metadata = {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": "meta", "lables": {}},
                    "spec": {"selfSigned": {}}}
        monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "monitor"},
                   "spec": {"selector": {}, "endpoints": [{"interval": "soon"}]}}
        algorithm = {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "algorithm"},
                     "spec": {"secretName": "s", "issuerRef": {"name": "i"}, "privateKey": {"algorithm": "none"}}}
        group = {"apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": {"name": "gone"}, "spec": {}}
        wrong = self.everywhere(typo, number, big, no_name, null_name, bad_label, metadata, monitor, algorithm, group)
        for name, message in {
                "typo": "additional properties 'comand' not allowed", "number": "got number, want", "big": "maximum",
                "no-name": "missing property 'name'", "null-name": "got null, want string",
                "label": "got number, want string",
                "meta": "additional properties 'lables' not allowed", "monitor": "does not match pattern",
                "algorithm": "value must be one of", "gone": "could not find schema"}.items():
            self.assertIn(message, wrong.pop(name, ""), name)
        self.assertEqual(wrong, {})


if __name__ == "__main__":
    unittest.main()
