"""A kubelet's HTTPS port: what `kubectl logs`, `exec` (without -t) and `port-forward` reach through the API server."""
import http.server
import json
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse

from node_process import Process, StartError
from node_spdy import PortForward
from node_websocket import WebSocket

EXEC_PROTOCOL = "v5.channel.k8s.io"
FORWARD_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255


class KubeletServer:
    """Serves one host's pods to those who show a certificate of the cluster's CA."""

    def __init__(self, agent, host, certificate, key, ca_file):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = http.server.ThreadingHTTPServer((host.address, host.KUBELET_PORT), _Face)
        self._server.daemon_threads = True
        self._server.agent, self._server.host = agent, host
        # The handshake happens at the first read, in the connection's own thread.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True,
                                                  do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(1,), name="kubelet", daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Face(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):  # pylint: disable=invalid-name
        url = urllib.parse.urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        query = urllib.parse.parse_qs(url.query)
        try:
            if parts[0] == "containerLogs" and len(parts) == 4:
                self._logs(self._container(*parts[1:]), {key: values[-1] for key, values in query.items()})
            elif parts[0] == "exec" and len(parts) == 4:
                self._exec(self._container(*parts[1:]), query)
            elif parts[0] == "portForward" and len(parts) == 3:
                self._port_forward(self.server.agent.pod(parts[2], parts[1]))
            else:
                self._refuse(404, f"the node agent does not serve {url.path}")
        except KeyError as error:
            self._refuse(404, str(error.args[0]))

    do_POST = do_GET

    def _container(self, namespace, pod, container):
        return self.server.agent.pod(pod, namespace).container(container)

    def _refuse(self, code, message):
        data = message.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _logs(self, container, query):
        known = {"follow", "previous", "tailLines", "limitBytes", "insecureSkipTLSVerifyBackend", "container"}
        if unknown := {key for key, value in query.items() if value != "false"} - known:
            return self._refuse(400, f"the node agent does not know {', '.join(sorted(unknown))}")
        path = container.log_path(query.get("previous") == "true")
        if not path.exists():
            return self._refuse(400, f"container {container.name} has no such log")
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with open(path, "rb") as log:
            data = log.read()
            if "tailLines" in query:
                count = int(query["tailLines"])
                data = b"".join(data.splitlines(True)[-count:]) if count else b""
            if "limitBytes" in query:
                data = data[:int(query["limitBytes"])]
            self._chunk(data)
            while query.get("follow") == "true" and not self.server.agent.stopping:
                running = container.process is not None
                data = log.read()
                self._chunk(data)
                if not running and not data:
                    break
                if not data:
                    time.sleep(0.2)
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _chunk(self, data):
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _exec(self, container, query):
        if EXEC_PROTOCOL not in WebSocket.offered(self):
            return self._refuse(400, f"the node agent speaks {EXEC_PROTOCOL} only")
        if query.get("tty", ["0"])[-1] in ("1", "true"):
            return self._refuse(400, "the node agent has no terminals: kubectl exec without -t, please")
        process, problem = None, ""
        try:
            process = Process(container.exec_spec(query["command"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
        except (StartError, OSError) as error:
            problem = str(error)
        session = _ExecSession(process, WebSocket(self, EXEC_PROTOCOL))
        if process is None:
            session.end({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": problem})
        else:
            session.run()
        return None

    def _port_forward(self, pod):
        if FORWARD_PROTOCOL not in WebSocket.offered(self):
            return self._refuse(400, f"the node agent speaks {FORWARD_PROTOCOL} only")
        if pod.namespaces is None:
            return self._refuse(400, f"pod {pod.name} does not run")
        web_socket = WebSocket(self, FORWARD_PROTOCOL)
        PortForward(lambda port: pod.namespaces.inside(socket.create_connection, ("127.0.0.1", port), 10),
                    web_socket.send, web_socket.receive).run()
        return None


class _ExecSession:
    """The streams of a program over a WebSocket: each message begins with the number of its stream."""

    def __init__(self, process, web_socket):
        self._process = process
        self._socket = web_socket

    def run(self):
        end = threading.Thread(target=self._await_end, daemon=True)
        end.start()
        while message := self._socket.receive():
            self._take(message[0], message[1:])
        self._process.signal(signal.SIGKILL)  # of no effect when it has ended
        end.join()
        self._process.stdin.close()

    def _take(self, channel, payload):
        stdin = self._process.stdin
        if stdin.closed:
            return
        try:
            if channel == STDIN:
                stdin.write(payload)
                stdin.flush()
            elif channel == CLOSE and payload[:1] == bytes([STDIN]):
                stdin.close()
        except BrokenPipeError:
            pass  # it does not want to read

    def _await_end(self):
        readers = [threading.Thread(target=self._pump, args=pair, daemon=True)
                   for pair in ((self._process.stdout, STDOUT), (self._process.stderr, STDERR))]
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join()
        code = self._process.wait()
        status = {"metadata": {}, "status": "Success"}
        if code != 0:
            status = {"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                      "message": f"command terminated with exit code {code}",
                      "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}
        self.end(status)

    def _pump(self, stream, channel):
        with stream:
            while data := stream.read1(32768):
                self._socket.send(bytes([channel]) + data)

    def end(self, status):
        self._socket.send(bytes([ERROR]) + json.dumps(status).encode())
        self._socket.close()
