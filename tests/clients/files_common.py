"""What the Python file clients have in common.

usage: CLIENT.py PORT USER DIR FAR [KEYFILE]   (no key: authentication method "none", the user name is the token)

DIR/tree holds the tree to send to FAR/up; what comes back from there goes to DIR/back. The Rust side compares the three. Everything
else happens in FAR/play, checked here: a script that ends well has found all as it should be.
"""

import os
import sys

BYTES = bytes(range(256)) * 4096 + os.urandom(777)


def arguments():
    port, user, near, far = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    key = sys.argv[5] if len(sys.argv) > 5 else None
    return port, user, near, far, key
