# internal-sftp is sshd itself.
s|internal-sftp -d /|$SFTPSERVER -d /|
