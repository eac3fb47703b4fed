"""tools/image/kubernetes, which the chart's jobs run: Secrets against a fake API server, the rest with real parts."""

import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from cluster import BIN, Cluster, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from fake_kubernetes import NAMESPACE, FakeKubernetes  # noqa: E402  pylint: disable=wrong-import-position

SCRIPT = ROOT / "tools" / "image" / "kubernetes"
ROLES = ("mdm", "sds", "sdc", "mgmt", "admin")
NEEDED = [name for name in ("curl", "jq", "openssl", "nbdcopy") if not shutil.which(name)]
LABELS = {"app.kubernetes.io/instance": "blue"}
DAY = 86400


def run_script(subcommand, environment, timeout=120):
    """(exit code, what it said)"""
    result = subprocess.run(
        [SCRIPT, subcommand],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": tempfile.gettempdir(), **environment},
    )
    return result.returncode, result.stdout + result.stderr


def openssl(*arguments, text=None):
    return subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True, check=True).stdout


@unittest.skipIf(NEEDED, f"not installed: {' '.join(NEEDED)}")
class ScriptCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tessera-chart-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.api = FakeKubernetes(self.folder)
        self.api.__enter__()
        self.addCleanup(self.api.__exit__, None, None, None)

    def environment(self, **more):
        return {
            **self.api.environment(),
            "TESSERA_NAMESPACE": NAMESPACE,
            "TESSERA_FULLNAME": "blue-tessera",
            "TESSERA_CLUSTER_NAME": "blue",
            "TESSERA_TLS_MODE": "generated",
            "TESSERA_JOIN_TOKEN_SECRET": "blue-join-token",
            "TESSERA_CA_DAYS": "3650",
            "TESSERA_CERTIFICATE_DAYS": "90",
            "TESSERA_RENEW_BEFORE_DAYS": "30",
            "TESSERA_DNS_NAMES_MDM": "blue-mdm *.blue-mdm.storage.svc",
            "TESSERA_DNS_NAMES_SDS": "*.blue-sds.storage.svc",
            "TESSERA_SECRET_LABELS": json.dumps(LABELS),
            **more,
        }

    def secrets(self, **more):
        code, said = run_script("secrets", self.environment(**more))
        self.assertEqual(code, 0, said)
        return said

    def refused(self, subcommand="secrets", **more):
        code, said = run_script(subcommand, self.environment(**more))
        self.assertEqual(code, 1, said)
        return said

    def path(self, name, key):
        path = self.folder / f"{name}.{key}"
        path.write_text(self.api.data(name)[key])
        return path

    def verify(self, role, authority="blue-tessera-ca", key="ca.crt"):
        openssl("verify", "-CAfile", self.path(authority, key), self.path(f"blue-tessera-{role}-tls", "tls.crt"))


