# Lists of allowed and denied requests are options of sftp-server; a token has only --sftp-read-only.
/^perm_test \\/,/^$/d
