"""A node agent for tests: what kubelet, a container runtime, kube-proxy, a network plug-in, CoreDNS and a storage
provisioner are to a cluster, in a small way. The containers of pods run as processes of this machine.

    with PrivateNetwork(), ControlPlane(folder / "plane", bind_address=PrivateNetwork.ADDRESS) as plane:
        with NodeAgent(plane, folder / "nodes", {"node1": {"topology.kubernetes.io/zone": "a"}, "node2": {}},
                       {"tessera:*": Image(files={"/usr/bin/tessera": BIN / "tessera"})}) as agent:
            plane.helm("install", ...)

What a pod's spec asks for and the agent does not do (node_spec.py) makes the pod wait with a message, and is in
`problems`. Everything ends with this process, also when it is killed; it needs root. Nothing here is for production.
"""
import contextlib
import fnmatch
import itertools
import json
import os
import pathlib
import shutil
import signal
import threading
import types
import unittest

import node_namespace as ns
from node_api import ApiError, Client, Watch, now
from node_dns import ClusterNames, Server
from node_host import Host
from node_image import Image, build_system  # noqa: F401  pylint: disable=unused-import
from node_network import Member, Rules
from node_pod import Pod
from node_server import KubeletServer
from node_storage import Storage

LEASE_RENEWAL_SECONDS = 10
TOOLS = ("ip", "nft", "openssl")


def need_root_and_tools():
    """Skips where namespaces can't be made, and says why."""
    if os.geteuid() != 0:
        raise unittest.SkipTest("namespaces need root")
    for tool in TOOLS:
        if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            raise unittest.SkipTest(f"{tool} is not installed")


