# sshd's SetEnv, which overrides the client, has no equivalent.
/^trace "server setenv wins"/,/^rm -f \$OBJ\/ssh_proxy_envpass/{
/^rm -f/!d
}
