"""The StorageClass of the tests: disks that are folders, or loop devices on files, of the node that first used them.

The scheduler chooses the node, this provisioner makes the PersistentVolume there, the real controllers bind it.
"""
import os
import pathlib
import shutil
import threading

import node_namespace as ns
from node_api import ApiError
from node_spec import quantity

PROVISIONER = "node-agent.test/local"
FOLDER = "/var/lib/disks"  # of each node


class Storage:
    """Makes PersistentVolumes for claims, and gives a pod's host their files."""

    def __init__(self, agent, class_name="test"):
        self._agent = agent
        self._class = class_name
        self._lock = threading.Lock()
        self._loops = {}  # name of a PersistentVolume: (device, descriptor)
        # A plain file instead of a device where the kernel has no loop devices: opens, reads, writes, but is no device.
        self.block_kind = "loop" if os.path.exists("/dev/loop-control") else "file"

    def register(self):
        self._agent.create("/apis/storage.k8s.io/v1/storageclasses", {
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": self._class,
                         "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"})

    def claim_changed(self, claim):
        """Makes a disk for a claim that was given a node."""
        annotations = claim["metadata"].get("annotations") or {}
        node = annotations.get("volume.kubernetes.io/selected-node")
        if (annotations.get("volume.kubernetes.io/storage-provisioner") != PROVISIONER or node is None
                or claim["spec"].get("volumeName") or claim["metadata"].get("deletionTimestamp")):
            return
        name = f"pvc-{claim['metadata']['uid']}"
        host = self._agent.hosts.get(node)
        if host is None:
            return
        mode = claim["spec"].get("volumeMode", "Filesystem")
        size = claim["spec"]["resources"]["requests"]["storage"]
        path = host.path(f"{FOLDER}/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "Block":
            with open(path, "ab") as file:
                file.truncate(int(quantity(size)))
        else:
            path.mkdir(exist_ok=True)
            os.chmod(path, 0o777)
        reference = {key: claim["metadata"][key] for key in ("namespace", "name", "uid", "resourceVersion")}
        self._agent.create("/api/v1/persistentvolumes", {
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
            "spec": {
                "capacity": {"storage": size}, "accessModes": claim["spec"]["accessModes"], "volumeMode": mode,
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": claim["spec"]["storageClassName"],
                "local": {"path": f"{FOLDER}/{name}"},
                "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})

    def disk_changed(self, disk):
        """Takes a disk away whose claim is gone."""
        if ((disk["metadata"].get("annotations") or {}).get("pv.kubernetes.io/provisioned-by") != PROVISIONER
                or disk.get("status", {}).get("phase") != "Released"
                or disk["spec"]["persistentVolumeReclaimPolicy"] != "Delete"
                or disk["metadata"].get("deletionTimestamp")):
            return
        try:
            self._agent.client.delete(f"/api/v1/persistentvolumes/{disk['metadata']['name']}")
        except ApiError as error:
            if error.code != 404:
                raise
        self._detach(disk["metadata"]["name"])
        path = self.path(disk)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @staticmethod
    def host_of(disk):
        terms = disk["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        return terms[0]["matchExpressions"][0]["values"][0]

    def path(self, disk):
        return self._agent.hosts[self.host_of(disk)].path(disk["spec"]["local"]["path"])

    def attach(self, disk):
        """What a pod mounts: the folder, or the device."""
        path = self.path(disk)
        name = disk["metadata"]["name"]
        if disk["spec"].get("volumeMode") != "Block" or self.block_kind == "file":
            return path
        with self._lock:
            if name not in self._loops:
                self._loops[name] = ns.attach_loop_device(path)
            return pathlib.Path(self._loops[name][0])

    def _detach(self, name):
        with self._lock:
            if name in self._loops:
                ns.close_quietly(self._loops.pop(name)[1])

    def close(self):
        for name in list(self._loops):
            self._detach(name)
