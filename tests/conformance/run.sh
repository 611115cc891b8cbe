#!/bin/sh
# Runs OpenSSH's regress scripts against the release build of the gateway; see README.md. Arguments go to runner.py.
exec /usr/bin/python3 -I -S "$(dirname "$0")/runner.py" "$@"