class Secrets(ScriptCase):
    def test_what_is_missing_is_made_and_the_next_run_changes_nothing(self):
        self.secrets()
        names = {"blue-join-token", "blue-tessera-ca", *(f"blue-tessera-{role}-tls" for role in ROLES)}
        self.assertEqual(set(self.api.secrets), names)
        before = json.dumps(self.api.secrets, sort_keys=True)
        calls = len(self.api.changes())
        said = self.secrets()
        self.assertEqual(json.dumps(self.api.secrets, sort_keys=True), before)
        self.assertEqual(len(self.api.changes()), calls)
        self.assertIn("is good until", said)

    def test_secrets_have_the_types_keys_and_labels_of_cert_managers(self):
        self.secrets()
        for name, secret in self.api.secrets.items():
            self.assertEqual(secret["metadata"]["labels"], LABELS)
            if name == "blue-join-token":
                self.assertEqual((secret["type"], set(secret["data"])), ("Opaque", {"join_token"}))
                self.assertRegex(self.api.data(name)["join_token"], "^[0-9a-f]{64}$")
            else:
                self.assertEqual(
                    (secret["type"], set(secret["data"])), ("kubernetes.io/tls", {"ca.crt", "tls.crt", "tls.key"})
                )

    def test_certificates_are_of_the_authority_with_spiffe_and_dns_names_for_both_sides(self):
        self.secrets()
        for role in ROLES:
            self.verify(role)
            text = openssl("x509", "-noout", "-text", "-in", self.path(f"blue-tessera-{role}-tls", "tls.crt"))
            self.assertIn(f"URI:spiffe://blue/{role}/blue-tessera", text)
            self.assertIn("TLS Web Server Authentication, TLS Web Client Authentication", text)
            self.assertIn("CA:FALSE", text)
            self.assertIn("NIST CURVE: P-256", text)
            self.assertNotIn("spiffe://blue/admin/" if role != "admin" else "spiffe://blue/mdm/", text)
        text = openssl("x509", "-noout", "-text", "-in", self.path("blue-tessera-mdm-tls", "tls.crt"))
        self.assertIn("DNS:blue-mdm", text)
        self.assertIn("DNS:*.blue-mdm.storage.svc", text)
        authority = openssl("x509", "-noout", "-text", "-in", self.path("blue-tessera-ca", "tls.crt"))
        self.assertIn("CA:TRUE, pathlen:0", authority)
        end = (
            openssl("x509", "-noout", "-enddate", "-in", self.path("blue-tessera-mdm-tls", "tls.crt"))
            .split("=")[1]
            .strip()
        )
        days = (datetime.datetime.strptime(end, "%b %d %H:%M:%S %Y %Z") - datetime.datetime.utcnow()).days
        self.assertIn(days, (89, 90))

    def test_no_secret_is_said_or_seen_in_arguments(self):
        # Every command of the script is traced with its arguments.
        result = subprocess.run(
            ["sh", "-x", SCRIPT, "secrets"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], **self.environment()},
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        said = result.stdout + "\n".join(line for line in result.stderr.splitlines() if " printf " not in f" {line} ")
        self.assertGreater(len(said), 1000)
        self.assertNotIn("the-token-of-the-pod", said)
        for name, secret in self.api.secrets.items():
            for key, value in self.api.data(name).items():
                if key in ("tls.key", "join_token"):
                    self.assertNotIn(value.splitlines()[-2 if key == "tls.key" else 0], said)
                    self.assertNotIn(secret["data"][key][:60], said)

    def test_a_certificate_near_its_end_is_renewed_and_the_others_are_left(self):
        self.secrets()
        before = {name: secret["data"] for name, secret in self.api.secrets.items()}
        said = self.secrets(TESSERA_CERTIFICATE_DAYS="90", TESSERA_RENEW_BEFORE_DAYS="91")
        for role in ROLES:
            name = f"blue-tessera-{role}-tls"
            self.assertNotEqual(self.api.secrets[name]["data"]["tls.crt"], before[name]["tls.crt"])
            self.assertNotEqual(self.api.secrets[name]["data"]["tls.key"], before[name]["tls.key"])
            self.verify(role)
        for name in ("blue-tessera-ca", "blue-join-token"):
            self.assertEqual(self.api.secrets[name]["data"], before[name])
        self.assertIn("renewed Secret blue-tessera-mdm-tls (it ends ", said)

    def test_other_dns_names_mean_another_certificate_for_that_role_alone(self):
        self.secrets()
        before = {name: secret["data"] for name, secret in self.api.secrets.items()}
        said = self.secrets(TESSERA_DNS_NAMES_SDS="*.blue-sds.storage.svc *.blue-sds.storage.svc.example.org")
        changed = [name for name, secret in self.api.secrets.items() if secret["data"] != before[name]]
        self.assertEqual(changed, ["blue-tessera-sds-tls"])
        self.assertIn("it should have other names", said)

    def test_another_cluster_name_is_refused_and_changes_nothing(self):
        self.secrets()
        calls = len(self.api.changes())
        said = self.refused(TESSERA_CLUSTER_NAME="green")
        self.assertIn("the certificates are of the cluster 'blue', not 'green': clusterName can't be changed", said)
        self.assertEqual(len(self.api.changes()), calls)

    def test_a_damaged_certificate_or_a_key_of_another_is_made_anew(self):
        self.secrets()
        data = self.api.data("blue-tessera-mdm-tls")
        self.api.put("blue-tessera-mdm-tls", {**data, "tls.crt": "no PEM"})
        self.api.put("blue-tessera-sds-tls", {**self.api.data("blue-tessera-sds-tls"), "tls.key": data["tls.key"]})
        said = self.secrets()
        self.assertEqual(said.count("certificate and key are missing or do not belong together"), 2)
        for role in ROLES:
            self.verify(role)

    def test_an_authority_near_its_end_gets_a_successor_that_is_trusted_before_it_signs(self):
        self.secrets(TESSERA_CA_DAYS="400", TESSERA_RENEW_BEFORE_DAYS="30", TESSERA_CERTIFICATE_DAYS="200")
        old = self.api.data("blue-tessera-ca")["tls.crt"]
        leaves = {role: self.api.data(f"blue-tessera-{role}-tls")["tls.crt"] for role in ROLES}
        near = {"TESSERA_CA_DAYS": "3650", "TESSERA_RENEW_BEFORE_DAYS": "40", "TESSERA_CERTIFICATE_DAYS": "200"}
        said = self.secrets(**near)
        self.assertIn("its successor is trusted too", said)
        authority = self.api.data("blue-tessera-ca")
        self.assertEqual(authority["tls.crt"], old)
        self.assertEqual(authority["ca.crt"], old + authority["successor.crt"])
        for role in ROLES:  # the same certificates, but everybody trusts both
            data = self.api.data(f"blue-tessera-{role}-tls")
            self.assertEqual((data["tls.crt"], data["ca.crt"]), (leaves[role], authority["ca.crt"]))
        said = self.secrets(**near)
        self.assertIn("not known to all parts yet", said)
        self.assertEqual(self.api.data("blue-tessera-ca"), authority)
        said = self.secrets(TESSERA_SUCCESSOR_SECONDS="0", **near)
        self.assertIn("successor signs from now on", said)
        self.assertEqual(said.count("another authority has signed it"), len(ROLES))
        after = self.api.data("blue-tessera-ca")
        self.assertEqual((after["tls.crt"], after["tls.key"]), (authority["successor.crt"], authority["successor.key"]))
        self.assertEqual(set(after), {"tls.crt", "tls.key", "ca.crt"})
        self.assertIn(old, after["ca.crt"])
        for role in ROLES:
            self.verify(role, key="tls.crt")
            # Who has the bundle of the first step only already believes the new certificates.
            bundle = self.folder / "bundle"
            bundle.write_text(authority["ca.crt"])
            openssl("verify", "-CAfile", bundle, self.path(f"blue-tessera-{role}-tls", "tls.crt"))
        calls = len(self.api.changes())
        self.secrets(**near)
        self.assertEqual(len(self.api.changes()), calls)

    def test_two_first_runs_at_once_agree_on_one_authority_and_token(self):
        # The other run comes between this one's look and its creation, and does all there is to do.
        others = []

        def other_run():
            self.api.lock.release()
            others.append(run_script("secrets", self.environment()))
            self.api.lock.acquire()

        self.api.before[("POST", "secrets")] = other_run
        said = self.secrets()
        self.assertEqual([code for code, _ in others], [0], others)
        self.assertIn("Secret blue-join-token is there", said)
        for role in ROLES:
            self.verify(role)

    def test_whoever_changes_a_secret_meanwhile_goes_first(self):
        self.secrets()

        def change():
            self.api.secrets["blue-tessera-mdm-tls"]["metadata"]["resourceVersion"] = "7"

        self.api.before[("PUT", "blue-tessera-mdm-tls")] = change
        said = self.refused(TESSERA_RENEW_BEFORE_DAYS="91")
        self.assertIn("Secret blue-tessera-mdm-tls has just been changed by somebody else: try again", said)

    def test_missing_rights_are_told_with_the_servers_words(self):
        for verb, name in (("GET", "blue-join-token"), ("POST", "secrets")):
            self.api.forbidden = {(verb, name)}
            said = self.refused()
            self.assertIn(
                f"not allowed: secrets is forbidden: User can't {verb} {name} (has the service account its Role?)", said
            )
            self.assertEqual(self.api.secrets, {})

    def test_a_wrong_token_a_missing_one_and_an_authority_that_is_not_ours(self):
        (self.api.account / "token").write_text("another")
        self.assertIn("not allowed: Unauthorized", self.refused())
        (self.api.account / "token").unlink()
        self.assertIn("the pod has no service account", self.refused())
        (self.api.account / "token").write_text("the-token-of-the-pod")
        openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=evil",
            "-keyout",
            self.folder / "evil.key",
            "-out",
            self.api.account / "ca.crt",
        )
        self.assertIn("the API server can't be reached: curl: (60)", self.refused())
        self.assertEqual(self.api.secrets, {})

    def test_an_error_of_the_server_is_told_and_one_that_passes_is_waited_for(self):
        self.api.failures[("POST", "secrets")] = 422
        self.assertIn(
            "the API server answers POST /api/v1/namespaces/storage/secrets with 422: not now", self.refused()
        )
        self.api.failures[("POST", "secrets")] = 503
        self.secrets()

    def test_join_token_that_is_no_token_is_told(self):
        self.api.put("blue-join-token", {"token": "x"}, "Opaque")
        self.assertIn("Secret blue-join-token has no key join_token with at least 32 characters", self.refused())

    def test_authority_that_lacks_its_key_is_told(self):
        self.secrets()
        data = self.api.data("blue-tessera-ca")
        self.api.put("blue-tessera-ca", {"tls.crt": data["tls.crt"], "ca.crt": data["ca.crt"], "tls.key": ""})
        self.assertIn("Secret blue-tessera-ca has no tls.key", self.refused())
        self.api.put("blue-tessera-ca", {**data, "tls.key": self.api.data("blue-tessera-mdm-tls")["tls.key"]})
        self.assertIn("tls.key is not the key of tls.crt", self.refused())

    def test_with_certificates_from_elsewhere_only_the_token_is_made(self):
        self.secrets(TESSERA_TLS_MODE="certManager")
        self.assertEqual(set(self.api.secrets), {"blue-join-token"})
        self.api.secrets.clear()
        self.secrets(TESSERA_TLS_MODE="existingSecret", TESSERA_JOIN_TOKEN_SECRET="")
        self.assertEqual(self.api.secrets, {})

    def test_what_is_not_set_is_named(self):
        self.assertIn("$TESSERA_CLUSTER_NAME is not set", self.refused(TESSERA_CLUSTER_NAME=""))
        code, said = run_script("secret", {})
        self.assertEqual(code, 2)
        self.assertIn("upgrade-check   refuses while", said)


