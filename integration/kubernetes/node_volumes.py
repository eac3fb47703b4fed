"""The volumes of a pod as folders and devices of this machine."""
import base64
import datetime
import os
import pathlib
import shutil
import stat
import time

import node_namespace as ns
from node_api import ApiError
from node_spec import pod_field, quantity, resource_field


class NotReady(Exception):
    """Something that the pod needs is not there yet; the text says what."""


HOST_PATH_TYPES = {
    "": None, "Directory": stat.S_ISDIR, "DirectoryOrCreate": stat.S_ISDIR, "File": stat.S_ISREG,
    "FileOrCreate": stat.S_ISREG, "Socket": stat.S_ISSOCK, "CharDevice": stat.S_ISCHR, "BlockDevice": stat.S_ISBLK}
PROJECTED = ("secret", "configMap", "downwardAPI", "projected")


def write_atomically(folder, files):
    """Makes a folder show exactly these files ({path: (bytes, mode)}), from one moment to the next: as kubelet does,
    by a link `..data` to a folder that is written before."""
    folder = pathlib.Path(folder)
    fresh = folder / f"..{time.time_ns()}"
    fresh.mkdir(mode=0o755)
    os.chmod(fresh, 0o755)
    for path, (content, mode) in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        os.chmod(target, mode)
    link = folder / "..data"
    before = os.readlink(link) if link.is_symlink() else None
    (folder / "..data_tmp").symlink_to(fresh.name)
    os.rename(folder / "..data_tmp", link)
    names = {pathlib.PurePath(path).parts[0] for path in files}
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for entry in folder.iterdir():
        if not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    if before:
        shutil.rmtree(folder / before)


def give_to_group(path, group, readonly=False):
    """What kubelet does with a volume for fsGroup."""
    for folder, _, files in os.walk(path):
        os.chown(folder, -1, group)
        os.chmod(folder, stat.S_IMODE(os.stat(folder).st_mode) | 0o2110 | (0o440 if readonly else 0o660))
        for name in files:
            file = os.path.join(folder, name)
            os.lchown(file, -1, group)
            if not os.path.islink(file):
                os.chmod(file, stat.S_IMODE(os.stat(file).st_mode) | (0o440 if readonly else 0o660))


