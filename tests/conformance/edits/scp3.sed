# With a token for files alone the far end is the agent's scp and not the image's.
1i DOOR=`$SSHD --door $OBJ/sshd_proxy --scopes sftp` || fatal "no token"
s|scpopts="-F\$\{OBJ\}/ssh_proxy|& -oUser=${DOOR#* }|
