"""The life of one pod on a host: volumes, network, init containers, containers, restarts, the end; and its status."""
import os
import pathlib
import shutil
import threading
import time
import traceback

import node_namespace as ns
from node_api import STRATEGIC, ApiError, now
from node_container import Container
from node_network import Member, connect_pod, named_ports
from node_spec import refusals
from node_volumes import NotReady, Volumes


class Deleted(Exception):
    """The pod is to end."""


class HostDown(Exception):
    """The pod's host went down."""


class Pod:
    """A pod that was bound to one of our hosts, in a thread of its own."""

    def __init__(self, agent, host, item):
        self.agent = agent
        self.host = host
        self.object = item
        self.uid = item["metadata"]["uid"]
        self.name = item["metadata"]["name"]
        self.namespace = item["metadata"]["namespace"]
        self.folder = agent.folder / "pods" / self.uid
        self.folder.mkdir(parents=True)
        (self.folder / "scratch").mkdir()
        self.logs = agent.folder / "logs" / f"{self.namespace}_{self.name}_{self.uid[:8]}"
        spec = item["spec"]
        self.hostname = (spec.get("hostname") or self.name)[:63]
        self.security = spec.get("securityContext") or {}
        self.grace = spec.get("terminationGracePeriodSeconds", 30)
        self.has_init = bool(spec.get("initContainers"))
        self.init_containers = [Container(self, c, init=True) for c in spec.get("initContainers") or []]
        self.containers = [Container(self, c) for c in spec["containers"]]
        self.volumes = Volumes(agent, host, item, self.folder)
        self.namespaces = None
        self.address = ""
        self._phase = "Pending"
        self._boot = host.boots
        self._gone = False          # the object is no longer there
        self._wake = threading.Event()
        self._reported = None
        self._conditions = {}
        self._start_time = now()
        self._told = {}             # events: {reason: message}
        self._thread = threading.Thread(target=self._run, name=f"pod {self.name}", daemon=True)
        self._thread.start()

    # From outside.

    def update(self, item):
        self.object = item
        self.volumes.update_pod(item)
        self._wake.set()

    def removed(self):
        self._gone = True
        self._wake.set()

    def changed(self):
        self._wake.set()

    def join(self, timeout=None):
        self._thread.join(timeout)

    def member(self):
        """What policies see, while the pod has an address."""
        if self.namespaces is None or not self.address:
            return None
        metadata = self.object["metadata"]
        return Member(self.namespace, metadata.get("labels") or {}, self.address, named_ports(self.object))

    def container(self, name=None):
        for container in (*self.containers, *self.init_containers):
            if name in (None, container.name):
                return container
        raise KeyError(f"pod {self.name} has no container {name}")

    def kill(self):
        """Ends all processes at once."""
        for container in (*self.init_containers, *self.containers):
            container.kill_and_wait()

    def event(self, reason, message, kind="Warning"):
        if self._told.get(reason) != message:
            self._told[reason] = message
            self.agent.event(self.object, reason, message, kind)

    # Life.

    def _run(self):
        try:
            try:
                while True:
                    try:
                        self._live()
                    except HostDown:
                        self.kill()
                        self._close_network()
                        self.address = ""
                        self.volumes.forget()
                        for container in self.init_containers:
                            container.exit_code = None
                        while self.host.down and not self._gone and not self.agent.stopping:
                            self._wake.wait(1)
                            self._wake.clear()
            except Deleted:
                self._end()
        except Exception:  # pylint: disable=broad-except
            self.agent.problem(f"pod {self.namespace}/{self.name}: {traceback.format_exc()}")
            self.kill()
        finally:
            self._close_network()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.agent.forget(self)

    def _check(self):
        if self._gone or self.agent.stopping:
            raise Deleted
        if self.host.down or self.host.boots != self._boot:
            raise HostDown
        if "deletionTimestamp" in self.object["metadata"]:
            raise Deleted

    def _pause(self, seconds=None):
        """Until something changed, or it is time."""
        self._report()
        self._check()
        self._wake.wait(seconds)
        self._wake.clear()
        self._check()

    def _live(self):
        self._boot = self.host.boots
        if wrong := refusals(self.object["spec"]):
            for text in wrong:
                self.agent.problem(f"pod {self.namespace}/{self.name}: {text}")
            self._wait_for_ever("CreateContainerConfigError", "the node agent refuses: " + "; ".join(wrong))
        if self._phase in ("Succeeded", "Failed"):
            while True:
                self._pause()
        self._check()
        self.namespaces = ns.PodNamespaces(self.hostname)
        self._get_ready(lambda: self.volumes.set_up(self.namespaces), "ContainerCreating", "FailedMount")
        address, gateway = self.host.next_pod_address(), ns.PrivateNetwork.ADDRESS
        connect_pod(self.agent.next_number(), self.namespaces, address, gateway, self.host.address)
        self.address = self.volumes.pod_ip = address
        self.agent.rules.apply()
        self._write_system_files()
        for container in self.init_containers:
            while not self._step(container, self._init_policy()):
                self._pause(self._next_time([container]))
            if container.exit_code != 0:
                self._finish()
        while not all([self._step(container, self._policy) for container in self.containers]):
            self._phase = "Running" if all(c.exit_code is not None or c.process for c in self.containers) else "Pending"
            self._pause(self._next_time(self.containers))
            self.volumes.refresh()
        self._finish()

    @property
    def _policy(self):
        return self.object["spec"].get("restartPolicy", "Always")

    def _init_policy(self):
        return "OnFailure" if self._policy == "Always" else self._policy

    def _get_ready(self, action, reason, event):
        """Repeats an action until nothing is missing."""
        while True:
            try:
                return action()
            except NotReady as missing:
                self._set_waiting(reason, str(missing))
                self.event(event, str(missing))
                self._pause(2)

    def _set_waiting(self, reason, message):
        for container in (*self.init_containers, *self.containers):
            if "waiting" in container.state:
                container.state = {"waiting": {"reason": reason, "message": message}}

    def _wait_for_ever(self, reason, message):
        self._set_waiting(reason, message)
        self.event("Refused", message)
        while True:
            self._pause()

    def _step(self, container, policy):
        """Starts the container if it is time; True when it has ended for good."""
        if container.process is not None:
            return False
        if container.exit_code is not None:
            if policy == "Never" or (policy == "OnFailure" and container.exit_code == 0):
                return True
            if time.monotonic() < container.not_before:
                if "terminated" in container.state:
                    container.last_state = container.state
                    container.state = {"waiting": {"reason": "CrashLoopBackOff",
                                                   "message": f"back-off restarting container {container.name}"}}
                return False
        try:
            container.start()
        except NotReady as missing:
            container.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(missing)}}
            container.not_before = time.monotonic() + 1
            self.event("Failed", f"container {container.name}: {missing}")
        return False

    def _next_time(self, containers):
        """Seconds until something must be done without being woken."""
        times = [container.not_before - time.monotonic() for container in containers if container.process is None]
        if (renew := self.volumes.next_refresh()) is not None:
            times.append(renew - time.time())
        return max(min(times), 0.01) if times else None

    def _finish(self):
        """All containers ended for good: Succeeded or Failed."""
        ended = [*self.init_containers, *self.containers]
        self._phase = "Succeeded" if all(container.exit_code == 0 for container in ended) else "Failed"
        self._close_network()
        while True:
            self._pause()

    def _end(self):
        grace = self.object["metadata"].get("deletionGracePeriodSeconds", self.grace)
        if self._gone or self.agent.stopping or self.host.down:
            self.kill()
        else:
            stops = [threading.Thread(target=container.stop, args=(grace,), daemon=True)
                     for container in (*self.init_containers, *self.containers) if container.process is not None]
            for thread in stops:
                thread.start()
            while any(thread.is_alive() for thread in stops):
                self._report()
                if self._gone or self.agent.stopping:
                    self.kill()
                self._wake.wait(0.5)
                self._wake.clear()
        while self.host.down and not self._gone and not self.agent.stopping:
            time.sleep(0.2)  # its object stays until the node is there again
        if self.agent.stopping or self._gone:
            return
        if self._phase in ("Pending", "Running"):
            ended = [*self.init_containers, *self.containers]
            self._phase = "Succeeded" if all(container.exit_code == 0 for container in ended) else "Failed"
        self._report()
        while not self._gone and not self.agent.stopping:
            try:
                self.agent.client.delete(self._path(), {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}})
                return
            except ApiError as error:
                if error.code in (404, 409):
                    return
                raise
            except OSError:
                time.sleep(0.5)  # the API server is away

    def _close_network(self):
        if self.namespaces is not None:
            self.namespaces.close()
            self.namespaces = None
            self.agent.rules_changed()

    # What the containers find.

    def _write_system_files(self):
        spec = self.object["spec"]
        name = self.hostname
        if spec.get("subdomain"):
            name = f"{name}.{spec['subdomain']}.{self.namespace}.svc.{self.agent.domain}\t{name}"
        lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", f"{self.address}\t{name}"]
        lines += [f"{alias['ip']}\t" + "\t".join(alias["hostnames"]) for alias in spec.get("hostAliases") or []]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        (self.folder / "hostname").write_text(self.hostname + "\n")
        config, policy = spec.get("dnsConfig") or {}, spec.get("dnsPolicy", "ClusterFirst")
        servers, searches, options = [self.agent.DNS_ADDRESS], [], {}
        if policy.startswith("ClusterFirst"):
            domain = self.agent.domain
            searches, options = [f"{self.namespace}.svc.{domain}", f"svc.{domain}", domain], {"ndots": "5"}
        elif policy == "None":
            servers = []
        servers += config.get("nameservers") or []
        searches += config.get("searches") or []
        options.update({option["name"]: option.get("value") for option in config.get("options") or []})
        text = "".join(f"nameserver {server}\n" for server in servers)
        if searches:
            text += f"search {' '.join(searches)}\n"
        if options:
            text += "options " + " ".join(key if value is None else f"{key}:{value}" for key, value in options.items())
        (self.folder / "resolv.conf").write_text(text + "\n")
        for file in ("hosts", "hostname", "resolv.conf"):
            os.chmod(self.folder / file, 0o644)

    def system_mounts(self):
        readonly = bool(self.security.get("readOnlyRootFilesystem"))
        return [{"source": str(self.folder / name), "target": f"/etc/{name}", "readonly": readonly}
                for name in ("hosts", "hostname", "resolv.conf")]

    def service_environment(self):
        """The variables of enableServiceLinks; the API server's are always there."""
        values = {}
        links = self.object["spec"].get("enableServiceLinks", True)
        for service in sorted(self.agent.watches.services.items(), key=lambda item: item["metadata"]["name"]):
            metadata, spec = service["metadata"], service["spec"]
            master = metadata["namespace"] == "default" and metadata["name"] == "kubernetes"
            if spec.get("clusterIP") in (None, "", "None") or not (
                    master or (links and metadata["namespace"] == self.namespace)):
                continue
            name, address = metadata["name"].upper().replace("-", "_"), spec["clusterIP"]
            first = spec["ports"][0]
            values[f"{name}_SERVICE_HOST"] = address
            values[f"{name}_SERVICE_PORT"] = str(first["port"])
            values[f"{name}_PORT"] = f"{first.get('protocol', 'TCP').lower()}://{address}:{first['port']}"
            for port in spec["ports"]:
                protocol = port.get("protocol", "TCP")
                if port.get("name"):
                    values[f"{name}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
                prefix = f"{name}_PORT_{port['port']}_{protocol}"
                values.update({prefix: f"{protocol.lower()}://{address}:{port['port']}", f"{prefix}_PROTO":
                               protocol.lower(), f"{prefix}_PORT": str(port["port"]), f"{prefix}_ADDR": address})
        return values

    # Status.

    def _path(self):
        return f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"

    def _condition(self, kind, holds, reason=None):
        value = {"type": kind, "status": "True" if holds else "False"}
        if reason:
            value["reason"] = reason
        before = self._conditions.get(kind)
        if before is None or before["status"] != value["status"]:
            value["lastTransitionTime"] = now()
        else:
            value["lastTransitionTime"] = before["lastTransitionTime"]
        self._conditions[kind] = value
        return value

    def _status(self):
        initialized = all(container.exit_code == 0 for container in self.init_containers)
        done = self._phase in ("Succeeded", "Failed")
        ready = self._phase == "Running" and all(container.ready for container in self.containers)
        reason = None if ready else "PodCompleted" if done else "ContainersNotReady"
        status = {
            "phase": self._phase, "hostIP": self.host.address, "hostIPs": [{"ip": self.host.address}],
            "startTime": self._start_time, "qosClass": self.object.get("status", {}).get("qosClass", "BestEffort"),
            "conditions": [
                self._condition("PodReadyToStartContainers", bool(self.address and self.namespaces)),
                self._condition("Initialized", initialized, None if initialized else "ContainersNotInitialized"),
                self._condition("ContainersReady", ready, reason), self._condition("Ready", ready, reason)],
            "containerStatuses": [container.status() for container in self.containers]}
        if self.init_containers:
            status["initContainerStatuses"] = [container.status() for container in self.init_containers]
        if self.address:
            status.update({"podIP": self.address, "podIPs": [{"ip": self.address}]})
        return status

    def _report(self):
        if self._gone or self.host.down or self.agent.stopping:
            return
        status = self._status()
        if status == self._reported:
            return
        patch = {"metadata": {"uid": self.uid}, "status": dict(status)}
        if self._reported and self._reported.get("podIP") not in (None, self.address):
            patch["status"]["podIPs"] = [{"$patch": "replace"}, {"ip": self.address}]
        try:
            self.agent.client.patch(f"{self._path()}/status", patch, STRATEGIC)
            self._reported = status
        except ApiError as error:
            # Gone, or another pod has the name by now: its uid is not this one's.
            if error.code not in (404, 409) and not (error.code == 422 and "metadata.uid" in str(error)):
                self.agent.problem(f"pod {self.namespace}/{self.name}: {error}")
        except OSError:
            threading.Timer(0.5, self.changed).start()  # the API server is away
