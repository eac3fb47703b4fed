"""A real Kubernetes control plane as processes: etcd, API server, controller manager and scheduler.

There are no nodes: whoever runs pods registers Nodes through the API as a kubelet does. All state is in one folder,
processes are ended by pid, and nothing outlives stop(). The programs come from tools/setup_kubernetes.
"""
import atexit
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
from cluster import CommandFailed, TIMEOUT_FACTOR, wait_until  # noqa: E402  pylint: disable=wrong-import-position

CACHE = pathlib.Path(os.environ.get("TESSERA_CACHE", pathlib.Path.home() / ".cache" / "tessera"))
# For kubeconform -schema-location, and custom resource definitions that a test can apply.
SCHEMAS = CACHE / "kubernetes-schemas"
CRDS = CACHE / "kubernetes-crds"
TRIES = 5  # another process may take a free port between our look and the API server's
STOP_SECONDS = 30
DAYS = 365
ADMIN_GROUP = "system:masters"


def tool(name):
    """The path of a program that tools/setup_kubernetes installs, or None."""
    installed = CACHE / "bin" / name
    return str(installed) if os.access(installed, os.X_OK) else shutil.which(name)


def missing(*more):
    """None when a control plane can run here, else the reason why not. `more`: other programs that a test needs."""
    for name in ("kube", "helm", *more):
        if tool(name) is None:
            go = "" if shutil.which("go") or os.access("/usr/local/go/bin/go", os.X_OK) else " (Go is missing)"
            return f"{name} is not installed: run tools/setup_kubernetes{go}"
    if shutil.which("openssl") is None:
        return "openssl is not installed: run tools/setup"
    return None


def kubernetes_version():
    """The release that tools/setup_kubernetes builds, without the "v"."""
    text = (HERE / "toolchain" / "go.mod").read_text()
    return re.search(r"^\s*k8s\.io/kubernetes v(\S+)", text, re.MULTILINE).group(1)


def schema_versions():
    """The releases whose schemas are there for kubeconform, oldest first."""
    names = [path.name for path in SCHEMAS.glob("v*-standalone-strict")]
    versions = [name.removeprefix("v").removesuffix("-standalone-strict") for name in names]
    return sorted(versions, key=lambda version: tuple(map(int, version.split("."))))


class Authority:
    """The cluster's certificate authority, and what it signs. What is there already is kept."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.configuration = folder / "openssl.cnf"
        self.configuration.write_text("[req]\ndistinguished_name = none\n[none]\n")
        self.certificate, self.key = self.issue("ca", "/CN=kubernetes-ca", (
            "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"))

    def _openssl(self, *arguments):
        result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CommandFailed(["openssl", *arguments], result.returncode, result.stdout + result.stderr)

    def issue(self, name, subject, extensions):
        """A key and a certificate; the authority's own when there is none yet. Returns both paths."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if not certificate.exists():
            signer = [] if name == "ca" else ["-CA", self.certificate, "-CAkey", self.key]
            additions = [part for extension in extensions for part in ("-addext", extension)]
            self._openssl("req", "-config", self.configuration, "-x509", *signer, "-newkey", "ec", "-pkeyopt",
                          "ec_paramgen_curve:P-256", "-noenc", "-keyout", key, "-out", certificate, "-days", DAYS,
                          "-subj", subject, *additions)
        return certificate, key

    def issue_client(self, name, user, *groups):
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        return self.issue(name, subject, ("keyUsage=critical,digitalSignature", "extendedKeyUsage=clientAuth"))

    def issue_server(self, name, user, names, addresses):
        alternatives = ",".join([*(f"DNS:{item}" for item in names), *(f"IP:{item}" for item in addresses)])
        return self.issue(name, f"/CN={user}", (
            "keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth", f"subjectAltName={alternatives}"))

    def make_token_keys(self):
        """service-account.key and .pub, which service account tokens are signed and checked with."""
        key, public = self.folder / "service-account.key", self.folder / "service-account.pub"
        if not public.exists():
            self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
            self._openssl("pkey", "-in", key, "-pubout", "-out", public)


