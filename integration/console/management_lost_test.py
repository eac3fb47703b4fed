"""The management service killed, its database deleted, the MDM away: IO goes on, and the console says what it cannot see."""
import json
import pathlib
import random
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "faults"))

import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from cluster import wait_until  # noqa: E402  pylint: disable=wrong-import-position
from load import VerifyingLoad  # noqa: E402  pylint: disable=wrong-import-position

PASSWORD = "a password of our own"


class ManagementLostTest(unittest.TestCase):
    def setUp(self):
        if tessera.GRPCURL is None:
            self.skipTest("grpcurl is not installed")
        seed = random.randrange(1 << 31)
        print(f"management_lost_test: seed {seed}", flush=True)
        self.cluster = tessera.Cluster()
        self.addCleanup(self.cluster.stop)
        # Parts find the MDM again after its restart.
        self.mgmt = self.cluster.add_mgmt(options=["--poll-interval", "500ms"])
        self.cluster.start()
        address = self.cluster.mdm_address
        flags = self.cluster.mdm.arguments
        self.cluster.mdm.arguments = [address if flag == "127.0.0.1:0" and flags[at - 1] == "--listen" else flag
                                      for at, flag in enumerate(flags)]
        self.mgmt.arguments = self.mgmt.arguments()
        self.cluster.create_pool(placement_groups=16)
        self.load = VerifyingLoad(self.cluster.create_volume("volume", "256MiB"), seed, connections=2, rate=200)
        self.addCleanup(self.load.kill)
        self.token = ""

    def call(self, method, request=None):
        """The answer of a call to the management service; None when it was refused or not answered."""
        result = subprocess.run(
            [tessera.GRPCURL, "-plaintext", "-emit-defaults", "-max-time", "20", "-H", f"authorization: Bearer {self.token}", "-d", "@",
             self.mgmt.endpoints()["grpc"], f"tessera.v1.{method}"],
            input=json.dumps(request or {}), capture_output=True, text=True, timeout=60 * tessera.TIMEOUT_FACTOR, check=False)
        return json.loads(result.stdout) if result.returncode == 0 else None

    def sign_in(self, password):
        answer = self.call("AuthService/SignIn", {"user_name": "admin", "password": password})
        self.token = answer["session_token"] if answer else ""
        return answer

    def choose_password(self):
        self.assertTrue(self.sign_in((self.mgmt.state / "one_time_password").read_text().strip()))
        answer = self.call("AuthService/ChangePassword", {
            "old_password": (self.mgmt.state / "one_time_password").read_text().strip(), "new_password": PASSWORD})
        self.token = answer["session_token"]

    def overview(self):
        return self.call("ConsoleService/GetOverview") or {}

    def answering(self, kind):
        return sorted(part["name"] for part in self.overview().get("components", [])
                      if part["kind"] == f"COMPONENT_KIND_{kind}" and part["answers"])

    def test_io_goes_on_and_the_console_says_what_it_cannot_see(self):
        self.choose_password()
        servers = ["sds1", "sds2", "sds3"]
        wait_until(lambda: self.answering("SDS") == servers, "every server to be polled", 60)

        with self.subTest("killed and restarted"):
            self.mgmt.kill()
            self.load.wait_for_progress()
            self.mgmt.start()
            self.assertTrue(self.sign_in(PASSWORD), "users are kept")
            wait_until(lambda: self.answering("SDS") == servers, "every server to be polled again", 60)

        with self.subTest("the MDM away"):
            self.cluster.mdm.kill()
            wait_until(lambda: not self.overview().get("mdm_answers", True), "the MDM's absence to be seen", 60)
            overview = self.overview()
            self.assertIn("MDM", overview["verdict"])
            self.assertGreater(int(overview["mdm_answered_ms"]), 0)
            wait_until(lambda: self.answering("SDS") == servers, "the servers to be polled all the same", 60)
            self.load.wait_for_progress()

        with self.subTest("restarted while the MDM is away"):
            self.mgmt.kill()
            self.mgmt.start()
            self.assertTrue(self.sign_in(PASSWORD))
            wait_until(lambda: self.answering("SDS") == servers, "the servers that it knew to be polled", 60)
            self.assertFalse(self.overview()["mdm_answers"])
            self.load.wait_for_progress()
            self.cluster.mdm.start()
            wait_until(lambda: self.overview().get("mdm_answers"), "the MDM to be seen again", 60)

        with self.subTest("its database deleted"):
            self.mgmt.kill()
            for path in self.mgmt.state.glob("mgmt.db*"):
                path.unlink()
            self.load.wait_for_progress()
            self.mgmt.start()
            self.assertIsNone(self.sign_in(PASSWORD), "nobody of before is known")
            self.choose_password()
            wait_until(lambda: self.answering("SDS") == servers, "every server to be polled by the new one", 60)

        verdict = self.load.verdict()
        self.assertEqual(verdict["violations"], 0, verdict)
        self.assertEqual(verdict["errors"], {}, verdict)
        self.assertTrue(verdict["read_back"], verdict)


if __name__ == "__main__":
    unittest.main()
