-- Finds the entries of one session by a search for its hash.
ALTER TABLE "{s}"."{t}_entries" ADD COLUMN session_hash text COLLATE "C"; -- metadata.sessionHash; NULL: none, or written before this migration, or by a node of an earlier version
