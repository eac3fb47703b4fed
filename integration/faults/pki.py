"""A certificate authority for one test, and a certificate for each part: mutual TLS between all of them."""
from cluster import run

DAYS = "7"


class CertificateAuthority:
    def __init__(self, folder, cluster_name="faults"):
        self.folder = folder
        self.cluster_name = cluster_name
        folder.mkdir(mode=0o700, exist_ok=True)
        self.certificate = folder / "ca.pem"
        self.key = folder / "ca.key"
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", DAYS, "-subj", f"/CN={cluster_name} authority", "-keyout", self.key, "-out", self.certificate])

    def issue(self, role, name, address=None):
        """The flags of a part (or person) with a new certificate: its SAN is a SPIFFE id, and where it can be reached."""
        key, request, certificate = (self.folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-subj", f"/CN={name}", "-keyout", key, "-out", request])
        names = [f"URI:spiffe://{self.cluster_name}/{role}/{name}", "DNS:localhost"]
        if address:
            names.append(f"IP:{address}")
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth,clientAuth\n")
        run(["openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
             "-days", DAYS, "-extfile", extensions, "-out", certificate])
        return ["--tls-certificate", certificate, "--tls-key", key, "--tls-ca", self.certificate]
