#!/usr/bin/env python3
"""What the pages of docs/kubernetes don't use: block devices, NetworkPolicies that are enforced, NBD over TCP with TLS,
and nodes that lose their power, on a real control plane whose nodes run the containers as processes.
"""
import json
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "faults")]
# pylint: disable=wrong-import-position
from cluster import wait_until
from kubernetes_cluster import KubernetesCluster
from load import VerifyingLoad

SEED = 53
VALUES = """
image: {registry: registry.example.org/storage}
networkPolicy: {enabled: true}
sds:
  devices:
    - {name: disk0, size: 2Gi, volumeMode: Block, pool: pool1}
  config: {journal-mib: 64}
sdc:
  nbd: {tcp: {enabled: true}}
"""
NBD_CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: nbd-client}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
  containers:
    - name: client
      image: registry.example.org/storage/tessera:0.1.0
      command: [sh, -euc]
      args: ['nbdinfo --no-content --size "nbds://$HOST:8005/judged?tls-certificates=/tls"']
      env: [{name: HOST, value: HOST_OF_SERVICE}]
      volumeMounts: [{name: tls, mountPath: /tls}]
  volumes:
    - name: tls
      secret:
        secretName: tessera-admin-tls
        items:
          - {key: ca.crt, path: ca-cert.pem}
          - {key: tls.crt, path: client-cert.pem}
          - {key: tls.key, path: client-key.pem}
"""


class Variants(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print(f"seed {SEED}")
        cls.nodes = ("node1", "node2", "node3")
        cls.kubernetes = KubernetesCluster({name: {} for name in cls.nodes}).start()
        cls.addClassCleanup(cls.kubernetes.stop)
        (cls.kubernetes.home / "values.yaml").write_text(VALUES)
        cls.kubernetes.shell("kubectl create namespace tessera\n"
                             "helm install tessera charts/tessera -n tessera -f values.yaml --wait --timeout 10m\n"
                             "helm test tessera -n tessera --timeout 5m")
        cls.kubernetes.toolbox("volume", "create", "judged", "--pool", "pool1", "--size", "128MiB")
        cls.kubernetes.toolbox("volume", "map", "judged", "--sdc", "node1")
        wait_until(lambda: any(each.get("attached") for each in cls.listing("volume", "show", "judged")["mappings"]),
                   "the volume to be attached")

    @classmethod
    def listing(cls, *command):
        return json.loads(cls.kubernetes.toolbox("--output", "json", *command))

    def assert_equal_copies(self):
        wait_until(lambda: self.kubernetes.shell(
            "kubectl -n tessera exec deploy/tessera-toolbox -- tessera volume verify judged || true")
            .rstrip().endswith(", 0 different, 0 copies not in sync"), "all copies to be equal", 300)

    def test_1_servers_keep_their_data_on_block_devices_without_being_root(self):
        for server in self.listing("sds", "list")["sdss"]:
            self.assertEqual(["/dev/tessera/disk0"], [each["description"]["path"] for each in server["devices"]])
            self.assertEqual([""], [each["description"]["failure"] for each in server["devices"]])
            pod = server["name"]
            code, output = self.kubernetes.agent.exec(pod, ["sh", "-c", "id -u; test -b /dev/tessera/disk0"], "tessera", "sds")
            self.assertEqual((0, "65532"), (code, output.strip()))
        self.assertEqual([], self.kubernetes.agent.problems)

    def test_2_nbd_over_tcp_needs_a_certificate_and_leads_to_the_client_of_ones_own_node(self):
        pod = NBD_CLIENT.replace("HOST_OF_SERVICE", "tessera-sdc.tessera.svc.cluster.local")
        pod = pod.replace("restartPolicy: Never", "restartPolicy: Never\n  nodeName: node1")
        self.kubernetes.plane.kubectl("-n", "tessera", "apply", "-f", "-", input=pod)
        wait_until(lambda: json.loads(self.kubernetes.plane.kubectl("-n", "tessera", "get", "pod", "nbd-client", "-o", "json"))
                   ["status"].get("phase") in ("Succeeded", "Failed"), "the pod to end")
        self.assertEqual(str(128 << 20), self.kubernetes.plane.kubectl("-n", "tessera", "logs", "nbd-client").strip())
        self.kubernetes.plane.kubectl("-n", "tessera", "delete", "pod", "nbd-client")

    def test_3_a_policy_keeps_strangers_out(self):
        """A pod of the namespace that is no part reaches none of the planes."""
        stranger = NBD_CLIENT.replace("nbd-client", "stranger").replace(
            """'nbdinfo --no-content --size "nbds://$HOST:8005/judged?tls-certificates=/tls"'""",
            "'for port in 9100 9200 9500 9700; do if timeout 3 bash -c \": </dev/tcp/$HOST/$port\" 2>/dev/null; then echo reached $port; fi; done'")
        stranger = stranger.replace("HOST_OF_SERVICE", self.kubernetes.agent.pod_ip("tessera-sds-0", "tessera"))
        self.kubernetes.plane.kubectl("-n", "tessera", "apply", "-f", "-", input=stranger)
        wait_until(lambda: json.loads(self.kubernetes.plane.kubectl("-n", "tessera", "get", "pod", "stranger", "-o", "json"))
                   ["status"].get("phase") in ("Succeeded", "Failed"), "the pod to end")
        # The port for probes alone is open.
        self.assertEqual("reached 9500", self.kubernetes.plane.kubectl("-n", "tessera", "logs", "stranger").strip())
        self.kubernetes.plane.kubectl("-n", "tessera", "delete", "pod", "stranger")

    def test_4_io_goes_on_while_nodes_boot_one_after_the_other(self):
        load = VerifyingLoad(f"nbd+unix:///judged?socket={self.kubernetes.host_path('node1', '/run/tessera/nbd.sock')}",
                             SEED, rate=200)
        self.addCleanup(load.kill)
        load.wait_for_progress(500, 300)
        for node in self.nodes[1:]:
            self.kubernetes.agent.reboot(node)
            load.wait_for_progress(500, 300)
            self.kubernetes.shell("kubectl -n tessera rollout status statefulset/tessera-sds --timeout 10m")
            self.kubernetes.wait_for_well()
        verdict = load.verdict()
        self.assertEqual((0, {}), (verdict["violations"], verdict["errors"]), verdict)
        self.assertTrue(verdict["read_back"])
        self.assert_equal_copies()


if __name__ == "__main__":
    unittest.main(verbosity=2)
