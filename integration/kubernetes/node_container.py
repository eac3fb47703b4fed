"""A container of a pod: what its process gets, its runs, its state as Kubernetes tells it."""
import os
import signal
import subprocess
import threading
import time

import node_namespace as ns
from node_api import now
from node_probe import Prober, http_get, port_number
from node_process import Process, StartError
from node_spec import expand, pod_field, resource_field
from node_volumes import NotReady, config_map_data, secret_data

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE").split()
USUAL_CAPABILITIES = {"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
                      "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"}


class Container:
    """One container of a pod with all its runs. `pod` is the node_pod.Pod; its changed() is called on every news."""

    def __init__(self, pod, spec, init=False):
        self.pod = pod
        self.spec = spec
        self.name = spec["name"]
        self.init = init
        self.state = {"waiting": {"reason": "PodInitializing" if not init and pod.has_init else "ContainerCreating"}}
        self.last_state = {}
        self.restarts = 0
        self.started = self.ready = False
        self.process = None
        self.exit_code = None       # of the last run; None before the first end
        self.not_before = 0.0       # time.monotonic() of the next start
        self.logs = pod.logs / self.name
        self._runs = 0
        self._back_off = 0.0
        self._ended = threading.Event()
        self._probers = []
        self._launched = {}         # what the last run was started with
        self._stopping = False

    # Starting.

    def start(self):
        """Starts the next run. NotReady if something is missing; a program that can't be started is an ended run."""
        spec = self._launched = self._launch_spec()
        self.logs.mkdir(parents=True, exist_ok=True)
        self._message_file().write_bytes(b"")
        os.chmod(self._message_file(), 0o666)
        if self.exit_code is not None or "terminated" in self.state:
            self.restarts += 1
            self.last_state = self.state if "terminated" in self.state else self.last_state
        self._runs += 1
        self._stopping = False
        self._ended.clear()
        began = now()
        with open(self.log_path(), "ab") as log:
            os.chmod(log.fileno(), 0o666)
            try:
                process = Process(spec, stdout=log, stderr=log)
            except StartError as error:
                self.state = {"terminated": {"exitCode": 128, "reason": "StartError", "message": str(error),
                                             "startedAt": began, "finishedAt": now(), "containerID": self.id()}}
                self.pod.event("Failed", f"container {self.name}: {error}")
                self._after_end(128)
                return
        self.process = process
        self.state = {"running": {"startedAt": began}}
        self.started = "startupProbe" not in self.spec
        self.ready = self.started and "readinessProbe" not in self.spec
        threading.Thread(target=self._await_end, args=(process, began), name=f"wait {self.name}", daemon=True).start()
        if hook := self.spec.get("lifecycle", {}).get("postStart"):
            threading.Thread(target=self._post_start, args=(hook,), daemon=True).start()
        if self.started:
            self._probe_on()
        else:
            self._probe("startupProbe", self._startup_result)

    def _launch_spec(self):
        spec, pod = self.spec, self.pod
        try:
            image = pod.agent.image(spec["image"])
        except KeyError as error:
            raise NotReady(error.args[0]) from None
        security = {**pod.security, **spec.get("securityContext", {})}
        uid = security.get("runAsUser", image.user[0])
        group = dict(image.users.values()).get(uid, 0) if "runAsUser" in security else image.user[1]
        if security.get("runAsNonRoot") and uid == 0:
            raise NotReady("container has runAsNonRoot and would run as root")
        environment = self._make_environment(image)
        command = [expand(text, environment) for text in spec.get("command") or image.entrypoint]
        arguments = spec.get("args") or ([] if spec.get("command") else image.command)
        command += [expand(text, environment) for text in arguments]
        if not command:
            raise NotReady("no command specified")
        changes = security.get("capabilities") or {}
        usual = set() if "ALL" in changes.get("drop", []) else USUAL_CAPABILITIES - set(changes.get("drop", []))
        had = set(CAPABILITIES) if "ALL" in changes.get("add", []) else usual | set(changes.get("add", []))
        if unknown := had - set(CAPABILITIES):
            raise NotReady(f"unknown capabilities {', '.join(sorted(unknown))}")
        mounts = [*pod.volumes.mounts(spec), *pod.system_mounts()]
        mounts.append({"source": str(self._message_file()), "readonly": False,
                       "target": spec.get("terminationMessagePath", "/dev/termination-log")})
        return {
            "enter": [[pod.namespaces.path(kind), flag] for kind, flag in pod.namespaces.KINDS.items()], "new": True,
            "root": {"scratch": str(pod.folder / "scratch"), "image": str(pod.agent.image_folder(spec["image"])),
                     "system": str(pod.agent.folder / "system"), "boot_id": str(pod.host.boot_id_file),
                     "mounts": mounts, "readonly": bool(security.get("readOnlyRootFilesystem"))},
            "argv": command, "env": environment, "cwd": spec.get("workingDir") or image.working_dir,
            "uid": uid, "gid": security.get("runAsGroup", group),
            "groups": [*security.get("supplementalGroups", []),
                       *([security["fsGroup"]] if "fsGroup" in security else [])],
            "capabilities": [CAPABILITIES.index(name) for name in sorted(had)],
            "no_new_privileges": security.get("allowPrivilegeEscalation") is False}

    def _make_environment(self, image):
        values = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/",
                  "HOSTNAME": self.pod.hostname, **image.env, **self.pod.service_environment()}
        for source in self.spec.get("envFrom") or []:
            kind = "secretRef" if "secretRef" in source else "configMapRef"
            data = self._data(kind, source[kind])
            values.update({source.get("prefix", "") + key: value.decode() for key, value in (data or {}).items()})
        for entry in self.spec.get("env") or []:
            origin = entry.get("valueFrom")
            if origin is None:
                values[entry["name"]] = expand(entry.get("value", ""), values)
            elif "fieldRef" in origin:
                values[entry["name"]] = pod_field(origin["fieldRef"]["fieldPath"], self.pod.object,
                                                  self.pod.host.address, self.pod.address)
            elif "resourceFieldRef" in origin:
                values[entry["name"]] = resource_field(origin["resourceFieldRef"], self.spec,
                                                       self.pod.host.ALLOCATABLE)
            else:
                (kind, reference), = origin.items()
                data = self._data(kind, reference)
                if data is not None and reference["key"] in data:
                    values[entry["name"]] = data[reference["key"]].decode()
                elif not reference.get("optional"):
                    raise NotReady(f"couldn't find key {reference['key']} in {kind} {reference['name']}")
        return values

    def _data(self, kind, reference):
        watches = self.pod.agent.watches
        secret = kind.startswith("secret")
        item = (watches.secrets if secret else watches.config_maps).get(self.pod.namespace, reference["name"])
        if item is None:
            if reference.get("optional"):
                return None
            raise NotReady(f'{"secret" if secret else "configmap"} "{reference["name"]}" not found')
        return secret_data(item) if secret else config_map_data(item)

    # Probes and hooks.

    def _probe(self, name, report):
        probe = self.spec.get(name)
        if probe:
            self._probers.append(Prober(probe, self.spec, self.pod.address, self.execute, report))

    def _probe_on(self):
        self._probe("readinessProbe", self._readiness_result)
        self._probe("livenessProbe", self._liveness_result)

    def _startup_result(self, good, why):
        if good and not self.started:
            self._stop_probers()
            self.started = True
            self.ready = "readinessProbe" not in self.spec
            self._probe_on()
            self.pod.changed()
        elif not good:
            self._unhealthy("Startup", why, self.spec["startupProbe"])

    def _readiness_result(self, good, why):
        if good != self.ready:
            self.ready = good
            if not good:
                self.pod.event("Unhealthy", f"Readiness probe of {self.name} failed: {why}")
            self.pod.changed()

    def _liveness_result(self, good, why):
        if not good:
            self._unhealthy("Liveness", why, self.spec["livenessProbe"])

    def _unhealthy(self, kind, why, probe):
        self._stop_probers()
        self.pod.event("Unhealthy", f"{kind} probe of {self.name} failed: {why}; it will be restarted")
        grace = probe.get("terminationGracePeriodSeconds", self.pod.grace)
        threading.Thread(target=self.stop, args=(grace,), name=f"stop {self.name}", daemon=True).start()

    def _stop_probers(self):
        while self._probers:
            self._probers.pop().stop()

    def _run_hook(self, hook, timeout):
        """None, or what went wrong."""
        try:
            if "sleep" in hook:
                self._ended.wait(min(timeout, hook["sleep"]["seconds"]))
            elif "httpGet" in hook:
                action = hook["httpGet"]
                host = action.get("host") or self.pod.address
                status = http_get(host, port_number(action["port"], self.spec), action, timeout)
                return None if status < 400 else f"HTTP status {status}"
            else:
                code, output = self.execute(hook["exec"]["command"], timeout)
                return None if code == 0 else f"exit code {code}: {output[-200:]}"
        except (OSError, ValueError) as error:
            return str(error)
        return None

    def _post_start(self, hook):
        if why := self._run_hook(hook, 600):
            self.pod.event("FailedPostStartHook", f"container {self.name}: {why}")
            self.stop(self.pod.grace)

    # Ending.

    def stop(self, grace):
        """preStop, SIGTERM, SIGKILL when `grace` seconds are over. Returns when the process is gone."""
        if self.process is None or self._stopping:
            self._ended.wait(grace + 10)
            return
        self._stopping = True
        process = self.process
        end = time.monotonic() + grace
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook and grace > 0 and (why := self._run_hook(hook, grace)):
            self.pod.event("FailedPreStopHook", f"container {self.name}: {why}")
        if grace > 0:
            process.signal(signal.SIGTERM)
            self._ended.wait(max(end - time.monotonic(), 2))
        if not self._ended.is_set():
            process.signal(signal.SIGKILL)
            self._ended.wait()

    def kill(self, number=signal.SIGKILL):
        if self.process is not None:
            self.process.signal(number)

    def kill_and_wait(self):
        if self.process is not None:
            self.process.signal(signal.SIGKILL)
            self._ended.wait()

    def _await_end(self, process, began):
        code = process.wait()
        self._stop_probers()
        self.process = None
        self.state = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error",
                                     "startedAt": began, "finishedAt": now(), "containerID": self.id()}}
        if code > 128:
            self.state["terminated"]["signal"] = code - 128
        if message := self._message(code):
            self.state["terminated"]["message"] = message
        self._after_end(code)

    def _after_end(self, code):
        self.started = self.ready = False
        self.exit_code = code
        # The first restart comes at once, the next ones later and later.
        self.not_before = time.monotonic() + self._back_off
        first, last = self.pod.agent.back_off
        self._back_off = min(max(2 * self._back_off, first), last)
        self._ended.set()
        self.pod.changed()

    def _message_file(self):
        return self.pod.folder / f"message-{self.name}"

    def _message(self, code):
        message = self._message_file().read_bytes()[:4096] if self._message_file().exists() else b""
        if not message and code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = b"".join(self.log_path().read_bytes()[-2048:].splitlines(True)[-80:])
        return message.decode(errors="replace")

    # Looking in.

    def id(self):
        return f"process://{self.pod.uid}/{self.name}/{self._runs}"

    def log_path(self, previous=False):
        return self.logs / f"{self._runs - (1 if previous else 0)}.log"

    def exec_spec(self, argv):
        """How node_launch starts one more process in the container."""
        process = self.process
        if process is None:
            raise OSError(f"container {self.name} does not run")
        kinds = {"pid": ns.CLONE_NEWPID, **self.pod.namespaces.KINDS}
        return {**self._launched, "argv": argv, "new": False,
                "enter": [[f"/proc/{process.pid}/ns/{kind}", flag] for kind, flag in kinds.items()]}

    def execute(self, argv, timeout=60):
        """Runs a program in the container to its end: (exit code, output)."""
        try:
            process = Process(self.exec_spec(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except (StartError, NotReady) as error:
            return 126, str(error)
        timer = threading.Timer(timeout, process.signal, [signal.SIGKILL])
        timer.start()
        try:
            with process.stdout:
                output = process.stdout.read()
            code = process.wait()
        finally:
            timer.cancel()
        return code, output.decode(errors="replace")

    def status(self):
        running = "running" in self.state
        status = {"name": self.name, "image": self.spec["image"], "imageID": "", "restartCount": self.restarts,
                  "ready": self.exit_code == 0 if self.init and not running else self.ready, "state": self.state,
                  "lastState": self.last_state, "started": self.started}
        if self._runs:
            status["containerID"] = self.id()
            status["imageID"] = f"process://{self.spec['image']}"
        return status
