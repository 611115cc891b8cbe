"""A shell on a terminal, for the mock gateway: bytes on stdin and stdout, `cols rows xpixel ypixel` lines on descriptor 3."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios

pid, master = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm-256color", PS1="box:\\w$ ", HOME="/tmp")
    os.closerange(3, 64)
    os.chdir("/tmp")
    os.execvp("bash", ["bash", "--norc", "--noprofile"])

lines = b""
sources = [0, 3, master]
while True:
    ready, _, _ = select.select(sources, [], [])
    if 3 in ready:
        got = os.read(3, 4096)
        if not got:
            sources.remove(3)
        lines += got
        *whole, lines = lines.split(b"\n")
        for line in whole:
            cols, rows, x, y = (int(part) for part in line.split())
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, x, y))
    if 0 in ready:
        got = os.read(0, 65536)
        if not got:
            os.kill(pid, 1)
            sources.remove(0)
        while got:
            # While the shell does not read, its output has to go on.
            _, writable, _ = select.select([], [master], [], 0.02)
            if writable:
                got = got[os.write(master, got[:1024]):]
            again, _, _ = select.select([master], [], [], 0)
            if again:
                os.write(1, os.read(master, 65536))
    # Asked again: what was ready may have been read above.
    if select.select([master], [], [], 0)[0]:
        try:
            got = os.read(master, 65536)
        except OSError:
            got = b""
        if not got:
            break
        while got:
            got = got[os.write(1, got):]

_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 0xFF if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
