"""The management service as it runs in production: mutual TLS towards all parts, HTTPS for browsers."""
import http.client
import json
import pathlib
import ssl
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "faults"))

import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import run, wait_until  # noqa: E402  pylint: disable=wrong-import-position
from pki import CertificateAuthority  # noqa: E402  pylint: disable=wrong-import-position

PASSWORD = "a password of our own"


class TlsCluster(tessera.Cluster):
    """Loopback, but nothing is insecure."""

    def __init__(self):
        super().__init__(servers=2)
        self.authority = CertificateAuthority(self.folder / "pki")
        self.admin_flags = self.authority.issue("admin", "admin", "127.0.0.1")
        web = self.authority.issue("web", "console", "127.0.0.1")
        self.mgmt = self.add_mgmt(options=["--poll-interval", "500ms", "--web-certificate", web[1], "--web-key", web[3]])
        for part in self.parts:
            role = part.binary.removeprefix("tessera-")
            part.arguments = self._secured(part.arguments, self.authority.issue(role, part.name, "127.0.0.1"))

    @staticmethod
    def _secured(arguments, tls):
        def flags():
            given = arguments() if callable(arguments) else arguments
            return [*(flag for flag in given if flag != "--insecure"), *tls]
        return flags

    def cli(self, *arguments, timeout=120):
        return run([tessera.BIN / "tessera", "--endpoint", self.mdm_address, *self.admin_flags, *arguments], timeout=timeout)


def text_field(number, text):
    data = text.encode()
    return bytes([number << 3 | 2, len(data)]) + data


class ProductionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if tessera.GRPCURL is None:
            raise unittest.SkipTest("grpcurl is not installed")
        cls.cluster = TlsCluster()
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start()
        cls.cluster.create_pool(placement_groups=16)
        one_time = (cls.cluster.mgmt.state / "one_time_password").read_text().strip()
        token = json.loads(cls.grpcurl("AuthService/SignIn", {"user_name": "admin", "password": one_time}).stdout)["sessionToken"]
        changed = cls.grpcurl("AuthService/ChangePassword", {"old_password": one_time, "new_password": PASSWORD}, token)
        cls.admin = json.loads(changed.stdout)["sessionToken"]

    @classmethod
    def grpcurl(cls, method, request=None, token="", certificate="admin"):
        folder = cls.cluster.authority.folder
        proto = [word for name in ("auth", "audit", "console", "volume")
                 for word in ("-proto", f"tessera/v1/{name}.proto")]
        return subprocess.run(
            [tessera.GRPCURL, "-cacert", folder / "ca.pem", "-cert", folder / f"{certificate}.pem", "-key", folder / f"{certificate}.key",
             "-import-path", tessera.ROOT / "proto", *proto, "-emit-defaults", "-max-time", "30",
             *(["-H", f"authorization: Bearer {token}"] if token else []), "-d", "@",
             cls.cluster.mgmt.endpoints()["grpc"], f"tessera.v1.{method}"],
            input=json.dumps(request or {}), capture_output=True, text=True, timeout=120 * tessera.TIMEOUT_FACTOR, check=False)

    def https(self):
        host, port = self.cluster.mgmt.endpoints()["web"].removeprefix("https://").rsplit(":", 1)
        context = ssl.create_default_context(cafile=str(self.cluster.authority.certificate))
        connection = http.client.HTTPSConnection(host, int(port), timeout=60 * tessera.TIMEOUT_FACTOR, context=context)
        self.addCleanup(connection.close)
        return connection

    def post(self, method, message, **headers):
        """A unary gRPC-Web call over HTTPS: the answer's headers, and its body."""
        connection = self.https()
        connection.request("POST", f"/tessera.v1.{method}", b"\0" + len(message).to_bytes(4, "big") + message,
                           {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **headers})
        answer = connection.getresponse()
        return answer, answer.read()

    def test_parts_are_polled_over_mutual_tls(self):
        def answering():
            overview = json.loads(self.grpcurl("ConsoleService/GetOverview", {}, self.admin).stdout or "{}")
            return sorted(part["name"] for part in overview.get("components", []) if part["answers"])
        wait_until(lambda: {"mdm", "sds1", "sds2", "sdc1"} <= set(answering()), "all parts to answer", 60)

    def test_a_session_over_https_is_a_secure_host_cookie(self):
        answer, body = self.post("AuthService/SignIn", text_field(1, "admin") + text_field(2, PASSWORD))
        cookie = answer.headers["set-cookie"]
        self.assertTrue(cookie.startswith("__Host-tessera-session="), cookie)
        for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
            self.assertIn(word, cookie)
        self.assertNotIn(b"session.", body, "the secret is in the cookie alone")
        answer, body = self.post("AuthService/GetCurrentUser", b"", cookie=cookie.split(";")[0])
        self.assertIn(b"grpc-status: 0", body.replace(b":0", b": 0"))
        self.assertIn(b"admin", body)

    def test_the_mdm_believes_the_management_service_for_whom_it_calls(self):
        made = self.grpcurl("VolumeService/CreateVolume", {"name": "by-admin", "size_bytes": 16 << 20, "pool_name": "pool1"}, self.admin)
        self.assertEqual(made.returncode, 0, made.stderr)
        self.assertIn("by-admin", self.cluster.cli("volume", "list"))
        audit = json.loads(self.grpcurl("AuditService/ListAuditEntries", {"method_contains": "CreateVolume"}, self.admin).stdout)
        self.assertEqual(audit["entries"][0]["userName"], "admin")
        self.assertEqual(audit["entries"][0]["result"], "OK")

    def test_a_viewer_reads_and_changes_nothing(self):
        token = json.loads(self.grpcurl("AuthService/CreateApiToken", {
            "description": "reader", "role": "ROLE_VIEWER", "lifetime_s": 3600}, self.admin).stdout)["secret"]
        read = self.grpcurl("VolumeService/ListVolumes", {}, token)
        self.assertEqual(read.returncode, 0, read.stderr)
        refused = self.grpcurl("VolumeService/CreateVolume", {"name": "by-viewer", "size_bytes": 16 << 20}, token)
        self.assertIn("PermissionDenied", refused.stderr)
        self.assertNotIn("by-viewer", self.cluster.cli("volume", "list"))

    def test_browsers_are_told_to_stay_with_https(self):
        connection = self.https()
        connection.request("GET", "/")
        self.assertIn("max-age=", connection.getresponse().headers["strict-transport-security"])

    def test_plain_http_is_not_answered(self):
        host, port = self.cluster.mgmt.endpoints()["web"].removeprefix("https://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=60 * tessera.TIMEOUT_FACTOR)
        self.addCleanup(connection.close)
        with self.assertRaises((http.client.HTTPException, OSError)):
            connection.request("GET", "/")
            connection.getresponse()


if __name__ == "__main__":
    unittest.main()
