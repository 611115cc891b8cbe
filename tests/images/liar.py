"""A registry with one image, which misbehaves as its argument says. Prints its port."""
import hashlib, io, json, sys, tarfile, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

how = sys.argv[1]


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


raw = io.BytesIO()
with tarfile.open(fileobj=raw, mode="w") as tar:
    entry = tarfile.TarInfo("f")
    entry.size = 3_000_000
    # Another layer for each way to misbehave, so that none is in the store already.
    tar.addfile(entry, io.BytesIO(how.encode().ljust(entry.size, b"x")))
layer = raw.getvalue()
config = json.dumps(
    {
        "architecture": "s390x" if how == "other-platform" else "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
).encode()
kind = "application/vnd.example.chart" if how == "artifact" else "application/vnd.oci.image.config.v1+json"
manifest = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": kind, "digest": digest(config), "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": len(layer)}],
    }
).encode()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def give(self, body, status=200, headers=()):
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pour(self):
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b" " * 65536)

    def do_GET(self):
        try:
            self.answer()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def answer(self):
        if self.path.startswith("/token"):
            if how == "endless-token":
                return self.pour()
            return self.give(json.dumps({"token": "good"}).encode())
        if how in ("bearer", "endless-token", "bearer-without-realm") and self.headers.get("Authorization") != "Bearer good":
            realm = f'realm="http://127.0.0.1:{self.server.server_port}/token",' if how != "bearer-without-realm" else ""
            return self.give(b"", 401, [("WWW-Authenticate", f'Bearer {realm}service="test"')])
        if "/manifests/" in self.path:
            if how == "endless-manifest":
                return self.pour()
            if how == "silent":
                time.sleep(600)
            if how == "redirects":
                return self.give(b"", 307, [("Location", self.path)])
            return self.give(manifest, headers=[("Content-Type", "application/vnd.oci.image.manifest.v1+json")])
        if self.path.endswith(digest(config)):
            return self.give(config[:-1] + b" " if how == "wrong-config" else config)
        if how == "wrong-layer":
            return self.give(layer[:-1] + b"!")
        if how == "long-layer":
            return self.give(layer + b"more")
        if how == "short-layer":
            return self.give(layer[:-1])
        if how == "stall":
            self.send_response(200)
            self.send_header("Content-Length", str(len(layer)))
            self.end_headers()
            self.wfile.write(layer[:1_500_000])
            self.wfile.flush()
            time.sleep(600)
        return self.give(layer)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
server.serve_forever()