class NodeAgent:
    """All nodes of a cluster.

    control_plane: a control_plane.ControlPlane, or what has kubeconfig and ca_file (paths) and cluster_domain.
    nodes: {name: labels}. images: {pattern of an image's name: Image}. To be used within a PrivateNetwork.
    back_off: seconds before the second restart of a container, and the most before any; longer ones are more real.
    """

    DNS_ADDRESS = "10.88.0.2"

    def __init__(self, control_plane, folder, nodes, images, back_off=(1, 8)):
        self.folder = pathlib.Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        assert not set(str(self.folder)) & set(":,\\"), "overlay file systems can't have these in a path"
        self.domain = getattr(control_plane, "cluster_domain", "cluster.local")
        self.back_off = back_off
        self.stopping = False
        self.problems = []
        self.version = "v0.0.0"
        self._ca_file = control_plane.ca_file
        self.client = Client(json.loads(pathlib.Path(control_plane.kubeconfig).read_text()), self.folder)
        self._images = {}
        self._image_specs = dict(images)
        self.hosts = {name: Host(self, index, name, labels) for index, (name, labels) in enumerate(nodes.items())}
        self.storage = Storage(self)
        self.watches = types.SimpleNamespace()
        self.rules = None
        self._lock = threading.Lock()
        self._pods = {}  # uid: Pod
        self._numbers = itertools.count(1)
        self._rules_wanted = threading.Event()
        self._stopped = threading.Event()
        self._closers = contextlib.ExitStack()
        self._threads = []

    # Life.

    def start(self):
        os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self):
        build_system(self.folder / "system")
        for index, (pattern, image) in enumerate(self._image_specs.items()):
            folder = self.folder / "images" / str(index)
            image.build(folder)
            self._images[pattern] = image, folder
        addresses = [self.DNS_ADDRESS, *(host.address for host in self.hosts.values())]
        ns.tool("ip", "-batch", "-", text="".join(f"address add {address}/32 dev lo\n" for address in addresses))
        self._closers.callback(ns.tool, "ip", "-batch", "-",
                               text="".join(f"address del {address}/32 dev lo\n" for address in addresses))
        self.version = self.client.get("/version")["gitVersion"]
        self._watch("services", "/api/v1/services", self.rules_changed)
        self._watch("slices", "/apis/discovery.k8s.io/v1/endpointslices", self.rules_changed)
        self._watch("policies", "/apis/networking.k8s.io/v1/networkpolicies", self.rules_changed)
        self._watch("namespaces", "/api/v1/namespaces", self.rules_changed)
        self._watch("secrets", "/api/v1/secrets", self._wake_namespace)
        self._watch("config_maps", "/api/v1/configmaps", self._wake_namespace)
        self._watch("disks", "/api/v1/persistentvolumes", self._disk_changed)
        self._watch("claims", "/api/v1/persistentvolumeclaims", self._claim_changed)
        self.rules = Rules(self.watches, self._members, self.hosts, self.problem)
        self.rules.apply()
        self._closers.callback(ns.tool, "nft", "delete", "table", "ip", "cluster")
        self._thread(self._keep_rules, "rules")
        dns = Server(self.DNS_ADDRESS, ClusterNames(self.watches.services, self.watches.slices, self.domain).lookup)
        self._closers.callback(dns.close)
        self._make_serving_certificate()
        for host in self.hosts.values():
            server = KubeletServer(self, host, self.folder / "kubelet.crt", self.folder / "kubelet.key", self._ca_file)
            self._closers.callback(server.close)
        self.storage.register()
        for host in self.hosts.values():
            host.register()
        self._thread(self._keep_leases, "leases")
        self._watch("pods", "/api/v1/pods", self._pod_changed)

    def stop(self):
        """Ends all containers at once. Returns what the agent could not do, as lines for a person."""
        self.stopping = True
        self._stopped.set()
        self._rules_wanted.set()
        watches = list(vars(self.watches).values())
        for watch in watches:
            watch.stop()
        for pod in self._all_pods():
            pod.changed()
        for pod in self._all_pods():
            pod.join(30)
        for thread in (*watches, *self._threads):
            thread.join()
        self._closers.close()
        self.storage.close()
        self.client.close()
        return self.problems

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def _thread(self, body, name):
        thread = threading.Thread(target=body, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _watch(self, name, path, on_change):
        def guarded(kind, item):
            try:
                on_change(kind, item)
            except OSError:
                raise  # the API server is away: the watch starts anew
            except Exception as error:  # pylint: disable=broad-except
                self.problem(f"{name} {item['metadata']['name']}: {type(error).__name__}: {error}")
        watch = Watch(self.client, path, guarded)
        setattr(self.watches, name, watch)
        watch.wait_synced()

    def _make_serving_certificate(self):
        names = ",".join(f"IP:{host.address}" for host in self.hosts.values())
        ns.tool("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
                "-keyout", self.folder / "kubelet.key", "-out", self.folder / "kubelet.crt", "-days", "30",
                "-subj", "/CN=node agent", "-addext", f"subjectAltName={names}")

    # For tests.

    def pods(self):
        """The pods that run here: [(namespace, name)]."""
        return sorted((pod.namespace, pod.name) for pod in self._all_pods())

    def pod(self, name, namespace="default"):
        """The newest pod of that name. KeyError if it is not here."""
        found = [pod for pod in self._all_pods() if (pod.namespace, pod.name) == (namespace, name)]
        if not found:
            raise KeyError(f"no pod {namespace}/{name} here")
        return found[-1]

    def pod_ip(self, name, namespace="default"):
        return self.pod(name, namespace).address

    def exec(self, name, argv, namespace="default", container=None, timeout=60):
        """Runs a program in a container: (exit code, output)."""
        return self.pod(name, namespace).container(container).execute(list(map(str, argv)), timeout)

    def logs(self, name, namespace="default", container=None, previous=False):
        return self.pod(name, namespace).container(container).log_path(previous).read_text(errors="replace")

    def kill_container(self, name, namespace="default", container=None, number=signal.SIGKILL):
        """A signal to the process of a container; by default it crashes."""
        self.pod(name, namespace).container(container).kill(number)

    def power_off(self, node):
        """The node's pods are gone from one moment to the next, and it no longer tells that it is alive."""
        self.hosts[node].power_off()
        pods = [pod for pod in self._all_pods() if pod.host.name == node]
        for pod in pods:
            pod.changed()
        for pod in pods:
            pod.kill()

    def power_on(self, node):
        self.hosts[node].power_on()
        for pod in self._all_pods():
            pod.changed()

    def reboot(self, node):
        self.power_off(node)
        self.power_on(node)

    # For the parts.

    def create(self, path, item):
        """Makes an object unless it is there already."""
        try:
            self.client.post(path, item)
        except ApiError as error:
            if error.code != 409:
                raise

    def image(self, name):
        return self._image(name)[0]

    def image_folder(self, name):
        return self._image(name)[1]

    def _image(self, name):
        for pattern, entry in self._images.items():
            if fnmatch.fnmatchcase(name, pattern):
                return entry
        raise KeyError(f"there is no image {name}")

    def next_number(self):
        return next(self._numbers)

    def problem(self, text):
        """Something that a test should fail on."""
        if text not in self.problems:
            self.problems.append(text)

    def event(self, item, reason, message, kind):
        metadata = item["metadata"]
        with contextlib.suppress(ApiError, OSError):  # the namespace may be on its way out
            self.client.post(f"/api/v1/namespaces/{metadata['namespace']}/events", {
                "apiVersion": "v1", "kind": "Event", "metadata": {"generateName": f"{metadata['name']}."},
                "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": metadata["namespace"],
                                   "name": metadata["name"], "uid": metadata["uid"]},
                "reason": reason, "message": message[:1000], "type": kind, "count": 1, "firstTimestamp": now(),
                "lastTimestamp": now(), "source": {"component": "node-agent"}})

    def rules_changed(self, *_):
        self._rules_wanted.set()

    def forget(self, pod):
        with self._lock:
            self._pods.pop(pod.uid, None)

    def _all_pods(self):
        with self._lock:
            return list(self._pods.values())

    def _members(self):
        found = [member for pod in self._all_pods() if (member := pod.member()) is not None]
        # As policies know the DNS service of a cluster.
        return [*found, Member("kube-system", {"k8s-app": "kube-dns"}, self.DNS_ADDRESS,
                               {("dns", "UDP"): 53, ("dns-tcp", "TCP"): 53})]

    # Threads.

    def _pod_changed(self, kind, item):
        uid, node = item["metadata"]["uid"], item["spec"].get("nodeName")
        if node not in self.hosts:
            return
        with self._lock:
            pod = self._pods.get(uid)
            if pod is None and kind != "DELETED":
                self._pods[uid] = Pod(self, self.hosts[node], item)
        if pod is not None and kind == "DELETED":
            pod.removed()
        elif pod is not None:
            if item["metadata"].get("labels") != pod.object["metadata"].get("labels"):
                self.rules_changed()
            pod.update(item)

    def _wake_namespace(self, _, item):
        for pod in self._all_pods():
            if pod.namespace == item["metadata"].get("namespace"):
                pod.changed()

    def _claim_changed(self, kind, claim):
        if kind != "DELETED":
            self.storage.claim_changed(claim)
        self._wake_namespace(kind, claim)

    def _disk_changed(self, kind, disk):
        if kind != "DELETED":
            self.storage.disk_changed(disk)
        for pod in self._all_pods():
            pod.changed()

    def _keep_rules(self):
        while not self.stopping:
            self._rules_wanted.wait()
            self._stopped.wait(0.05)  # what comes together is one change
            self._rules_wanted.clear()
            if not self.stopping:
                try:
                    self.rules.apply()
                except RuntimeError as error:
                    self.problem(str(error))

    def _keep_leases(self):
        while not self._stopped.wait(LEASE_RENEWAL_SECONDS):
            for host in self.hosts.values():
                if not host.down:
                    with contextlib.suppress(ApiError, OSError):
                        host.renew()
