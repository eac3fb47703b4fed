"""As much of Kubernetes' API as the image's script uses: Secrets of one namespace, and nodes. In memory, over TLS."""

import base64
import http.server
import json
import ssl
import subprocess
import threading
import urllib.parse

NAMESPACE = "storage"


def encode(text):
    return base64.b64encode(text.encode()).decode()


def decode(text):
    return base64.b64decode(text).decode()


class FakeKubernetes:
    """`with FakeKubernetes(folder) as api:` listens until the end; api.environment() leads the script to it."""

    def __init__(self, folder):
        self.folder = folder
        self.secrets = {}  # name to object
        self.nodes = {}  # name to labels
        self.calls = []  # (method, path without query)
        self.forbidden = set()  # (method, last part of the path), "secrets" for those without a name
        self.before = {}  # the same to a function that is called once before the answer
        self.failures = {}  # the same to a status
        self.lock = threading.Lock()
        self.account = folder / "account"
        self.account.mkdir()
        (self.account / "token").write_text("the-token-of-the-pod")
        key, certificate = folder / "api.key", self.account / "ca.crt"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=kubernetes",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                key,
                "-out",
                certificate,
            ],
            check=True,
            capture_output=True,
        )
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def environment(self):
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.server.server_port),
            "TESSERA_SERVICE_ACCOUNT_DIR": str(self.account),
        }

    def put(self, name, data, kind="kubernetes.io/tls"):
        """A Secret that is there already."""
        self.secrets[name] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": "1"},
            "data": {key: encode(value) for key, value in data.items()},
        }

    def data(self, name):
        return {key: decode(value) for key, value in self.secrets[name]["data"].items()}

    def changes(self):
        return [call for call in self.calls if call[0] != "GET"]

    def answer(self, method, path, query, body):
        """Status and object."""
        last = path.rsplit("/", 1)[1]
        if (method, last) in self.before:
            self.before.pop((method, last))()
        if (method, last) in self.forbidden:
            return 403, {"message": f"secrets is forbidden: User can't {method} {last}"}
        if (method, last) in self.failures:
            return self.failures.pop((method, last)), {"message": "not now"}
        if path.startswith("/api/v1/nodes/"):
            if last not in self.nodes:
                return 404, {"message": f"nodes {last} not found"}
            return 200, {"metadata": {"name": last, "labels": self.nodes[last]}}
        if path == f"/api/v1/namespaces/{NAMESPACE}/secrets" and method == "POST":
            return self.create(body)
        if path.startswith(f"/api/v1/namespaces/{NAMESPACE}/secrets/"):
            if last not in self.secrets:
                return 404, {"message": f"secrets {last} not found"}
            return self.replace(last, body) if method == "PUT" else (200, self.secrets[last])
        return 404, {"message": f"there is no {path}"}

    def create(self, body):
        name = body["metadata"]["name"]
        if name in self.secrets:
            return 409, {"message": f"secrets {name} already exists"}
        body["metadata"]["resourceVersion"] = "1"
        self.secrets[name] = body
        return 201, body

    def replace(self, name, body):
        known = self.secrets[name]["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion") != known:
            return 409, {"message": f"secrets {name} was modified"}
        if body["type"] != self.secrets[name]["type"]:
            return 422, {"message": "type: field is immutable"}
        body["metadata"]["resourceVersion"] = str(int(known) + 1)
        self.secrets[name] = body
        return 200, body

    def _handler(fake):  # pylint: disable=no-self-argument
        class Handler(http.server.BaseHTTPRequestHandler):
            def serve(self):
                path, _, query = self.path.partition("?")
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                with fake.lock:
                    fake.calls.append((self.command, path))
                    if self.headers.get("Authorization") != "Bearer the-token-of-the-pod":
                        status, answer = 401, {"message": "Unauthorized"}
                    else:
                        status, answer = fake.answer(self.command, path, dict(urllib.parse.parse_qsl(query)), body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = serve

            def log_message(self, *_):
                pass

        return Handler
