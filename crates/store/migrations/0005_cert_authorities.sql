-- Not NULL makes the key an authority: it signs certificates and logs nobody in itself. The text holds the principals that it may vouch
-- for, separated by commas; the empty one stands for the name of the sandbox.
ALTER TABLE public_keys ADD COLUMN authority_principals TEXT;
