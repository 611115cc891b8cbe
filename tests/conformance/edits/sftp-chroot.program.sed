# The server keeps below a root by itself, so the directory need not be one that sshd takes for a chroot.
s|^CHROOT=.*|CHROOT=$OBJ/chroot; mkdir -p $CHROOT|
/^if \[ -z "\$SUDO"/,/^fi/d
/^if ! \$OBJ\/check-perm/,/^fi/d
s|-oChrootDirectory=\$CHROOT -oForceCommand="internal-sftp -d /"|-oForceCommand="$SFTPSERVER --root $CHROOT -d /"|
