# The host key types that the gateway has; and it has one key of each, so the overlap of two primary keys is left out.
1i SSH_HOSTKEY_TYPES="$SG_HOSTKEY_TYPES"
/^verbose "learn new primary hostkey"/,$d
