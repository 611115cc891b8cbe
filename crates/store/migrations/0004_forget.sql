-- Rows of the audit trail are removed when they are older than the configuration keeps them ("keep_audit"), found by this index. No
-- other statement of the gateway changes or removes one.
CREATE INDEX audit_by_time ON audit (at);
