import type { BetterFetch, BetterFetchOption, BetterFetchResponse } from "@better-fetch/fetch";

/** How an exchange ended. */
export type AuditLogStatus = "success" | "failed" | "pending" | "unknown";

/** How much an entry should worry somebody. */
export type AuditLogSeverity = "low" | "medium" | "high" | "critical";

/** One line of the audit log, as the API shows it. */
export interface AuditLogEntry {
	id: string;
	/** The acting user; null if nobody knows. */
	userId: string | null;
	/** Such as `sign-in:email`. */
	action: string;
	status: AuditLogStatus;
	severity: AuditLogSeverity;
	ipAddress: string | null;
	/** As it was stored: texts that look like dates stay texts. */
	metadata: AuditLogMetadata;
	createdAt: Date;
}

/** What the recorder writes, and whatever an inserted entry has. */
export interface AuditLogMetadata {
	requestId?: string;
	method?: string;
	statusCode?: number;
	durationMs?: number;
	class?: string;
	error?: { status?: string; code?: string; message?: string };
	/** What was typed to sign in, masked. */
	identifier?: string;
	identifierHash?: string;
	targetUserId?: string;
	impersonatedBy?: string;
	source?: string;
	[name: string]: unknown;
}

/** Which entries to list. Everything is optional; the filters add up. */
export interface AuditLogFilters {
	/** Somebody else's entries, for administrators; `null` for entries without a user. */
	userId?: string | null;
	/** `all` shows everybody's entries, to administrators. */
	scope?: "own" | "all";
	action?: string;
	/** `metadata.class`, such as `sign-in`. */
	class?: string;
	/** An address. */
	ip?: string;
	/** Attempts on an account, by what was typed to sign in; for administrators, not together with `userId`. */
	identifier?: string;
	/** The same by its keyed hash, as `metadata.identifierHash` shows it. */
	identifierHash?: string;
	status?: AuditLogStatus;
	severity?: AuditLogSeverity;
	/** Both ends are inclusive. A text is ISO 8601. */
	from?: Date | string | number;
	to?: Date | string | number;
	/** A part of action, user, address, identifier, target user, error code or hash of the session; at most 100 bytes. */
	q?: string;
	/** 1 to 500; 50 if not given. */
	limit?: number;
	offset?: number;
	/** The `nextCursor` of an earlier page. */
	cursor?: string;
}

/** One page of a list, newest first. */
export interface AuditLogPage {
	entries: AuditLogEntry[];
	/** How many entries fit the filters: exactly, or up to 10,000 where each would have to be looked at. */
	total: number;
	/** True when there are more than `total`. */
	totalIsCapped?: true;
	/** Not there on the last page. */
	nextCursor?: string;
}

/** An event of your own. Who, when and from where is the server's to say. */
export interface AuditLogInsert {
	/** At most 128 bytes, and not the name of a captured action. */
	action: string;
	status?: "success" | "failed";
	severity?: AuditLogSeverity;
	metadata?: Record<string, unknown>;
}

/** The codes of the API's errors. */
export type AuditLogErrorCode =
	| "AMBIGUOUS_PATH"
	| "AUTH_SERVER_UNKNOWN"
	| "BASE_PATH_UNCONFIRMED"
	| "BAD_REQUEST"
	| "FORBIDDEN"
	| "INTERNAL_SERVER_ERROR"
	| "INVALID_ORIGIN"
	| "MISSING_OR_NULL_ORIGIN"
	| "NOT_FOUND"
	| "NOT_IMPLEMENTED"
	| "PAYLOAD_TOO_LARGE"
	| "QUERY_TOO_SLOW"
	| "SESSION_UNAVAILABLE"
	| "STORE_UNAVAILABLE"
	| "TOO_MANY_REQUESTS"
	| "TOO_MANY_STREAMS"
	| "UNAUTHORIZED"
	| "UNSUPPORTED_MEDIA_TYPE"
	| "VALIDATION_ERROR";

/** The body of an error; a proxy in between may answer without one. */
export interface AuditLogError {
	message?: string;
	code?: AuditLogErrorCode | (string & {});
}

/** What every call resolves to: `data`, or `error` with its HTTP `status`. */
export type AuditLogResult<Data> = Promise<BetterFetchResponse<Data, AuditLogError, false>>;

/** Options of the request, as all Better Auth client calls take them. */
export type AuditLogFetchOptions = Omit<BetterFetchOption, "method" | "body" | "query" | "jsonParser" | "throw">;

interface List {
	(options?: { query?: AuditLogFilters; fetchOptions?: AuditLogFetchOptions }, fetchOptions?: AuditLogFetchOptions): AuditLogResult<AuditLogPage>;
}

interface Get {
	/** Throws a TypeError for an id that no entry can have. */
	(
		options: { id: string; fetchOptions?: AuditLogFetchOptions } | { params: { id: string }; fetchOptions?: AuditLogFetchOptions },
		fetchOptions?: AuditLogFetchOptions,
	): AuditLogResult<AuditLogEntry>;
}

interface Insert {
	(options: AuditLogInsert & { fetchOptions?: AuditLogFetchOptions }, fetchOptions?: AuditLogFetchOptions): AuditLogResult<{ success: true }>;
}

/** The calls, under `authClient.auditLog`. */
export interface AuditLogActions {
	list: List;
	get: Get;
	insert: Insert;
	/** The same as `list`, by its name in the README of better-auth-audit-logs. */
	listAuditLogs: List;
	/** The same as `get`. */
	getAuditLog: Get;
	/** The same as `insert`. */
	insertAuditLog: Insert;
}

/** The plugin for `createAuthClient`. */
export interface AuditLogClientPlugin {
	id: "caddy-audit-log";
	getActions: ($fetch: BetterFetch) => { auditLog: AuditLogActions };
}

/**
 * auditLogClient makes the plugin.
 *
 *     const authClient = createAuthClient({ plugins: [auditLogClient()] });
 *     const { data, error } = await authClient.auditLog.list({ query: { status: "failed" } });
 */
export declare function auditLogClient(): AuditLogClientPlugin;
