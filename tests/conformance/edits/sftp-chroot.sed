# In place of ChrootDirectory, a token with --sftp-root: a directory in the sandbox, which sees the scratch directory.
s|^CHROOT=.*|CHROOT=$OBJ/chroot; mkdir -p $CHROOT|
/^if \[ -z "\$SUDO"/,/^fi/d
/^if ! \$OBJ\/check-perm/,/^fi/d
s|^start_sshd .*|DOOR=`$SSHD --door $OBJ/sshd_proxy --sftp-root $CHROOT` \|\| fatal "no token"|
s|-F \$OBJ/ssh_config host:|-F $OBJ/ssh_proxy -oUser=${DOOR#* } host:|
