# SFTP, scp and forwarding are not built yet: everything else of the script stays.
/^trace "sftp transfer over/,/^for s in 0 1 4 5 44/{
/^for s in/!d
}
/^verbose "test \$tid: cmd forward local \(TCP\)"/,/^verbose "test \$tid: cmd exit"/{
/cmd exit/!d
}
