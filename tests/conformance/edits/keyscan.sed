# The host key types that the gateway has.
1i SSH_KEYTYPES="$SG_HOSTKEY_TYPES"
