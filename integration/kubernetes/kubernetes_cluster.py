"""A Kubernetes cluster for tests, with Tessera's image: a real control plane (control_plane.py), and nodes that run
containers as processes (node_agent.py), in a network namespace of its own.

    with KubernetesCluster(nodes) as kubernetes:
        kubernetes.shell("helm install ...")
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
# pylint: disable=wrong-import-position
import control_plane
from cluster import BIN, ROOT, TIMEOUT_FACTOR, wait_until
from node_agent import Image, NodeAgent, need_root_and_tools
from node_namespace import PrivateNetwork

USER = 65532
PARTS = ("tessera", "tessera-mdm", "tessera-sds", "tessera-sdc", "tessera-mgmt")
CACHE = pathlib.Path(os.environ.get("TESSERA_CACHE", pathlib.Path.home() / ".cache/tessera"))
CRDS = CACHE / "kubernetes-crds"


class ShellFailed(Exception):
    """A block of commands did not end with 0."""


def tessera_image():
    """As tools/image/Dockerfile makes it: the same files at the same places."""
    files = {f"/usr/bin/{name}": BIN / name for name in PARTS}
    files["/usr/libexec/tessera/kubernetes"] = ROOT / "tools/image/kubernetes"
    console = BIN.parent / "console"
    for file in console.rglob("*"):
        if file.is_file():
            files[f"/usr/share/tessera/console/{file.relative_to(console)}"] = file
    return Image(files=files, user=(USER, USER), users={"tessera": (USER, USER)}, entrypoint=[], env={})


class KubernetesCluster:
    """nodes: {name: labels}."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tessera-kubernetes-"))
        self.network = self.plane = self.agent = None

    def start(self):
        reason = control_plane.missing()
        if reason:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise unittest.SkipTest(reason)
        need_root_and_tools()
        try:
            self.network = PrivateNetwork().enter()
            self.plane = control_plane.ControlPlane(self.folder / "plane", bind_address=PrivateNetwork.ADDRESS).start()
            self.agent = NodeAgent(self.plane, self.folder / "nodes", self.nodes, {"*tessera:*": tessera_image()}).start()
            self._make_home()
        except BaseException:
            self.stop()
            raise
        return self

    def _make_home(self):
        """What a user's shell has: kubectl and helm, and the charts beside him."""
        self.home = self.folder / "home"
        programs = self.home / "bin"
        programs.mkdir(parents=True)
        (programs / "kubectl").write_text(f'#!/bin/sh\nexec "{control_plane.tool("kube")}" kubectl "$@"\n')
        (programs / "kubectl").chmod(0o755)
        (programs / "helm").symlink_to(control_plane.tool("helm"))
        (self.home / "charts").symlink_to(ROOT / "charts")
        self.environment = {**os.environ, "HOME": str(self.home), "KUBECONFIG": str(self.plane.kubeconfig),
                            "PATH": f"{programs}:{os.environ['PATH']}"}

    def stop(self):
        """Ends all. What went wrong on the way, as lines."""
        wrong = []
        if self.agent is not None:
            wrong += self.agent.problems
            self.agent.stop()
        if self.plane is not None:
            wrong += self.plane.stop() or []
        if self.network is not None:
            self.network.leave()
        self.agent = self.plane = self.network = None
        shutil.rmtree(self.folder, ignore_errors=True)
        return wrong

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        self.stop()

    def shell(self, commands, timeout=900, check=True):
        """Runs them as bash does for a user that stops at the first mistake. Their output."""
        output = self.folder / "shell.log"
        with output.open("wb") as sink:
            try:
                code = subprocess.run(["bash", "-euxo", "pipefail", "-c", commands], cwd=self.home, env=self.environment,
                                      stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                                      timeout=timeout * TIMEOUT_FACTOR, check=False).returncode
            except subprocess.TimeoutExpired:
                code = f"no end after {timeout} s"
        text = output.read_text(errors="replace")
        if check and code != 0:
            # The end first: a long report may be cut.
            last = "\n".join(text.splitlines()[-6:])
            raise ShellFailed(f"ended with {code}, at last:\n{last}\nof\n{commands}\nwhich said\n{text}\n{self.describe()}")
        return text

    def describe(self):
        """For a test that failed: pods, events, the ends of logs."""
        lines = [str(self.plane.kubectl("get", "pods", "--all-namespaces", "--output", "wide", check=False).stdout),
                 str(self.plane.kubectl("get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp",
                                        check=False).stdout)[-6000:]]
        for log in sorted((self.folder / "nodes").rglob("*.log")):
            text = log.read_text(errors="replace")
            lines.append(f"== {log.name}\n{text[-1500:]}")
        return "\n".join(lines + self.agent.problems)

    def host_path(self, node, path):
        """Where a path of a node is on this machine."""
        return self.agent.hosts[node].path(path)

    def toolbox(self, *arguments, namespace="tessera", timeout=300):
        """The CLI as an administrator has it."""
        return self.plane.kubectl("--namespace", namespace, "exec", "deploy/tessera-toolbox", "--", "tessera", *arguments,
                                  timeout=timeout)

    def wait_for_well(self, timeout=300):
        """Until the cluster says that all data has its copies."""
        wait_until(lambda: self._is_well(), "the cluster to be well", timeout)

    def _is_well(self):
        result = self.plane.kubectl("--namespace", "tessera", "exec", "deploy/tessera-toolbox", "--", "tessera", "health",
                                    check=False)
        return result.returncode == 0
