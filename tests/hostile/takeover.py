#!/usr/bin/python3
"""Root in a virtual machine takes the guest agent's place: `takeover.py PROGRAM ARGS…`.

The agent is the first process and cannot be killed from inside. It is stopped as a debugger stops a process, the socket on which it
listens is taken out of it, and PROGRAM gets that as its standard input. From then on whoever connects reaches PROGRAM.
"""

import ctypes
import os
import socket
import sys
import time

AGENT = 1
PTRACE_ATTACH, WALL = 16, 0x40000000
PIDFD_OPEN, PIDFD_GETFD = 434, 438
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4


def call(result, what):
    if result < 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def listener():
    agent = call(libc.syscall(PIDFD_OPEN, AGENT, 0), "pidfd_open")
    for name in os.listdir(f"/proc/{AGENT}/fd"):
        fd = libc.syscall(PIDFD_GETFD, agent, int(name), 0)
        if fd < 0 or not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
            continue
        found = socket.socket(fileno=fd)
        if found.family == socket.AF_VSOCK and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return found
    sys.exit("the agent listens nowhere")


# The last words that the agent carries to whoever has started this; they need a moment.
print("taking", flush=True)
time.sleep(0.5)
call(libc.ptrace(PTRACE_ATTACH, AGENT, 0, 0), "ptrace")
os.waitpid(AGENT, WALL)
taken = listener()
os.dup2(taken.fileno(), 0)
os.set_blocking(0, True)
os.execvp(sys.argv[1], sys.argv[1:])
