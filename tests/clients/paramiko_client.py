"""paramiko: see common.py."""

import socket
import threading

import paramiko

import common

port, user, key = common.arguments()
transport = paramiko.Transport(socket.create_connection(("127.0.0.1", port), 20))
transport.start_client(timeout=30)
if key:
    transport.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(key))
else:
    transport.auth_none(user)


def run(command, data=b""):
    channel = transport.open_session(timeout=30)
    channel.settimeout(60)
    channel.exec_command(command)

    def feed():
        channel.sendall(data)
        channel.shutdown_write()

    feeder = threading.Thread(target=feed)
    feeder.start()
    stdout, stderr = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
    feeder.join()
    code = channel.recv_exit_status()
    channel.close()
    return code, stdout, stderr


code, stdout, stderr = run(common.BOTH)
_, answer, _ = run(common.UPLOAD, common.PAYLOAD)
_, download, _ = run(common.DOWNLOAD)
common.report(code, stdout, stderr, answer, download)
transport.close()
