"""A node: a name, an address, a folder that stands for its file system, and its object in the API."""
import datetime
import os
import pathlib
import uuid

from node_api import STRATEGIC, now

FIRST_POD = (10 << 24) + (88 << 16) + (16 << 8)  # 10.88.16.0
PODS_MAX = 2048                                   # addresses of one node; each is given once
LEASE_SECONDS = 40


def dotted(number):
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


class Host:
    """One node. `down` while it is switched off."""

    ALLOCATABLE = {"cpu": "64", "memory": "64Gi", "ephemeral-storage": "1Ti", "pods": "110"}
    KUBELET_PORT = 10250

    def __init__(self, agent, index, name, labels):
        self.agent = agent
        self.name = name
        self.address = f"10.88.1.{index + 1}"
        self.labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                       **labels}
        self.down = False
        self.boots = 0
        self.folder = agent.folder / "nodes" / name / "root"
        self._next_address = FIRST_POD + index * PODS_MAX
        self.pod_network = f"{dotted(self._next_address)}/21"
        self._machine_id = uuid.uuid4().hex
        for path in ("etc", "var/lib", "run", "dev", "tmp"):
            (self.folder / path).mkdir(parents=True, exist_ok=True)
        (self.folder / "etc/machine-id").write_text(self._machine_id + "\n")
        self._boot()

    def _boot(self):
        self._boot_id = str(uuid.uuid4())
        self.boot_id_file = self.folder.parent / f"boot-{self._boot_id}"
        self.boot_id_file.write_text(self._boot_id + "\n")
        os.chmod(self.boot_id_file, 0o444)

    def path(self, path):
        """A path of the node's file system, as we reach it."""
        parts = pathlib.PurePosixPath(path).parts
        if ".." in parts:
            raise ValueError(f"{path} has .. in it")
        return self.folder.joinpath(*parts[1:])

    def next_pod_address(self):
        while True:
            self._next_address += 1
            if self._next_address & 255 not in (0, 255):
                return dotted(self._next_address)

    def power_off(self):
        """The pods' processes are gone, nobody speaks for the node."""
        self.down = True

    def power_on(self):
        self.boots += 1
        self._boot()
        self.down = False
        self.report()

    # The API's objects.

    def register(self):
        self.agent.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node",
                                            "metadata": {"name": self.name, "labels": self.labels}, "spec": {}})
        self.agent.create("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name},
            "spec": self._lease()})
        self.report()

    def _lease(self):
        return {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": datetime.datetime.utcnow().strftime("%Y-%m-%dT%H:%M:%S.%fZ")}

    def renew(self):
        self.agent.client.patch(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}",
                                {"spec": self._lease()})

    def report(self):
        moment = now()

        def condition(kind, value, reason):
            return {"type": kind, "status": value, "reason": reason, "message": reason, "lastHeartbeatTime": moment,
                    "lastTransitionTime": moment}
        kernel = os.uname().release
        self.agent.client.patch(f"/api/v1/nodes/{self.name}/status", {"status": {
            "capacity": self.ALLOCATABLE, "allocatable": self.ALLOCATABLE,
            "addresses": [{"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": self.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.KUBELET_PORT}},
            # The API server may speak to us in WebSockets, not only in SPDY.
            "declaredFeatures": ["ExtendWebSocketsToKubelet"],
            "nodeInfo": {"machineID": self._machine_id, "systemUUID": self._machine_id, "bootID": self._boot_id,
                         "kernelVersion": kernel, "osImage": "node agent of the tests", "operatingSystem": "linux",
                         "architecture": "amd64", "containerRuntimeVersion": "process://1",
                         "kubeletVersion": self.agent.version, "kubeProxyVersion": ""},
            "conditions": [condition("Ready", "True", "NodeAgentReady"),
                           condition("MemoryPressure", "False", "Enough"),
                           condition("DiskPressure", "False", "Enough"),
                           condition("PIDPressure", "False", "Enough")]}}, STRATEGIC)
