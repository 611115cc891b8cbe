-- What a token may do through the file servers: the directory that the client sees as its root, and whether it may only read.
ALTER TABLE tokens ADD COLUMN sftp_root TEXT;
ALTER TABLE tokens ADD COLUMN sftp_read_only BIGINT NOT NULL DEFAULT 0;