class Volumes:
    """The volumes of one pod on one host. `agent` has the client and the watches."""

    def __init__(self, agent, host, pod, folder):
        self._agent = agent
        self._host = host
        self._pod = pod
        self._folder = pathlib.Path(folder)
        self._namespace = pod["metadata"]["namespace"]
        self._group = pod["spec"].get("securityContext", {}).get("fsGroup")
        self._paths = {}      # name of a volume: path
        self._readonly = set()
        self._written = {}    # name of a volume: files as they are now
        self._tokens = {}     # path in the volume: (token, when to ask for the next)
        self.pod_ip = ""

    def set_up(self, namespaces):
        """Makes all volumes. NotReady where something is missing, to be called again."""
        for volume in self._pod["spec"].get("volumes") or []:
            if volume["name"] not in self._paths:
                kind = next((key for key in volume if key != "name"), "emptyDir")
                path = self._folder / "volumes" / volume["name"]
                if kind in PROJECTED:
                    self._project(volume["name"], kind, volume[kind], path)
                else:
                    path = {"emptyDir": self._empty, "hostPath": self._host_path,
                            "persistentVolumeClaim": self._claim}[kind](volume, path, namespaces)
                self._paths[volume["name"]] = path

    def forget(self):
        """The host was started anew: what was in memory must be made again."""
        self._paths.clear()

    def refresh(self):
        """Brings Secrets, ConfigMaps, labels and tokens that changed to the pod."""
        for volume in self._pod["spec"].get("volumes") or []:
            kind = next((key for key in volume if key != "name"), "emptyDir")
            if kind in PROJECTED and volume["name"] in self._paths:
                try:
                    self._project(volume["name"], kind, volume[kind], self._paths[volume["name"]])
                except NotReady:
                    pass  # what was there stays there

    def update_pod(self, pod):
        self._pod = pod

    def next_refresh(self):
        """When a token gets old, by time.time(); None for never."""
        return min((when for _, when in self._tokens.values()), default=None)

    def mounts(self, container):
        """The container's mounts, as node_launch wants them."""
        found = []
        for mount in container.get("volumeMounts") or []:
            source = pathlib.Path(self._paths[mount["name"]])
            if sub := mount.get("subPath"):
                if pathlib.PurePath(sub).is_absolute() or ".." in pathlib.PurePath(sub).parts:
                    raise NotReady(f"subPath {sub} leads out of the volume")
                source = source / sub
                if not source.exists():
                    source.mkdir(parents=True)
                    if self._group is not None:
                        give_to_group(source, self._group)
            found.append({"source": str(source), "target": os.path.normpath(mount["mountPath"]),
                          "readonly": bool(mount.get("readOnly")) or mount["name"] in self._readonly})
        for device in container.get("volumeDevices") or []:
            path = self._paths[device["name"]]
            found.append({"source": str(path), "target": os.path.normpath(device["devicePath"]), "readonly": False,
                          "device": stat.S_ISBLK(os.stat(path).st_mode)})
        return found

    # Kinds.

    def _empty(self, volume, path, namespaces):
        source = volume.get("emptyDir") or {}
        path.mkdir(parents=True, exist_ok=True)
        os.chmod(path, 0o777)
        if source.get("medium") == "Memory":
            size = f",size={int(quantity(source['sizeLimit']))}" if "sizeLimit" in source else ""
            group = "" if self._group is None else f",gid={self._group}"
            mode = "0777" if self._group is None else "2777"
            namespaces.inside(lambda: ns.mount("tmpfs", path, "tmpfs", data=f"mode={mode}{size}{group}"))
        elif self._group is not None:
            give_to_group(path, self._group)
        return path

    def _host_path(self, volume, _path, _namespaces):
        source = volume["hostPath"]
        kind = source.get("type") or ""
        if kind not in HOST_PATH_TYPES:
            raise NotReady(f"hostPath type {kind} is not supported")
        path = self._host.path(source["path"])
        if kind == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        elif kind == "FileOrCreate" and not path.exists():
            path.touch(mode=0o644)
        if not path.exists():
            raise NotReady(f"hostPath {source['path']} is not there on {self._host.name}")
        if HOST_PATH_TYPES[kind] and not HOST_PATH_TYPES[kind](path.stat().st_mode):
            raise NotReady(f"hostPath {source['path']} on {self._host.name} is no {kind}")
        return path

    def _claim(self, volume, _path, _namespaces):
        source = volume["persistentVolumeClaim"]
        claim = self._agent.watches.claims.get(self._namespace, source["claimName"])
        if claim is None or claim.get("status", {}).get("phase") != "Bound":
            raise NotReady(f"persistentvolumeclaim {source['claimName']} is not bound")
        disk = self._agent.watches.disks.get("", claim["spec"]["volumeName"])
        if disk is None or "local" not in disk["spec"]:
            raise NotReady(f"persistentvolume {claim['spec']['volumeName']} is not there or not of a supported kind")
        if self._agent.storage.host_of(disk) != self._host.name:
            raise NotReady(f"persistentvolume {disk['metadata']['name']} is on another node than {self._host.name}")
        path = self._agent.storage.attach(disk)
        if source.get("readOnly"):
            self._readonly.add(volume["name"])
        if self._group is not None and path.is_dir():
            policy = self._pod["spec"]["securityContext"].get("fsGroupChangePolicy", "Always")
            status = path.stat()
            if policy == "Always" or status.st_gid != self._group or not status.st_mode & stat.S_ISGID:
                give_to_group(path, self._group)
        return path

    # Files from objects.

    def _project(self, name, kind, source, path):
        sources = source["sources"] if kind == "projected" else [{kind: source}]
        mode = source.get("defaultMode", 0o644)
        files = {}
        for entry in sources:
            for entry_kind, value in entry.items():
                files.update(getattr(self, f"_{entry_kind}_files")(value, mode))
        if self._written.get(name) != files:
            path.mkdir(parents=True, exist_ok=True)
            os.chmod(path, 0o755)
            shown = files
            if self._group is not None:
                shown = {file: (content, file_mode | 0o440) for file, (content, file_mode) in files.items()}
            write_atomically(path, shown)
            if self._group is not None:
                for folder, folders, names in os.walk(path):
                    for entry in (*folders, *names):
                        os.lchown(os.path.join(folder, entry), -1, self._group)
            elif (user := self._common_user()) is not None:
                for file in self._tokens:
                    if file in files:
                        os.chown(path / file, user, -1)
            self._written[name] = files

    def _common_user(self):
        """The user that all containers run as, if the spec says so: tokens belong to it."""
        spec = self._pod["spec"]
        default = spec.get("securityContext", {}).get("runAsUser")
        users = {container.get("securityContext", {}).get("runAsUser", default) for container in spec["containers"]}
        return users.pop() if len(users) == 1 else None

    def _object_files(self, item, what, data, source, mode):
        if item is None:
            if source.get("optional"):
                return {}
            raise NotReady(f"{what} not found")
        if "items" not in source:
            return {key: (value, mode) for key, value in data.items()}
        files = {}
        for entry in source["items"]:
            if entry["key"] in data:
                files[entry["path"]] = (data[entry["key"]], entry.get("mode", mode))
            elif not source.get("optional"):
                raise NotReady(f"{what} has no key {entry['key']}")
        return files

    def _secret_files(self, source, mode):
        name = source.get("secretName") or source.get("name")
        item = self._agent.watches.secrets.get(self._namespace, name)
        return self._object_files(item, f'secret "{name}"', secret_data(item), source, mode)

    def _configMap_files(self, source, mode):  # pylint: disable=invalid-name
        item = self._agent.watches.config_maps.get(self._namespace, source["name"])
        return self._object_files(item, f'configmap "{source["name"]}"', config_map_data(item), source, mode)

    def _downwardAPI_files(self, source, mode):  # pylint: disable=invalid-name
        files = {}
        for entry in source.get("items") or []:
            if "fieldRef" in entry:
                value = pod_field(entry["fieldRef"]["fieldPath"], self._pod, self._host.address, self.pod_ip)
            else:
                reference = entry["resourceFieldRef"]
                container = next(item for item in self._pod["spec"]["containers"]
                                 if item["name"] == reference["containerName"])
                value = resource_field(reference, container, self._host.ALLOCATABLE)
            files[entry["path"]] = (value.encode(), entry.get("mode", mode))
        return files

    def _serviceAccountToken_files(self, source, mode):  # pylint: disable=invalid-name
        path = source["path"]
        token, renew = self._tokens.get(path, (None, 0))
        if time.time() >= renew:
            metadata = self._pod["metadata"]
            account = self._pod["spec"].get("serviceAccountName", "default")
            seconds = source.get("expirationSeconds", 3600)
            spec = {"expirationSeconds": seconds, "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}}
            if source.get("audience"):
                spec["audiences"] = [source["audience"]]
            try:
                status = self._agent.client.post(
                    f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token", {"spec": spec})["status"]
            except (ApiError, OSError) as error:
                if token is None:
                    raise NotReady(f"no token of service account {account}: {error}") from None
                self._tokens[path] = token, time.time() + 10
            else:
                # The server may give it for longer than it was asked for.
                end = datetime.datetime.fromisoformat(status["expirationTimestamp"].replace("Z", "+00:00"))
                life = min(seconds, end.timestamp() - time.time())
                token = status["token"]
                self._tokens[path] = token, time.time() + 0.8 * life
        private = self._group is not None or self._common_user() is not None
        return {path: (token.encode(), 0o600 if private else mode)}


def secret_data(item):
    return {key: base64.b64decode(value) for key, value in ((item or {}).get("data") or {}).items()}


def config_map_data(item):
    data = {key: value.encode() for key, value in ((item or {}).get("data") or {}).items()}
    data.update({key: base64.b64decode(value) for key, value in ((item or {}).get("binaryData") or {}).items()})
    return data
