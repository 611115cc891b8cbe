-- Only what SQLite and PostgreSQL both understand: TEXT and BIGINT, no functions, no generated numbers.
-- Times are milliseconds since 1970-01-01 UTC. Flags are 0 or 1.

CREATE TABLE sandboxes (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    driver     TEXT   NOT NULL,
    -- The driver's specification as JSON.
    spec       TEXT   NOT NULL,
    -- creating: the driver may have made nothing or half of it; ready; removing: it may have removed half of it.
    phase      TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

-- No foreign key: a token outlives its sandbox so that its holder can be told what happened.
CREATE TABLE tokens (
    id           TEXT   NOT NULL PRIMARY KEY,
    -- SHA-256 of the token in hexadecimal. The token itself is nowhere.
    hash         TEXT   NOT NULL UNIQUE,
    -- The first 8 characters, to recognize it by.
    prefix       TEXT   NOT NULL,
    label        TEXT   NOT NULL,
    scopes       TEXT   NOT NULL,
    sandbox_id   TEXT   NOT NULL,
    -- Networks it may be used from, separated by commas; empty means anywhere.
    sources      TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    revoked_at   BIGINT,
    last_used_at BIGINT
);
CREATE INDEX tokens_by_sandbox ON tokens (sandbox_id);

CREATE TABLE public_keys (
    id              TEXT   NOT NULL PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE,
    -- SHA256:… as ssh-keygen prints it.
    fingerprint     TEXT   NOT NULL UNIQUE,
    -- The key in OpenSSH's one-line form, without its comment.
    public_key      TEXT   NOT NULL,
    -- 1: opens every sandbox; 0: those in key_sandboxes, which may be none.
    every_sandbox   BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    last_used_at    BIGINT
);

CREATE TABLE key_sandboxes (
    key_id     TEXT NOT NULL REFERENCES public_keys (id) ON DELETE CASCADE,
    sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    PRIMARY KEY (key_id, sandbox_id)
);

CREATE TABLE sessions (
    id           TEXT   NOT NULL PRIMARY KEY,
    sandbox_id   TEXT   NOT NULL,
    sandbox_name TEXT   NOT NULL,
    credential   TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    pty          BIGINT NOT NULL,
    client       TEXT,
    started_at   BIGINT NOT NULL,
    ended_at     BIGINT,
    outcome      TEXT,
    bytes_in     BIGINT NOT NULL,
    bytes_out    BIGINT NOT NULL
);
CREATE INDEX sessions_by_start ON sessions (started_at);

-- Rows are only ever added. The gateway has no statement that changes or removes one.
CREATE TABLE audit (
    seq        BIGINT NOT NULL PRIMARY KEY,
    at         BIGINT NOT NULL,
    action     TEXT   NOT NULL,
    sandbox_id TEXT,
    actor      TEXT   NOT NULL,
    client     TEXT,
    detail     TEXT   NOT NULL
);
