#!/usr/bin/python3
"""Stands between a gateway and an agent on a Unix socket, as a virtual machine monitor or a TLS terminator does.

    door.py hybrid SOCKET PORT AGENT     hybrid vsock as Firecracker has it: CONNECT PORT, then OK
    door.py tls PORT CA CERT KEY AGENT   TLS, only for clients with a certificate of CA
    door.py MISCHIEF SOCKET              a monitor that went mad: garbage, silence, close, flood
"""

import os
import socket
import ssl
import sys
import threading
import time


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            pass


def join(client, agent_path):
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(agent_path)
    there = threading.Thread(target=pump, args=(client, agent), daemon=True)
    there.start()
    pump(agent, client)
    there.join()
    agent.close()
    client.close()


def unix_listener(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    return listener


def hybrid(client, port, agent_path):
    line = b""
    while not line.endswith(b"\n") and len(line) < 64:
        byte = client.recv(1)
        if not byte:
            return client.close()
        line += byte
    if line != f"CONNECT {port}\n".encode():
        # As Firecracker does when nobody listens.
        return client.close()
    client.sendall(b"OK 1073741824\n")
    join(client, agent_path)


def mischief(kind, client):
    try:
        if kind == "close":
            return client.close()
        if kind == "garbage":
            client.sendall(b"\x1b]0;owned\x07 NO SUCH LUCK\n")
        while kind == "flood":
            client.sendall(b"OK" * 4096)
        time.sleep(3600)
    except OSError:
        client.close()


def tls(client, context, agent_path):
    try:
        secure = context.wrap_socket(client, server_side=True)
    except (OSError, ssl.SSLError):
        return client.close()
    # One thread at a time may use a TLS socket of Python: what is decrypted goes through a pair of sockets.
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(agent_path)
    secure.setblocking(False)
    agent.setblocking(False)
    relay(secure, agent)


def relay(secure, agent):
    import select
    pending = {secure: b"", agent: b""}
    other = {secure: agent, agent: secure}
    open_ends = {secure, agent}
    while open_ends:
        readable = [end for end in open_ends if len(pending[other[end]]) < 1 << 20]
        writable = [end for end in pending if pending[end]]
        ready, room, _ = select.select(readable, writable, [], 0 if secure.pending() else 5)
        for end in set(ready) | ({secure} if secure.pending() and secure in open_ends else set()):
            try:
                data = end.recv(65536)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                continue
            except OSError:
                data = b""
            if data:
                pending[other[end]] += data
            else:
                open_ends.clear()
        for end in [end for end in pending if pending[end]]:
            try:
                sent = end.send(pending[end])
                pending[end] = pending[end][sent:]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                pass
            except OSError:
                open_ends.clear()
    agent.close()
    secure.close()


def main():
    kind, *args = sys.argv[1:]
    if kind == "tls":
        port, ca, cert, key, agent_path = args
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        listener = socket.create_server(("127.0.0.1", int(port)))
        handle = lambda client: tls(client, context, agent_path)
    elif kind == "hybrid":
        path, port, agent_path = args
        listener = unix_listener(path)
        handle = lambda client: hybrid(client, port, agent_path)
    else:
        listener = unix_listener(args[0])
        handle = lambda client: mischief(kind, client)
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=handle, args=(client,), daemon=True).start()


main()
