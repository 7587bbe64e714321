-- The kind of event, and what finds the entries of one kind or of one address.
ALTER TABLE "{s}"."{t}_entries" ADD COLUMN class text COLLATE "C"; -- metadata.class; NULL: none, or written before this migration
CREATE INDEX ON "{s}"."{t}_entries" (class, key) WHERE class IS NOT NULL;
CREATE INDEX ON "{s}"."{t}_entries" (ip, key) WHERE ip IS NOT NULL;
