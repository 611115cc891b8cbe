"""Makes an OCI layout: layout.py NAME CONFIG LAYER…, a layer being a directory or +link=NAME:TARGET (one hard link)."""
import gzip, hashlib, io, json, os, sys, tarfile

name, config, *layers = sys.argv[1:]
os.makedirs(f"{name}/blobs/sha256")


def put(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{name}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


parts, diff_ids = [], []
for layer in layers:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        if layer.startswith("+link="):
            entry = tarfile.TarInfo()
            entry.name, entry.linkname = layer[6:].split(":")
            entry.type = tarfile.LNKTYPE
            tar.addfile(entry)
        else:
            tar.add(layer, arcname=".")
    diff_ids.append("sha256:" + hashlib.sha256(raw.getvalue()).hexdigest())
    parts.append(put(gzip.compress(raw.getvalue(), mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"))
document = {"architecture": "amd64", "os": "linux", "config": json.loads(config), "rootfs": {"type": "layers", "diff_ids": diff_ids}}
configuration = put(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json")
manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": configuration, "layers": parts}
entry = put(json.dumps(manifest).encode(), manifest["mediaType"])
entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
with open(f"{name}/index.json", "w") as file:
    json.dump({"schemaVersion": 2, "manifests": [entry]}, file)
with open(f"{name}/oci-layout", "w") as file:
    file.write('{"imageLayoutVersion": "1.0.0"}')
