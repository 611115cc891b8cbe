#!/usr/bin/python3
"""Root in a virtual machine takes the guest agent's place: `takeover.py PROGRAM ARGS…`.

The agent is the first process and cannot be killed from inside. It is stopped as a debugger stops a process, the socket on which it
listens is taken out of it, and PROGRAM gets that as its standard input. From then on whoever connects reaches PROGRAM. With
HOSTILE=port-closed the socket is closed in the agent instead, and the machine's kernel refuses whoever connects.
"""

import ctypes
import os
import socket
import sys
import time

AGENT = 1
PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_ATTACH, WALL = 9, 12, 13, 16, 0x40000000
PIDFD_OPEN, PIDFD_GETFD = 434, 438
SYS_CLOSE = 3
# Of struct user_regs_struct (x86-64).
REGISTERS, RAX, RDI, ORIG_RAX, RIP = 27, 10, 14, 15, 16
SYSCALL_LENGTH = 2
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
            return found, int(name)
    sys.exit("the agent listens nowhere")


def close_in_agent(fd):
    """It stands in a system call; its next one is ours."""
    registers = (ctypes.c_ulonglong * REGISTERS)()
    call(libc.ptrace(PTRACE_GETREGS, AGENT, 0, ctypes.addressof(registers)), "getregs")
    registers[RAX], registers[RDI], registers[ORIG_RAX] = SYS_CLOSE, fd, 2**64 - 1
    registers[RIP] -= SYSCALL_LENGTH
    call(libc.ptrace(PTRACE_SETREGS, AGENT, 0, ctypes.addressof(registers)), "setregs")
    call(libc.ptrace(PTRACE_SINGLESTEP, AGENT, 0, 0), "singlestep")
    os.waitpid(AGENT, WALL)
    if f"socket:[{os.fstat(taken.fileno()).st_ino}]" in agent_descriptors():
        sys.exit("the agent's socket is not closed")


def agent_descriptors():
    return [os.readlink(f"/proc/{AGENT}/fd/{name}") for name in os.listdir(f"/proc/{AGENT}/fd")]


# The last words that the agent carries to whoever has started this; they need a moment.
print("taking", flush=True)
time.sleep(0.5)
call(libc.ptrace(PTRACE_ATTACH, AGENT, 0, 0), "ptrace")
os.waitpid(AGENT, WALL)
taken, number = listener()
if os.environ.get("HOSTILE") == "port-closed":
    close_in_agent(number)
    taken.close()
    time.sleep(3600)
os.dup2(taken.fileno(), 0)
os.set_blocking(0, True)
os.execvp(sys.argv[1], sys.argv[1:])
