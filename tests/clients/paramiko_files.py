"""paramiko's SFTP client: see files_common.py."""

import io
import os
import socket
import stat

import paramiko

from files_common import BYTES, arguments

port, user, near, far, key = arguments()
transport = paramiko.Transport(socket.create_connection(("127.0.0.1", port), 20))
transport.start_client(timeout=30)
if key:
    transport.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(key))
else:
    transport.auth_none(user)
sftp = paramiko.SFTPClient.from_transport(transport)


def send(here, there):
    sftp.mkdir(there)
    for name in os.listdir(here):
        source, target = os.path.join(here, name), there + "/" + name
        if os.path.isdir(source):
            send(source, target)
        else:
            sftp.put(source, target, confirm=True)


def fetch(there, here):
    os.mkdir(here)
    for entry in sftp.listdir_attr(there):
        source, target = there + "/" + entry.filename, os.path.join(here, entry.filename)
        if stat.S_ISDIR(entry.st_mode):
            fetch(source, target)
        else:
            sftp.get(source, target)


def fails(error, call, *args):
    try:
        call(*args)
    except error as found:
        return found
    raise AssertionError("%s%r worked" % (call.__name__, args))


send(near + "/tree", far + "/up")
fetch(far + "/up", near + "/back")

sftp.mkdir(far + "/play", 0o700)
sftp.chdir(far + "/play")
assert sftp.getcwd() == far + "/play" == sftp.normalize(".")
assert stat.S_IMODE(sftp.stat(".").st_mode) == 0o700
assert sftp.putfo(io.BytesIO(BYTES), "bytes").st_size == len(BYTES)
with sftp.open("bytes", "rb") as file:
    file.prefetch()
    assert file.read() == BYTES
    spans = [(1, 10), (len(BYTES) - 5, 5), (65536, 100000)]
    assert list(file.readv(spans)) == [BYTES[at:at + size] for at, size in spans]
with sftp.open("bytes", "ab") as file:
    file.set_pipelined(True)
    for _ in range(100):
        file.write(b"more")
assert sftp.stat("bytes").st_size == len(BYTES) + 400
with sftp.open("bytes", "r+b") as file:
    file.seek(10)
    file.write(b"TEN")
    file.seek(0)
    assert file.read(16) == BYTES[:10] + b"TEN" + BYTES[13:16]
    file.truncate(16)
    assert file.stat().st_size == 16
fails(OSError, sftp.open, "bytes", "xb")
sftp.chmod("bytes", 0o640)
sftp.utime("bytes", (1000000000, 1100000000))
seen = sftp.stat("bytes")
assert (stat.S_IMODE(seen.st_mode), seen.st_atime, seen.st_mtime) == (0o640, 1000000000, 1100000000), seen
sftp.symlink("bytes", "link")
assert sftp.readlink("link") == "bytes" and stat.S_ISLNK(sftp.lstat("link").st_mode)
with sftp.open("other", "wb") as file:
    file.write(b"other")
fails(OSError, sftp.rename, "bytes", "other")
sftp.posix_rename("bytes", "other")
assert sftp.stat("other").st_size == 16
fails(FileNotFoundError, sftp.stat, "bytes")
fails(FileNotFoundError, sftp.listdir, "nowhere")
fails(OSError, sftp.rmdir, far + "/play")
assert sorted(entry.filename for entry in sftp.listdir_iter()) == ["link", "other"]
sftp.remove("link")
sftp.remove("other")
sftp.rmdir(far + "/play")
transport.close()
