#!/usr/bin/env python3
"""Foreign clients under TLS, against the memory server with certificates made for the run.

Usage: TESSERA_NBD_MEMORY_SERVER=... tls_clients_test.py [-v] [test]
"""

import os
import shutil
import subprocess
import tempfile
import unittest

import nbd_harness as nbd

PATIENCE_SECONDS = 60 * nbd.TIMEOUT_FACTOR


def run(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=PATIENCE_SECONDS, check=False)


@unittest.skipUnless(shutil.which("openssl"), "not installed: openssl")
@unittest.skipUnless(os.access(os.environ.get("TESSERA_NBD_MEMORY_SERVER", ""), os.X_OK),
                     "set TESSERA_NBD_MEMORY_SERVER to a built nbd_memory_server")
class TlsClientsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tessera-nbd-tls-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        # The names are those that libnbd and qemu look for in a folder of credentials.
        self.make_certificate("ca", "/CN=test authority", "basicConstraints=critical,CA:TRUE", None)
        self.make_certificate("server", "/CN=localhost", "subjectAltName=DNS:localhost", "ca")
        self.make_certificate("client", "/CN=client", "extendedKeyUsage=clientAuth", "ca")
        self.server = subprocess.Popen(
            [os.environ["TESSERA_NBD_MEMORY_SERVER"], "--tcp", "0", "--size", str(64 << 20),
             "--tls", "required", "--certificate", self.file("server-cert.pem"),
             "--key", self.file("server-key.pem"), "--authority", self.file("ca-cert.pem")],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.stop)
        self.port = self.server.stdout.readline().split()[1]

    def stop(self):
        self.server.terminate()
        self.assertEqual(self.server.wait(PATIENCE_SECONDS), 0)
        self.server.stdout.close()

    def file(self, name):
        return os.path.join(self.folder, name)

    def make_certificate(self, name, subject, extension, authority):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                   "-nodes", "-days", "1", "-subj", subject, "-addext", extension,
                   "-keyout", self.file(name + "-key.pem"), "-out", self.file(name + "-cert.pem")]
        if authority is not None:
            command += ["-CA", self.file(authority + "-cert.pem"),
                        "-CAkey", self.file(authority + "-key.pem"),
                        "-addext", "basicConstraints=critical,CA:FALSE"]
        done = run(*command)
        if done.returncode != 0:
            self.skipTest("openssl req: " + done.stdout.strip())

    def uri(self):
        return f"nbds://localhost:{self.port}/memory?tls-certificates={self.folder}"

    @unittest.skipUnless(shutil.which("nbdcopy") and shutil.which("nbdinfo"), "libnbd's tools")
    def test_libnbd_copies_both_ways(self):
        info = run("nbdinfo", self.uri())
        self.assertIn("with TLS", info.stdout)
        with open(self.file("source"), "wb") as out:
            out.write(os.urandom(64 << 20))
        for source, target in ((self.file("source"), self.uri()), (self.uri(), self.file("back"))):
            done = run("nbdcopy", source, target)
            self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(run("cmp", self.file("source"), self.file("back")).returncode, 0)

    @unittest.skipUnless(shutil.which("nbdinfo"), "not installed: nbdinfo")
    def test_a_client_without_a_certificate_or_without_tls_is_refused(self):
        os.unlink(self.file("client-cert.pem"))
        os.unlink(self.file("client-key.pem"))
        self.assertNotEqual(run("nbdinfo", self.uri()).returncode, 0)
        self.assertNotEqual(run("nbdinfo", f"nbd://localhost:{self.port}/memory").returncode, 0)

    @unittest.skipUnless(shutil.which("qemu-io"), "not installed: qemu-io")
    def test_qemu_writes_and_reads(self):
        done = run("qemu-io", "--object",
                   f"tls-creds-x509,id=tls,dir={self.folder},endpoint=client", "--image-opts",
                   f"driver=nbd,host=localhost,port={self.port},export=memory,tls-creds=tls",
                   "-c", "write -P 5 4095 3M", "-c", "read -P 5 4095 3M", "-c", "flush")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("verification failed", done.stdout)


if __name__ == "__main__":
    unittest.main()
