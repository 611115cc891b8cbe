"""libssh2 through ssh2-python: see common.py."""

import socket

from ssh2.session import Session

import common

port, user, key = common.arguments()
connection = socket.create_connection(("127.0.0.1", port), 20)
session = Session()
session.set_timeout(60000)
session.handshake(connection)
if key:
    session.userauth_publickey_fromfile(user, key, passphrase="")
else:
    # libssh2 tries "none" when it asks for the list of methods.
    session.userauth_list(user)
    assert session.userauth_authenticated(), "none was refused"


def read_all(read):
    data = b""
    while True:
        size, chunk = read()
        if size <= 0:
            return data
        data += chunk


def run(command, data=b""):
    channel = session.open_session()
    channel.execute(command)
    if data:
        # Blocking mode: it writes as the window allows.
        channel.write(data)
    channel.send_eof()
    stdout, stderr = read_all(channel.read), read_all(channel.read_stderr)
    channel.wait_eof()
    channel.close()
    channel.wait_closed()
    return channel.get_exit_status(), stdout, stderr


code, stdout, stderr = run(common.BOTH)
_, answer, _ = run(common.UPLOAD, common.PAYLOAD)
_, download, _ = run(common.DOWNLOAD)
common.report(code, stdout, stderr, answer, download)
