# A login from inside the sandbox to another server would need a network in there; the forwarded agent is asked instead.
s/^\t"\$\{SSH\} -F \$OBJ\/ssh_proxy somehost exit 52"$/\t"${SSHADD} -l >\/dev\/null \&\& ${SSHADD} -L >\/dev\/null \&\& exit 52"/
