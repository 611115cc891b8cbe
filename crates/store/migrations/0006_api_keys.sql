-- Who may use the HTTP API. A revoked key's row stays, so that its holder can still be told.
CREATE TABLE api_keys (
    id           TEXT   NOT NULL PRIMARY KEY,
    -- SHA-256 of the key in hexadecimal. The key itself is nowhere.
    hash         TEXT   NOT NULL UNIQUE,
    -- The first 8 characters, to recognize it by.
    prefix       TEXT   NOT NULL,
    name         TEXT   NOT NULL UNIQUE,
    -- viewer, user or admin
    role         TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT
);
