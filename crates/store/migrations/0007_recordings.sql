-- What is recorded: off, terminal or all.
ALTER TABLE tokens ADD COLUMN record TEXT NOT NULL DEFAULT 'off';
ALTER TABLE sandboxes ADD COLUMN record TEXT NOT NULL DEFAULT 'off';

-- One row for each file. Its last link is here as well, so that a file that was written anew shows.
CREATE TABLE recordings (
    id TEXT PRIMARY KEY NOT NULL,
    sandbox_id TEXT NOT NULL,
    sandbox_name TEXT NOT NULL,
    session_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    format TEXT NOT NULL,
    path TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT,
    bytes BIGINT NOT NULL DEFAULT 0,
    chain_count BIGINT NOT NULL DEFAULT 0,
    chain_head TEXT NOT NULL DEFAULT '',
    complete BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX recordings_started ON recordings (started_at, id);
