"""What every Python client does with the server: the same questions, answered as one JSON object on standard output.

usage: CLIENT.py PORT USER [KEYFILE]   (no key: authentication method "none", the user name is the token)
"""

import hashlib
import json
import os
import sys

SIZE = 10 * 1024 * 1024
# All byte values, and not compressible by accident.
PAYLOAD = bytes(range(256)) * 16 + os.urandom(SIZE - 4096)
DOWNLOAD = ("head -c %d /dev/zero | openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f"
            " -iv 00000000000000000000000000000000" % SIZE)
BOTH = "echo out; echo err >&2; exit 7"
UPLOAD = "sha256sum"


def arguments():
    port, user = int(sys.argv[1]), sys.argv[2]
    key = sys.argv[3] if len(sys.argv) > 3 else None
    return port, user, key


def report(code, stdout, stderr, upload_answer, download):
    """Prints what was seen; the Rust side compares it."""
    print(json.dumps({
        "code": code,
        "stdout": stdout.decode("latin-1"),
        "stderr": stderr.decode("latin-1"),
        "upload_ok": upload_answer.split()[:1] == [hashlib.sha256(PAYLOAD).hexdigest().encode()],
        "download": hashlib.sha256(download).hexdigest(),
    }))
