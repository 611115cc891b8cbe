# Every user key type, each with the one host key type that the gateway always has.
s/^(\t)htypes="\$ut"/\1htypes="ed25519-512"/
