-- The log. {s} is the configured schema, {t} the configured name. Codes: status 0
-- success, 1 failed, 2 pending, 3 unknown; severity 0 low, 1 medium, 2 high,
-- 3 critical. The texts of entries are compared byte by byte: COLLATE "C".
CREATE TABLE "{s}"."{t}_entries" (
	key             bigint PRIMARY KEY,        -- milliseconds since 1970 << 20 | bits of the id
	id              text COLLATE "C" NOT NULL, -- unique in each partition
	user_hash       bigint,                    -- first 64 bits of SHA-256(user_id); NULL without a user
	user_id         text COLLATE "C",
	action          text COLLATE "C" NOT NULL,
	status          smallint NOT NULL,
	severity        smallint NOT NULL,
	ip              text COLLATE "C",
	agent           text COLLATE "C",
	metadata        text COLLATE "C",          -- a JSON object, byte for byte; NULL stands for {}
	identifier_hash bigint,                    -- first 64 bits of SHA-256(metadata.identifierHash); NULL for what was inserted through the API
	identifier      text COLLATE "C",          -- metadata.identifier, and so on: what a search looks at
	target_user_id  text COLLATE "C",
	error_code      text COLLATE "C"
) PARTITION BY RANGE (key);

CREATE INDEX ON "{s}"."{t}_entries" (user_hash, key) WHERE user_hash IS NOT NULL;
CREATE INDEX ON "{s}"."{t}_entries" (key) WHERE user_hash IS NULL;
CREATE INDEX ON "{s}"."{t}_entries" (action, status, key);
CREATE INDEX ON "{s}"."{t}_entries" (severity, key) WHERE severity >= 2;
CREATE INDEX ON "{s}"."{t}_entries" (status, key) WHERE status <> 0;
CREATE INDEX ON "{s}"."{t}_entries" (identifier_hash, key) WHERE identifier_hash IS NOT NULL;

-- Takes what no month has.
CREATE TABLE "{s}"."{t}_default" PARTITION OF "{s}"."{t}_entries" DEFAULT;
CREATE UNIQUE INDEX ON "{s}"."{t}_default" (id);

-- Entries whose id is of another month than they are: who writes such an id again, with
-- a time of the id's month, would not look for it in theirs.
CREATE TABLE "{s}"."{t}_strays" (
	id  text COLLATE "C" PRIMARY KEY,
	key bigint NOT NULL
);
CREATE INDEX ON "{s}"."{t}_strays" (key);

-- How far caddy audit-log migrate has come, by source.
CREATE TABLE "{s}"."{t}_moves" (
	source text PRIMARY KEY,
	key    bigint NOT NULL
);

CREATE VIEW "{s}"."{t}" AS
	SELECT
		id,
		user_id AS "userId",
		action,
		CASE status WHEN 0 THEN 'success' WHEN 1 THEN 'failed' WHEN 2 THEN 'pending' ELSE 'unknown' END AS status,
		CASE severity WHEN 0 THEN 'low' WHEN 1 THEN 'medium' WHEN 2 THEN 'high' ELSE 'critical' END AS severity,
		ip AS "ipAddress",
		agent AS "userAgent",
		coalesce(metadata, '{}')::json AS metadata,
		to_timestamp((key >> 20) / 1000.0) AS "createdAt"
	FROM "{s}"."{t}_entries";
