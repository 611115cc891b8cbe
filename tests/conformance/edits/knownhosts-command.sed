# The host key types that the gateway has.
1i SSH_HOSTKEY_TYPES="$SG_HOSTKEY_TYPES"