class NodeFaultSet(ScriptCase):
    def fault_set(self, **more):
        self.file = self.folder / "fault_set"
        return run_script(
            "node-fault-set",
            self.environment(
                NODE_NAME="node-1",
                TESSERA_FAULT_SET_LABEL="topology.kubernetes.io/zone",
                TESSERA_FAULT_SET_FILE=str(self.file),
                **more,
            ),
        )

    def test_the_nodes_label_is_written_as_a_name_of_tessera(self):
        self.api.nodes["node-1"] = {"topology.kubernetes.io/zone": "EU-central.1a_x"}
        self.assertEqual(self.fault_set(), (0, "node node-1: fault set eu-central-1a-x\n"))
        self.assertEqual(self.file.read_text(), "eu-central-1a-x\n")
        self.assertEqual(self.file.stat().st_mode & 0o777, 0o644)

    def test_a_node_without_the_label_is_refused_or_a_fault_set_of_its_own(self):
        self.api.nodes["node-1"] = {"other": "x"}
        code, said = self.fault_set()
        self.assertEqual(code, 1)
        self.assertIn(
            "node node-1 has no label topology.kubernetes.io/zone: give it one, or set sds.faultSet.required to false",
            said,
        )
        self.assertFalse(self.file.exists())
        self.assertEqual(self.fault_set(TESSERA_FAULT_SET_REQUIRED="false")[0], 0)
        self.assertEqual(self.file.read_text().strip(), "")

    def test_a_node_that_is_not_there_and_missing_rights(self):
        self.assertIn("there is no node node-1", self.fault_set()[1])
        self.api.forbidden = {("GET", "node-1")}
        self.assertIn("not allowed", self.fault_set()[1])