class Process:
    """One of the programs of `kube`."""

    def __init__(self, folder, name, arguments, environment=()):
        self.folder = folder
        self.name = name
        self.arguments = arguments
        self.environment = dict(environment)
        self.log_path = folder / "log" / f"{name}.log"
        self.log_start = 0
        self.process = None

    def start(self):
        if self.alive():
            return
        with open(self.log_path, "ab") as log:
            self.log_start = log.tell()
            # It is called by its own name, so that it is known by that in a list of processes; and it ends with us,
            # however we end. To be started from the main thread.
            self.process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", "bash", "-c",
                                             'exec -a "$0" "$@"', self.name, tool("kube"), *map(str, self.arguments())],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                                            start_new_session=True, env={**os.environ, **self.environment})

    def log(self):
        """What it has written since its last start."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def check(self):
        """True, or an error that says why the process is gone."""
        if not self.alive():
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log()[-4000:]}")
        return True

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self, force=False):
        """Ends it in good order; by force when that takes too long. Returns what was wrong, as lines for a person."""
        if self.process is None:
            return []
        process, self.process = self.process, None
        if process.poll() is not None:
            return [f"{self.name} ended by itself with {process.returncode}; the end of its log:\n{self.log()[-3000:]}"]
        process.send_signal(signal.SIGKILL if force else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS * TIMEOUT_FACTOR)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return [f"{self.name} did not end within {STOP_SECONDS * TIMEOUT_FACTOR:.0f} s of SIGTERM"]
        return []


class ControlPlane:
    """start(), then kubectl(), helm() and .kubeconfig; end with stop(). A second start() starts what does not run any
    more, with the state that it had and at the same address.

    bind_address: where the API server listens. With an address that is not a loopback one the Service "kubernetes" gets
    it as its endpoint; with a loopback one (which Kubernetes has no endpoints for) that Service has none, and whoever
    runs pods leads .service_address port 443 to .bind_address port .port.
    """

    def __init__(self, folder, bind_address="127.0.0.1", service_cidr="10.96.0.0/16", pod_cidr=None,
                 cluster_domain="cluster.local", scheduler=True, api_server_options=(), controller_manager_options=(),
                 scheduler_options=()):
        self.folder = pathlib.Path(folder).resolve()
        self.bind_address = str(ipaddress.ip_address(bind_address))
        self.service_network = ipaddress.ip_network(service_cidr)
        self.service_address = str(self.service_network[1])
        self.pod_network = ipaddress.ip_network(pod_cidr) if pod_cidr else None
        self.cluster_domain = cluster_domain
        self.options = {"kube-apiserver": api_server_options, "kube-controller-manager": controller_manager_options,
                        "kube-scheduler": scheduler_options}
        self.port = None
        self.authority = None
        self.client_certificates = {}
        self.kubeconfig = self.folder / "admin.kubeconfig"
        self.ca_file = self.folder / "pki" / "ca.crt"
        self.etcd = Process(self.folder, "etcd", self._etcd_arguments, {"GOMAXPROCS": "1"})
        self.api_server = Process(self.folder, "kube-apiserver", self._api_server_arguments)
        self.controller_manager = Process(self.folder, "kube-controller-manager", self._controller_manager_arguments,
                                          {"GOMAXPROCS": "1"})
        self.scheduler = Process(self.folder, "kube-scheduler", self._scheduler_arguments, {"GOMAXPROCS": "1"})
        self.parts = [self.etcd, self.api_server, self.controller_manager, *([self.scheduler] if scheduler else [])]

    @property
    def server(self):
        host = f"[{self.bind_address}]" if ":" in self.bind_address else self.bind_address
        return f"https://{host}:{self.port}"

    @property
    def client_certificate(self):
        """Paths of the certificate and the key of the administrator."""
        return self.client_certificates["admin"]

    # What each process is told.

    def _etcd_arguments(self):
        # Sockets in the folder that it runs in: no ports, and nobody else reaches them. What a power cut would cost
        # does not matter here; waiting for the disk does.
        return ["--name=main", "--data-dir=etcd", "--listen-client-urls=unix://etcd.sock",
                "--advertise-client-urls=unix://etcd.sock", "--listen-peer-urls=unix://peer.sock",
                "--initial-advertise-peer-urls=unix://peer.sock", "--initial-cluster=main=unix://peer.sock",
                "--unsafe-no-fsync", "--snapshot-count=5000", "--auto-compaction-retention=5m", "--log-level=warn"]

    def _api_server_arguments(self):
        pki = self.folder / "pki"
        loopback = ipaddress.ip_address(self.bind_address).is_loopback
        return [
            "--etcd-servers=unix://etcd.sock", f"--bind-address={self.bind_address}", f"--secure-port={self.port}",
            f"--advertise-address={self.bind_address}", f"--endpoint-reconciler-type={'none' if loopback else 'lease'}",
            f"--service-cluster-ip-range={self.service_network}", f"--cert-dir={pki}",
            f"--tls-cert-file={pki / 'api-server.crt'}", f"--tls-private-key-file={pki / 'api-server.key'}",
            f"--client-ca-file={self.ca_file}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            f"--service-account-issuer=https://kubernetes.default.svc.{self.cluster_domain}",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            # For logs and exec, where what runs the pods has a kubelet's port.
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP,Hostname", "--profiling=false",
            "--shutdown-send-retry-after=false", *self.options["kube-apiserver"]]

    def _controller_manager_arguments(self):
        pki = self.folder / "pki"
        kubeconfig = self.folder / "controller-manager.kubeconfig"
        nodes = ["--allocate-node-cidrs=true", f"--cluster-cidr={self.pod_network}",
                 f"--service-cluster-ip-range={self.service_network}"] if self.pod_network else []
        return [
            f"--kubeconfig={kubeconfig}", "--secure-port=0", "--leader-elect=false", "--profiling=false",
            f"--service-account-private-key-file={pki / 'service-account.key'}", f"--root-ca-file={self.ca_file}",
            f"--cluster-signing-cert-file={self.ca_file}", f"--cluster-signing-key-file={pki / 'ca.key'}",
            "--kube-api-qps=100", "--kube-api-burst=200", *nodes, *self.options["kube-controller-manager"]]

    def _scheduler_arguments(self):
        return [f"--kubeconfig={self.folder / 'scheduler.kubeconfig'}", "--secure-port=0", "--leader-elect=false",
                "--profiling=false", "--kube-api-qps=100", "--kube-api-burst=200", *self.options["kube-scheduler"]]

    # Files.

    def _make_certificates(self):
        self.authority = Authority(self.folder / "pki")
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc",
                 f"kubernetes.default.svc.{self.cluster_domain}", "localhost"]
        addresses = sorted({self.service_address, self.bind_address, "127.0.0.1"})
        self.authority.issue_server("api-server", "kube-apiserver", names, addresses)
        self.authority.issue_client("kubelet-client", "kube-apiserver-kubelet-client", ADMIN_GROUP)
        for name, user in (("admin", "kubernetes-admin"), ("controller-manager", "system:kube-controller-manager"),
                           ("scheduler", "system:kube-scheduler")):
            # The controllers may do all that they do with the accounts of their own that they would have in production.
            groups = [] if name == "scheduler" else [ADMIN_GROUP]
            self.client_certificates[name] = self.authority.issue_client(name, user, *groups)
        self.authority.make_token_keys()

    def _write_kubeconfigs(self):
        for name, (certificate, key) in self.client_certificates.items():
            self.write_kubeconfig(self.folder / f"{name}.kubeconfig",
                                  {"client-certificate": str(certificate), "client-key": str(key)})

    def write_kubeconfig(self, path, user, server=None, namespace="default"):
        """A kubeconfig for a user: {"client-certificate": path, "client-key": path} or {"token": text}."""
        content = {  # JSON is YAML
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server or self.server,
                                                      "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}]}
        path = pathlib.Path(path)
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=2) + "\n")
        return path

    # Life.

    def _free_port(self):
        family = socket.AF_INET6 if ":" in self.bind_address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((self.bind_address, 0))
            return probe.getsockname()[1]

    def get(self, path):
        """The text at a path of the API server, as the administrator. An error answer raises urllib's HTTPError."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.load_cert_chain(*map(str, self.client_certificate))
        with urllib.request.urlopen(self.server + path, timeout=30, context=context) as answer:
            return answer.read().decode()

    def _answers(self, path):
        try:
            return bool(self.get(path))
        except (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError):
            return False

    def _start_api_server(self):
        keep_port = self.port is not None
        for attempt in range(TRIES):
            if not keep_port:
                self.port = self._free_port()
            self.api_server.start()
            try:
                wait_until(lambda: self.api_server.check() and self.etcd.check() and self._answers("/readyz"),
                           "the API server to be ready", 180)
                return
            except RuntimeError:
                if keep_port or attempt + 1 == TRIES or "address already in use" not in self.api_server.log():
                    raise
                self.api_server.end()

    def _controllers_work(self):
        """Each namespace gets these from controllers: nothing can be created before that."""
        return (self.controller_manager.check() and
                self._answers("/api/v1/namespaces/default/serviceaccounts/default") and
                self._answers("/api/v1/namespaces/default/configmaps/kube-root-ca.crt"))

    def start(self):
        if reason := missing():
            raise RuntimeError(reason)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "log").mkdir(exist_ok=True)
        self._make_certificates()
        atexit.register(self.stop)
        try:
            self.etcd.start()
            self._start_api_server()
            self._write_kubeconfigs()
            for part in self.parts[2:]:
                part.start()
            wait_until(self._controllers_work, "the controllers to work", 120)
            for part in self.parts:
                part.check()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """Ends all processes, the last one started first. Returns what was wrong with them, as lines for a person."""
        atexit.unregister(self.stop)
        faults = []
        for part in reversed(self.parts):
            # Without etcd the API server waits for it for ever, also when it is to end.
            faults += part.end(force=part is self.api_server and not self.etcd.alive())
        return faults

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    # Clients.

    def environment(self):
        """For programs that talk to the cluster. What they keep stays in the folder."""
        home = self.folder / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(home),
                "KUBECACHEDIR": str(home / "kube"), "KUBERC": "off", "HELM_CACHE_HOME": str(home / "helm" / "cache"),
                "HELM_CONFIG_HOME": str(home / "helm" / "config"), "HELM_DATA_HOME": str(home / "helm" / "data")}

    def _client(self, program, arguments, input, check, timeout):  # pylint: disable=redefined-builtin
        name = pathlib.Path(program[-1]).name
        arguments = list(map(str, arguments))
        if input is not None and not isinstance(input, str):
            input = json.dumps(input)
        result = subprocess.run([*program, *arguments], input=input, capture_output=True, text=True, check=False,
                                timeout=timeout * TIMEOUT_FACTOR, env=self.environment(),
                                **({"stdin": subprocess.DEVNULL} if input is None else {}))
        if check and result.returncode != 0:
            raise CommandFailed([name, *arguments], result.returncode, result.stdout + result.stderr)
        return result.stdout if check else result

    def kubectl(self, *arguments, input=None, check=True, timeout=300):  # pylint: disable=redefined-builtin
        """Standard output of kubectl; an error code raises CommandFailed. With check=False the CompletedProcess.

        input: text, or an object, which is passed on as JSON.
        """
        return self._client([tool("kube"), "kubectl"], arguments, input, check, timeout)

    def helm(self, *arguments, input=None, check=True, timeout=600):  # pylint: disable=redefined-builtin
        """As kubectl(), with helm."""
        return self._client([tool("helm")], arguments, input, check, timeout)
