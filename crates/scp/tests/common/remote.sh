#!/bin/sh
# Stands in for ssh: the last argument is the command, as sshd would get it. REMOTE_DIR is the home on the other side; OURS, if set, is
# our program with its flags, else the command goes to a shell.
for command; do :; done
cd "$REMOTE_DIR" || exit 9
HOME=$REMOTE_DIR
export HOME
umask 027
if [ -n "$OURS" ]; then
	exec $OURS --command "$command"
fi
exec sh -c "$command"
