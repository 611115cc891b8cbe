# Options of authorized_keys have no equivalent; the rules of sshd_config are those of the sandbox.
/# permitopen keys option/,/^\}/{
/^\}/!d
}
