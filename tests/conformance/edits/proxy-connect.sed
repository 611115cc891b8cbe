# sshd -i has no peer address; the gateway always has one. The ":style" suffix of a user name is BSD authentication.
s/\[ "\$SSH_CONNECTION" != "UNKNOWN 65535 UNKNOWN 65535" \]/! expr "$SSH_CONNECTION" : '127\\.0\\.0\\.1 [0-9]* 127\\.0\\.0\\.1 [0-9]*$' >\/dev\/null/
/^verbose "username with style"/,$d