@unittest.skipIf(NEEDED, f"not installed: {' '.join(NEEDED)}")
@unittest.skipUnless((BIN / "tessera-mdm").exists(), "there is no build")
class WithACluster(unittest.TestCase):
    """Three servers called sds1 to sds3, one client; the parts of a test in the order of a cluster's life."""

    OBJECTS = [
        {"name": "domain1", "pools": [{"name": "pool1", "replicas": 2, "minReplicas": 1, "placementGroups": 16}]},
        {"name": "domain2", "pools": [{"name": "small", "replicas": 1, "chunkSize": "256KiB"}]},
        {"name": "domain3"},
    ]

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tessera-chart-")
        self.addCleanup(folder.cleanup)
        self.api = FakeKubernetes(pathlib.Path(folder.name))
        self.api.__enter__()
        self.addCleanup(self.api.__exit__, None, None, None)
        self.cluster = Cluster(mdm_options=["--stale-after", "2s", "--heartbeat-interval", "200ms"])
        self.addCleanup(self.cluster.stop)
        self.cluster.start()

    def script(self, subcommand, **more):
        environment = {
            **self.api.environment(),
            "TESSERA_MDM": self.cluster.mdm_address,
            "TESSERA_WAIT_SECONDS": "1",
            "TESSERA_SDS_NAME_PREFIX": "sds",
            "TESSERA_SDS_REPLICAS": "4",
            "NODE_NAME": "sdc1",
            "TESSERA_NBD_SOCKET": str(self.cluster.sdc.state / "nbd.sock"),
            "TESSERA_POOL": "pool1",
            **more,
        }
        return run_script(subcommand, environment)

    def passes(self, subcommand, **more):
        code, said = self.script(subcommand, **more)
        self.assertEqual(code, 0, said)
        return said

    def refused(self, subcommand, **more):
        code, said = self.script(subcommand, **more)
        self.assertEqual(code, 1, said)
        return said

    def test_a_clusters_life(self):
        self.objects_are_made_once()
        wait_until(self.cluster.pool_ready, "the pool's devices")
        self.checks_pass_while_all_is_well()
        self.a_volume_goes_round()
        self.uninstall_is_refused_while_there_are_volumes()
        self.upgrade_is_refused_when_servers_with_data_would_go()
        self.upgrade_is_refused_while_a_server_is_away()
        self.an_mdm_that_is_away_is_told()

    def objects_are_made_once(self):
        said = self.passes("objects", TESSERA_OBJECTS=json.dumps(self.OBJECTS))
        self.assertEqual(said.count("made "), 5, said)
        topology = self.cluster.cli_json("topology")
        self.assertEqual(
            [domain["protection_domain"]["name"] for domain in topology["protection_domains"]],
            ["domain1", "domain2", "domain3"],
        )
        pools = {pool["name"]: pool for pool in self.cluster.cli_json("pool", "list")["pools"]}
        self.assertEqual((pools["pool1"]["replica_count"], pools["pool1"]["placement_group_count"]), (2, 16))
        self.assertEqual((pools["small"]["replica_count"], pools["small"]["chunk_bytes"]), (1, 262144))
        said = self.passes("objects", TESSERA_OBJECTS=json.dumps(self.OBJECTS))
        self.assertEqual((said.count("made "), said.count("is there")), (0, 5), said)
        self.assertEqual(
            self.cluster.cli_json("domain", "list")["protection_domains"],
            [domain["protection_domain"] for domain in topology["protection_domains"]],
        )
        # A pool that is there is not changed, and that is told.
        changed = [{"name": "domain1", "pools": [{"name": "pool1", "replicas": 3, "minReplicas": 1}]}]
        self.assertIn(
            "its replicas is 2, not 3: pools are not changed",
            self.passes("objects", TESSERA_OBJECTS=json.dumps(changed)),
        )
        wrong = [{"name": "domain1", "pools": [{"name": "bad", "replicas": 7}]}]
        self.assertIn("pool bad can't be made: ", self.refused("objects", TESSERA_OBJECTS=json.dumps(wrong)))
        self.assertIn("is not a JSON list", self.refused("objects", TESSERA_OBJECTS="{domain1"))

    def checks_pass_while_all_is_well(self):
        self.assertIn("there are no volumes: go on", self.passes("delete-check"))
        wait_until(lambda: self.cluster.cli_json("status")["verdict"] == "CLUSTER_VERDICT_OK", "the cluster to be well")
        self.assertIn("all data has its copies: go on", self.passes("upgrade-check"))

    def a_volume_goes_round(self):
        said = self.passes("test", TESSERA_WAIT_SECONDS="60")
        self.assertIn("read it back: equal", said)
        self.assertEqual(self.cluster.cli_json("volume", "list")["volumes"], [])
        # A client that is not there: what was made is gone again.
        code, said = self.script("test", NODE_NAME="nobody")
        self.assertEqual((code, self.cluster.cli_json("volume", "list")["volumes"]), (3, []), said)
        said = self.refused("test", TESSERA_NBD_SOCKET="/nowhere/nbd.sock")
        self.assertIn("writing over nbd+unix:///helm-test-", said)
        self.assertEqual(self.cluster.cli_json("volume", "list")["volumes"], [])

    def uninstall_is_refused_while_there_are_volumes(self):
        self.cluster.cli("volume", "create", "data1", "--size", "1GiB", "--pool", "pool1")
        said = self.refused("delete-check")
        self.assertIn(
            "there are 1 volumes: data1; unmap and delete them first; to uninstall all the same: "
            "helm uninstall --no-hooks",
            said,
        )

    def upgrade_is_refused_when_servers_with_data_would_go(self):
        said = self.refused("upgrade-check", TESSERA_SDS_REPLICAS="3")
        self.assertIn(
            "servers that would go still hold data: sds3; first:\n"
            "  tessera sds drain sds3 --wait && tessera sds remove sds3",
            said,
        )
        self.assertNotIn("sds2", said)
        self.passes("upgrade-check", TESSERA_SDS_REPLICAS="4")
        self.passes("upgrade-check", TESSERA_SDS_REPLICAS="1", TESSERA_SDS_NAME_PREFIX="another-sds-")

    def upgrade_is_refused_while_a_server_is_away(self):
        self.cluster.sds[0].kill()
        wait_until(self._server_is_missed, "the server to be missed")
        said = self.refused("upgrade-check")
        self.assertIn("the cluster is not well:\n", said)
        self.assertIn("sds1", said)
        self.assertIn("set upgradeCheck.enabled to false", said)
        self.cluster.sds[0].start()
        self.passes("upgrade-check", TESSERA_WAIT_SECONDS="60")

    def _server_is_missed(self):
        result = subprocess.run(
            [BIN / "tessera", "--endpoint", self.cluster.mdm_address, "-o", "json", "status"],
            capture_output=True,
            text=True,
            check=False,
        )
        return any(cause["code"] == "server_not_online" for cause in json.loads(result.stdout)["causes"])

    def an_mdm_that_is_away_is_told(self):
        address = self.cluster.mdm_address
        self.cluster.mdm.kill()
        began = time.monotonic()
        for subcommand, more in (
            ("objects", {"TESSERA_OBJECTS": "[]"}),
            ("upgrade-check", {}),
            ("delete-check", {}),
            ("test", {}),
        ):
            code, said = run_script(
                subcommand,
                {
                    "TESSERA_MDM": address,
                    "TESSERA_WAIT_SECONDS": "1",
                    "NODE_NAME": "sdc1",
                    "TESSERA_NBD_SOCKET": "/x",
                    "TESSERA_SDS_NAME_PREFIX": "sds",
                    "TESSERA_SDS_REPLICAS": "3",
                    **more,
                },
            )
            self.assertEqual(code, 1, said)
            self.assertIn(f"the MDM at {address} can't be reached", said)
        self.assertLess(time.monotonic() - began, 60)
        code, said = run_script("delete-check", {"TESSERA_MDM": address, "TESSERA_TLS_CERTIFICATE": "/nowhere/tls.crt"})
        self.assertIn("there is no administrator certificate", said)
        self.cluster.mdm.start()


if __name__ == "__main__":
    unittest.main()
