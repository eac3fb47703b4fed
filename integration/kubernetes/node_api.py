"""A client of the API server over plain HTTP and JSON, and watches that keep a copy of what they watch."""
import base64
import http.client
import json
import pathlib
import ssl
import threading
import time
import urllib.parse

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server's answer was no success."""

    def __init__(self, method, path, code, message):
        super().__init__(f"{method} {path}: {code} {message}")
        self.code = code


class Client:
    """What kubectl would use, from a kubeconfig as JSON (`kubectl config view --raw -o json`). For many threads."""

    def __init__(self, kubeconfig, folder):
        context = next(entry["context"] for entry in kubeconfig["contexts"]
                       if entry["name"] == kubeconfig["current-context"])
        cluster = next(entry["cluster"] for entry in kubeconfig["clusters"] if entry["name"] == context["cluster"])
        user = next(entry["user"] for entry in kubeconfig["users"] if entry["name"] == context["user"])
        url = urllib.parse.urlsplit(cluster["server"])
        self.host, self.port = url.hostname, url.port or 443
        self.headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        folder = pathlib.Path(folder)
        self._tls = ssl.create_default_context(
            cafile=self._file(cluster, "certificate-authority", folder / "api-ca.crt"))
        if "client-certificate" in user or "client-certificate-data" in user:
            self._tls.load_cert_chain(self._file(user, "client-certificate", folder / "api-client.crt"),
                                      self._file(user, "client-key", folder / "api-client.key"))
        self._lock = threading.Lock()
        self._idle = []  # connections to be used again

    @staticmethod
    def _file(entry, key, path):
        """The file that a kubeconfig names or holds."""
        if key in entry:
            return entry[key]
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(entry[f"{key}-data"]))
        return str(path)

    def connect(self, timeout=30):
        return http.client.HTTPSConnection(self.host, self.port, context=self._tls, timeout=timeout)

    def call(self, method, path, body=None, content_type="application/json"):
        """The answer's JSON. ApiError if the server says no; OSError if it can't be reached."""
        data = None if body is None else json.dumps(body).encode()
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or self.connect()
            try:
                connection.request(method, path, data, {**self.headers, "Content-Type": content_type})
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is None:  # a kept connection may have been closed by the server
                    raise OSError(f"{method} {path}: {error}") from error
            else:
                break
        with self._lock:
            self._idle.append(connection)
        answer = json.loads(text) if text[:1] == b"{" else {"message": text.decode(errors="replace")}
        if response.status >= 300:
            raise ApiError(method, path, response.status, answer.get("message"))
        return answer

    def close(self):
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, body):
        return self.call("POST", path, body)

    def patch(self, path, body, content_type=MERGE):
        return self.call("PATCH", path, body, content_type)

    def delete(self, path, options=None):
        return self.call("DELETE", path, options)


def key_of(item):
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class Watch:
    """A copy of all objects at a path, kept fresh by a thread. `on_change(kind of event, object)` is called there,
    with ADDED, MODIFIED or DELETED; it must be quick."""

    def __init__(self, client, path, on_change):
        self.path = path
        self._client = client
        self._on_change = on_change
        self._lock = threading.Lock()
        self._items = {}
        self._version = None
        self._stopped = threading.Event()
        self._synced = threading.Event()
        self._connection = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self._thread.start()

    def wait_synced(self, timeout=60):
        if not self._synced.wait(timeout):
            raise TimeoutError(f"no list of {self.path} within {timeout} s")

    def items(self):
        with self._lock:
            return list(self._items.values())

    def get(self, namespace, name):
        with self._lock:
            return self._items.get((namespace, name))

    def stop(self):
        self._stopped.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(2)
            except OSError:
                pass

    def join(self):
        self._thread.join(10)

    def _run(self):
        while not self._stopped.is_set():
            try:
                if self._version is None:
                    self._list()
                self._follow()
            except (OSError, ApiError, ValueError, http.client.HTTPException, AttributeError):
                # The API server is away or started anew, or has forgotten our version: once more from the list.
                self._version = None
                self._stopped.wait(0.3)

    def _list(self):
        answer = self._client.get(self.path)
        fresh = {key_of(item): item for item in answer.get("items") or []}
        with self._lock:
            before, self._items = self._items, fresh
        for key, item in before.items():
            if key not in fresh or fresh[key]["metadata"]["uid"] != item["metadata"]["uid"]:
                self._on_change("DELETED", item)
        for key, item in fresh.items():
            if key not in before or before[key]["metadata"]["uid"] != item["metadata"]["uid"]:
                self._on_change("ADDED", item)
            elif before[key]["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self._on_change("MODIFIED", item)
        self._version = answer["metadata"]["resourceVersion"]
        self._synced.set()

    def _follow(self):
        self._connection = self._client.connect(timeout=400)
        response = None
        try:
            query = urllib.parse.urlencode({"watch": "1", "resourceVersion": self._version, "timeoutSeconds": 300,
                                            "allowWatchBookmarks": "true"})
            self._connection.request("GET", f"{self.path}?{query}", headers=self._client.headers)
            response = self._connection.getresponse()
            if response.status != 200:
                raise ApiError("WATCH", self.path, response.status, response.read()[:500])
            while not self._stopped.is_set():
                line = response.readline()
                if not line:
                    return  # the 300 s are over
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError("WATCH", self.path, event["object"].get("code"), event["object"].get("message"))
                self._version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._apply(event["type"], event["object"])
        finally:
            if response is not None:
                response.close()
            self._connection.close()

    def _apply(self, kind, item):
        with self._lock:
            if kind == "DELETED":
                self._items.pop(key_of(item), None)
            else:
                self._items[key_of(item)] = item
        self._on_change(kind, item)


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
