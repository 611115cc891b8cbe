-- What may be forwarded, as JSON: the lists that were given. An empty object restricts nothing.
ALTER TABLE tokens ADD COLUMN forward_rules TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sandboxes ADD COLUMN forward_rules TEXT NOT NULL DEFAULT '{}';
