#!/usr/bin/python3
"""A guest agent that has been taken over: it keeps the protocol until the point that HOSTILE names, and then does not.

It runs as the first process of a sandbox in place of the real agent, so it has what a real attacker would have: the listening
socket that the host side made, or standard input and output, which carry all sessions then. With --hold it only keeps a container open.
"""

import os
import random
import signal
import socket
import stat
import struct
import sys
import threading
import time

MODE = os.environ.get("HOSTILE", "")
HELLO, OPEN, OPENED, REFUSED, STDIN, STDOUT, STDERR, EOF, RESIZE, SIGNAL, EXIT, CREDIT, CLOSE, READER_GONE = range(1, 15)
INCOMING, PING, PONG = 16, 17, 18
# Types of a request.
EXEC, INFO, DIAL, LISTEN, ACCEPT = 1, 2, 4, 5, 6


def listener():
    """The inherited descriptor that is a listening socket."""
    for fd in range(0, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                candidate = socket.socket(fileno=os.dup(fd))
                if candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return candidate
                candidate.close()
        except OSError:
            pass
    return None


class Pipes:
    """Standard input and output in the place of a connection."""

    def __init__(self):
        self.lock = threading.Lock()

    def sendall(self, data):
        with self.lock:
            left = memoryview(data)
            while left:
                left = left[os.write(1, left):]

    def recv(self, count):
        return os.read(0, count)

    def close(self):
        os._exit(0)


def frame(stream, kind, payload=b""):
    return struct.pack(">IB", stream, kind) + struct.pack(">I", len(payload))[1:] + payload


def hello(capabilities=0, window=256 * 1024):
    software = b"hostile"
    return frame(0, HELLO, b"SANDGATE" + struct.pack(">HHQI", 1, 1, capabilities, window) + struct.pack(">I", len(software)) + software)


PASSED = []


def read_exactly(link, count):
    data = b""
    while len(data) < count:
        if isinstance(link, Pipes):
            chunk, descriptors = link.recv(count - len(data)), []
        else:
            chunk, descriptors, _, _ = socket.recv_fds(link, count - len(data), 8)
        PASSED.extend(descriptors)
        if not chunk:
            raise EOFError
        data += chunk
    return data


def read_frame(link):
    header = read_exactly(link, 8)
    stream, kind = struct.unpack(">IB", header[:5])
    return stream, kind, read_exactly(link, int.from_bytes(header[5:], "big"))


def opened_exec(stream, passed=0):
    """The yes to a process: its type, whether it runs on the pipes that were passed, whether it is a file server of the agent."""
    return frame(stream, OPENED, bytes([1, passed, 0]))


def misbehave(link, stream):
    """What happens once the gateway has asked for a process."""
    opened = opened_exec(stream)
    exit_zero = frame(stream, EXIT, b"\x00" + struct.pack(">I", 0))
    if MODE == "exec-silence":
        time.sleep(3600)
    elif MODE == "exec-opened-then-silence":
        link.sendall(opened)
        time.sleep(3600)
    elif MODE == "exec-flood":
        # No credit is waited for.
        link.sendall(opened)
        block = frame(stream, STDOUT, b"x" * 200000)
        while True:
            link.sendall(block)
    elif MODE == "exec-flood-slices":
        link.sendall(opened)
        block = frame(stream, STDERR, b"e") * 4096
        while True:
            link.sendall(block)
    elif MODE == "exec-exit-first":
        link.sendall(exit_zero + opened + exit_zero + frame(stream, STDOUT, b"late") + exit_zero)
    elif MODE == "exec-data-after-end":
        link.sendall(opened + frame(stream, STDOUT, b"data") + frame(stream, EOF) + frame(stream, STDOUT, b"more") * 100 + exit_zero)
    elif MODE == "exec-two-exits":
        link.sendall(opened + exit_zero + frame(stream, EXIT, b"\x01\x00" + struct.pack(">I", 9) + b"K" * 9 + struct.pack(">I", 0)))
    elif MODE == "exec-bad-signal":
        link.sendall(opened + frame(stream, EXIT, b"\x01\x01" + struct.pack(">I", 6) + b"\x1b[2J\r\n" + struct.pack(">I", 3) + b"\xff\x00\x1b"))
    elif MODE == "exec-credit":
        link.sendall(opened + frame(stream, CREDIT, b"\xff\xff\xff\xff") * 5000)
        time.sleep(3600)
    elif MODE == "exec-other-streams":
        for other in range(stream + 1, stream + 20000):
            link.sendall(opened_exec(other) + frame(other, STDOUT, b"x" * 100))
    elif MODE == "exec-huge-length":
        link.sendall(opened + struct.pack(">IB", stream, STDOUT) + b"\xff\xff\xff")
        while True:
            link.sendall(b"y" * 65536)
    elif MODE == "exec-control-flood":
        link.sendall(opened)
        block = (frame(stream, READER_GONE) + frame(stream, CREDIT, b"\0\0\0\1") + frame(stream, EOF)) * 1000
        while True:
            link.sendall(block)
    elif MODE == "exec-refused-terminal-text":
        text = b"\x1b]0;owned\x07\x1b[31mred\r\nroot# " * 10
        link.sendall(frame(stream, REFUSED, b"\0\3" + struct.pack(">I", len(text)) + text))
    elif MODE == "exec-cut":
        link.sendall((opened + frame(stream, STDOUT, b"half"))[:-2])
        link.close()
    elif MODE == "exec-cut-random":
        # Anywhere in a frame, each time elsewhere; what the other side has sent is left unread, which resets a connection.
        link.sendall(opened)
        blocks = frame(stream, STDOUT, b"r" * 1000) * 200
        link.sendall(blocks[:random.randrange(len(blocks))])
        link.close()
    elif MODE == "exec-pass-unasked" or MODE == "exec-pass-hold":
        # "It runs on the pipes that you passed": there are none in the first case, and nothing ever ends in the second.
        link.sendall(opened_exec(stream, passed=1))
        time.sleep(3600)
    elif MODE == "exec-pass-drop":
        link.sendall(opened_exec(stream, passed=1))
        for descriptor in PASSED:
            os.close(descriptor)
        time.sleep(3600)
    elif MODE == "exec-pass-flood":
        link.sendall(opened_exec(stream, passed=1))
        while True:
            for descriptor in PASSED:
                try:
                    os.write(descriptor, b"p" * 4096)
                except OSError:
                    pass
            link.sendall(frame(stream, STDOUT, b"beside the pipe"))
    elif MODE == "exec-ping-flood":
        # It never reads the answers.
        link.sendall(opened)
        while True:
            link.sendall(frame(0, PING, b"\0\0\0\1") * 1000)
    elif MODE == "exec-pong-flood":
        link.sendall(opened)
        while True:
            link.sendall(frame(0, PONG) * 1000)
    elif MODE == "exec-ping-on-a-stream":
        link.sendall(opened + frame(stream, PING, b"\0\0\0\1"))
        time.sleep(3600)
    elif MODE == "exec-random":
        link.sendall(opened)
        generator = random.Random(7)
        while True:
            kind = generator.randrange(0, 20)
            link.sendall(frame(generator.choice([0, stream, stream, generator.getrandbits(32)]), kind,
                               generator.randbytes(generator.choice([0, 1, 4, 5, 16, 64, 300]))))
    else:
        raise SystemExit("no such mode: " + MODE)


def alone(link, stream):
    try:
        misbehave(link, stream)
    except OSError:
        link.close()


def incoming(stream, number):
    """Somebody has connected."""
    return frame(stream, INCOMING, struct.pack(">QBI", number, 1, 9) + b"127.0.0.1" + struct.pack(">H", 4))


def misbehave_forwarding(link, stream, asked):
    """What happens once the gateway wants to connect or to listen. Processes start and are silent."""
    listening = frame(stream, OPENED, b"\x05" + struct.pack(">HI", 4000, 0))
    connected = frame(stream, OPENED, bytes([asked, 0]))
    if asked == EXEC:
        link.sendall(opened_exec(stream))
    elif asked == DIAL:
        if MODE == "forward-flood":
            link.sendall(connected)
            while True:
                link.sendall(frame(stream, STDOUT, b"x" * 200000))
        elif MODE == "forward-wrong-answer":
            link.sendall(listening)
        elif MODE == "forward-terminal-text":
            text = b"\x1b]0;owned\x07\x1b[31mred\r\nroot# " * 10
            link.sendall(frame(stream, REFUSED, b"\0\x0b" + struct.pack(">I", len(text)) + text))
        elif MODE == "forward-exit":
            link.sendall(connected + frame(stream, EXIT, b"\x00" + struct.pack(">I", 0)) + frame(stream, STDOUT, b"late") * 100)
    elif asked == LISTEN:
        if MODE == "forward-wrong-answer":
            link.sendall(connected)
        elif MODE == "forward-terminal-text":
            link.sendall(frame(stream, OPENED, b"\x05" + struct.pack(">HI", 0, 12) + b"/\x1b[31m/../../"))
        elif MODE == "forward-twice":
            link.sendall(listening + incoming(stream, 7) * 1000)
        elif MODE == "forward-data":
            link.sendall(listening + frame(stream, STDOUT, b"data") * 1000 + frame(stream, EXIT, b"\x00" + struct.pack(">I", 0)))
        elif MODE == "forward-crowd":
            # More come than anybody can take, and what it is told of them is never read.
            link.sendall(listening)
            number = 1
            while True:
                link.sendall(b"".join(incoming(stream, number + i) for i in range(500)))
                number += 500
        else:
            link.sendall(listening + b"".join(incoming(stream, i) for i in range(1, 100)))
    elif asked == ACCEPT:
        link.sendall(connected)
        while MODE == "forward-flood":
            link.sendall(frame(stream, STDOUT, b"x" * 200000))
    time.sleep(3600)


def serve(link):
    try:
        if MODE == "silence":
            time.sleep(3600)
        elif MODE == "close":
            link.close()
            return
        elif MODE == "random":
            while True:
                link.sendall(os.urandom(4096))
        elif MODE == "huge-hello":
            link.sendall(struct.pack(">IB", 0, HELLO) + b"\xff\xff\xff" + b"z" * (1 << 20))
        elif MODE == "wrong-version":
            software = b"from the future"
            link.sendall(frame(0, HELLO, b"SANDGATE" + struct.pack(">HHQI", 900, 901, 0, 1) + struct.pack(">I", len(software)) + software))
            time.sleep(3600)
        elif MODE == "hello-flood":
            while True:
                link.sendall(hello() * 100)
        # With the lowest bit the gateway passes pipes along.
        capabilities = 1 if MODE.startswith("exec-pass") and MODE != "exec-pass-unasked" else 0
        if "-ping" in MODE or "-pong" in MODE:
            capabilities = 16
        if MODE.startswith("forward"):
            capabilities = 12
        link.sendall(hello(capabilities))
        while True:
            stream, kind, payload = read_frame(link)
            if kind == OPEN and payload[0] == INFO:
                link.sendall(frame(stream, OPENED, b"\x02" + struct.pack(">III", 1, 0, 0)))
            elif kind == OPEN and MODE.startswith("forward"):
                misbehave_forwarding(link, stream, payload[0])
            elif kind == OPEN and isinstance(link, Pipes):
                # The others that are on it come as well.
                threading.Thread(target=alone, args=(link, stream), daemon=True).start()
            elif kind == OPEN:
                misbehave(link, stream)
    except (EOFError, OSError):
        link.close()


def main():
    if "--hold" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        while True:
            signal.pause()
    accept = listener()
    if accept is None:
        return serve(Pipes())
    while True:
        link, _ = accept.accept()
        threading.Thread(target=serve, args=(link,), daemon=True).start()


main()
