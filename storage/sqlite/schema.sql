-- Schema 5. {t} is the configured name. Codes: status 0 success, 1 failed,
-- 2 pending, 3 unknown; severity 0 low, 1 medium, 2 high, 3 critical.
CREATE TABLE IF NOT EXISTS "{t}_texts" (
	code  INTEGER PRIMARY KEY,
	text  TEXT NOT NULL, -- an action or a user agent
	class TEXT           -- of an action: metadata.class of its entries, '' if they have none; NULL: not known, or a user agent
);
CREATE INDEX IF NOT EXISTS "{t}_text" ON "{t}_texts" (text, class);
CREATE INDEX IF NOT EXISTS "{t}_class" ON "{t}_texts" (class) WHERE class IS NOT NULL;
-- How many entries there are of each kind in the hours before {t}_counted.hour, in
-- hours since 1970; what is younger the process that writes counts in its memory.
CREATE TABLE IF NOT EXISTS "{t}_counts" (
	hour     INTEGER NOT NULL,
	kind     INTEGER NOT NULL, -- code of an action
	status   INTEGER NOT NULL,
	severity INTEGER NOT NULL,
	n        INTEGER NOT NULL,
	PRIMARY KEY (hour, kind, status, severity)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS "{t}_counted" (
	hour   INTEGER NOT NULL,
	legacy INTEGER NOT NULL -- 1: there may be entries whose action has class NULL; their metadata says it
);
CREATE TABLE IF NOT EXISTS "{t}_entries" (
	key       INTEGER PRIMARY KEY, -- storage.Entry.SortKey: milliseconds << 20 | bits of the id
	id        BLOB NOT NULL,       -- 16 bytes of a UUID, or the text of another id
	user_hash INTEGER,             -- first 64 bits of SHA-256(user_id); NULL without a user
	user_id   TEXT,
	action    INTEGER NOT NULL,    -- code in {t}_texts, which says the class, too
	status    INTEGER NOT NULL,
	severity  INTEGER NOT NULL,
	ip        TEXT,
	agent     INTEGER,             -- code in {t}_texts
	metadata  TEXT,                -- JSON object; NULL stands for {}
	identifier_hash INTEGER,       -- first 64 bits of SHA-256(metadata.identifierHash); NULL without Entry.IdentifierHash
	stray     INTEGER              -- NULL: the id leads to the key (storage.IDKey); 1: it leads nowhere; 2: to one before, which was taken; 3: to another time
);
CREATE UNIQUE INDEX IF NOT EXISTS "{t}_stray" ON "{t}_entries" (id) WHERE stray IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{t}_elsewhere" ON "{t}_entries" (stray) WHERE stray = 3;
CREATE INDEX IF NOT EXISTS "{t}_action" ON "{t}_entries" (action, status);
CREATE INDEX IF NOT EXISTS "{t}_unsuccessful" ON "{t}_entries" (status) WHERE status <> 0;
CREATE INDEX IF NOT EXISTS "{t}_nobody" ON "{t}_entries" (user_hash) WHERE user_hash IS NULL;
CREATE INDEX IF NOT EXISTS "{t}_severe" ON "{t}_entries" (severity) WHERE severity >= 2;
-- Users, addresses and identifiers are spread over an index at random: a B-tree would have a
-- page written for each. So entries stay unindexed until some hundreds of them become a
-- segment, sorted blocks of postings (package postings), and segments are merged into
-- larger ones. Unindexed are those from upto on, and those in late.
CREATE TABLE IF NOT EXISTS "{t}_unindexed" (upto INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS "{t}_late" (key INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS "{t}_segments" (
	segment INTEGER PRIMARY KEY,
	level   INTEGER NOT NULL, -- how often its postings were merged, or as if
	state   INTEGER NOT NULL, -- 0 in the making, 1 to be read, 2 to be deleted
	target  INTEGER,          -- the segment that it is being merged into
	first   INTEGER NOT NULL, -- no key is lower
	last    INTEGER NOT NULL, -- or higher
	floor   INTEGER NOT NULL  -- entries with lower keys have been deleted since
);
CREATE TABLE IF NOT EXISTS "{t}_postings" (
	id      INTEGER PRIMARY KEY,
	segment INTEGER NOT NULL,
	place   BLOB NOT NULL, -- of the last posting: postings.Posting.Place
	block   BLOB NOT NULL  -- postings.Block
);
CREATE UNIQUE INDEX IF NOT EXISTS "{t}_place" ON "{t}_postings" (segment, place);
INSERT INTO "{t}_unindexed" SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM "{t}_unindexed");
INSERT INTO "{t}_counted" SELECT CASE WHEN EXISTS (SELECT 1 FROM "{t}_entries") THEN 0 ELSE unixepoch() / 3600 END,
	EXISTS (SELECT 1 FROM "{t}_texts")
	WHERE NOT EXISTS (SELECT 1 FROM "{t}_counted");
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
