// The types and what they mean are in index.d.ts.

/** @typedef {import("./index.d.ts").AuditLogFetchOptions} FetchOptions */

/**
 * parse is JSON.parse, and makes dates of createdAt alone: Better Auth's own parser makes a date of every text that
 * looks like one, also in metadata.
 * @param {string} text
 */
function parse(text) {
	if (!text) return null;
	const answer = JSON.parse(text);
	for (const entry of answer?.entries ?? [answer]) {
		if (typeof entry?.createdAt === "string") entry.createdAt = new Date(entry.createdAt);
	}
	return answer;
}

/**
 * queryOf writes filters as the API reads them.
 * @param {import("./index.d.ts").AuditLogFilters} filters
 */
function queryOf(filters) {
	/** @type {Record<string, string | number>} */
	const query = {};
	for (const [name, value] of Object.entries(filters)) {
		if (value === undefined) continue;
		if (value instanceof Date) query[name] = value.toISOString();
		else query[name] = value === null ? "null" : value;
	}
	return query;
}

/**
 * pathOf is where an entry is. Ids that would lead elsewhere are a mistake of the caller.
 * @param {string | undefined} id
 */
function pathOf(id) {
	if (typeof id !== "string" || id === "" || /^(\.{1,2}|list|list-audit-logs|access|export|histogram|tail|tally|viewer)$/.test(id)) {
		throw new TypeError(`not the id of an audit log entry: ${JSON.stringify(id)}`);
	}
	return `/audit-log/${encodeURIComponent(id)}`;
}

/** @type {typeof import("./index.d.ts").auditLogClient} */
export function auditLogClient() {
	return {
		id: "caddy-audit-log",
		getActions($fetch) {
			/**
			 * @param {string} path
			 * @param {object} request
			 * @param {(FetchOptions | undefined)[]} options
			 * @returns {Promise<any>}
			 */
			const call = (path, request, ...options) => $fetch(path, Object.assign({}, ...options, request, { jsonParser: parse, throw: false }));

			/** @type {import("./index.d.ts").AuditLogActions["list"]} */
			const list = ({ query = {}, fetchOptions } = {}, options) =>
				call("/audit-log/list", { method: "GET", query: queryOf(query) }, options, fetchOptions);

			/** @type {import("./index.d.ts").AuditLogActions["get"]} */
			const get = ({ fetchOptions, ...which }, options) =>
				call(pathOf("params" in which ? which.params?.id : which.id), { method: "GET" }, options, fetchOptions);

			/** @type {import("./index.d.ts").AuditLogActions["insert"]} */
			const insert = ({ fetchOptions, ...body }, options) => call("/audit-log/insert", { method: "POST", body }, options, fetchOptions);

			return { auditLog: { list, get, insert, listAuditLogs: list, getAuditLog: get, insertAuditLog: insert } };
		},
	};
}
