-- Schema 1. {t} is the configured name. Codes: status 0 success, 1 failed,
-- 2 pending, 3 unknown; severity 0 low, 1 medium, 2 high, 3 critical.
CREATE TABLE IF NOT EXISTS "{t}_texts" (
	code INTEGER PRIMARY KEY,
	text TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS "{t}_entries" (
	key       INTEGER PRIMARY KEY, -- storage.Entry.SortKey: milliseconds << 20 | bits of the id
	id        BLOB NOT NULL,       -- 16 bytes of a UUID, or the text of another id
	user_hash INTEGER,             -- first 64 bits of SHA-256(user_id); NULL without a user
	user_id   TEXT,
	action    INTEGER NOT NULL,    -- code in {t}_texts
	status    INTEGER NOT NULL,
	severity  INTEGER NOT NULL,
	ip        TEXT,
	agent     INTEGER,             -- code in {t}_texts
	metadata  TEXT,                -- JSON object; NULL stands for {}
	identifier_hash INTEGER        -- first 64 bits of SHA-256(metadata.identifierHash); NULL without Entry.IdentifierHash
);
CREATE UNIQUE INDEX IF NOT EXISTS "{t}_id" ON "{t}_entries" (id);
CREATE INDEX IF NOT EXISTS "{t}_user" ON "{t}_entries" (user_hash, key, action, status) WHERE user_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{t}_action" ON "{t}_entries" (action, status);
CREATE INDEX IF NOT EXISTS "{t}_unsuccessful" ON "{t}_entries" (status) WHERE status <> 0;
CREATE INDEX IF NOT EXISTS "{t}_nobody" ON "{t}_entries" (user_hash) WHERE user_hash IS NULL;
CREATE INDEX IF NOT EXISTS "{t}_severe" ON "{t}_entries" (severity) WHERE severity >= 2;
CREATE INDEX IF NOT EXISTS "{t}_identifier" ON "{t}_entries" (identifier_hash) WHERE identifier_hash IS NOT NULL;
CREATE VIEW IF NOT EXISTS "{t}" AS
	SELECT
		CASE typeof(e.id) WHEN 'blob' THEN lower(
			substr(hex(e.id), 1, 8) || '-' || substr(hex(e.id), 9, 4) || '-' || substr(hex(e.id), 13, 4) || '-' ||
			substr(hex(e.id), 17, 4) || '-' || substr(hex(e.id), 21)) ELSE e.id END AS id,
		e.user_id AS userId,
		a.text AS action,
		CASE e.status WHEN 0 THEN 'success' WHEN 1 THEN 'failed' WHEN 2 THEN 'pending' ELSE 'unknown' END AS status,
		CASE e.severity WHEN 0 THEN 'low' WHEN 1 THEN 'medium' WHEN 2 THEN 'high' ELSE 'critical' END AS severity,
		e.ip AS ipAddress,
		u.text AS userAgent,
		coalesce(e.metadata, '{}') AS metadata,
		strftime('%Y-%m-%dT%H:%M:%S', (e.key >> 20) / 1000, 'unixepoch') || printf('.%03dZ', (e.key >> 20) % 1000) AS createdAt
	FROM "{t}_entries" e
	JOIN "{t}_texts" a ON a.code = e.action
	LEFT JOIN "{t}_texts" u ON u.code = e.agent;
