// Compiled, never run: what the client's types promise, with the official client around it.

import { createAuthClient } from "better-auth/client";
import { adminClient } from "better-auth/client/plugins";
import { auditLogClient } from "../src/index.js";
import type { AuditLogEntry, AuditLogErrorCode, AuditLogPage, AuditLogSeverity, AuditLogStatus } from "../src/index.js";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function holds<_ extends true>() {}

const { auditLog, admin, signIn } = createAuthClient({ baseURL: "http://localhost", plugins: [adminClient(), auditLogClient()] });

export async function use() {
	const listed = await auditLog.list({
		query: { userId: null, scope: "all", action: "sign-in:email", status: "failed", severity: "high", from: new Date(), to: "2026-12-31", q: "x", limit: 20, offset: 0, cursor: "c" },
		fetchOptions: { headers: { "x-trace": "1" } },
	});
	if (listed.error) {
		holds<Same<typeof listed.data, null>>();
		holds<Same<typeof listed.error.status, number>>();
		const code: string | undefined = listed.error.code;
		return code satisfies AuditLogErrorCode | (string & {}) | undefined;
	}
	holds<Same<typeof listed.data, AuditLogPage>>();
	const entry = listed.data.entries[0];
	holds<Same<typeof entry, AuditLogEntry | undefined>>();
	if (entry) {
		holds<Same<typeof entry.createdAt, Date>>();
		holds<Same<typeof entry.userId, string | null>>();
		holds<Same<typeof entry.status, AuditLogStatus>>();
		holds<Same<typeof entry.severity, AuditLogSeverity>>();
	}
	const one = await auditLog.get({ id: "x" });
	holds<Same<typeof one.data, AuditLogEntry | null>>();
	const inserted = await auditLog.insert({ action: "report:exported", status: "success", severity: "low", metadata: { rows: 3 } });
	holds<Same<typeof inserted.data, { success: true } | null>>();

	// The README's names of better-auth-audit-logs.
	await auditLog.listAuditLogs({ query: { status: "failed", limit: 20 } });
	await auditLog.getAuditLog({ params: { id: "x" } });
	await auditLog.insertAuditLog({ action: "report:exported" });
	await auditLog.list();

	// Other plugins keep their types.
	await admin.banUser({ userId: "x" });
	await signIn.email({ email: "a@example.com", password: "x" });
}

export async function mistakes() {
	// @ts-expect-error not a status
	await auditLog.list({ query: { status: "failure" } });
	// @ts-expect-error not a severity
	await auditLog.list({ query: { severity: "HIGH" } });
	// @ts-expect-error not a filter
	await auditLog.list({ query: { user: "x" } });
	// @ts-expect-error filters stand in query
	await auditLog.list({ status: "failed" });
	// @ts-expect-error only a recorded request can be pending
	await auditLog.insert({ action: "x", status: "pending" });
	// @ts-expect-error an entry needs an action
	await auditLog.insert({ metadata: {} });
	// @ts-expect-error the user is the server's to say
	await auditLog.insert({ action: "x", userId: "somebody" });
	// @ts-expect-error an id is needed
	await auditLog.get({});
	// @ts-expect-error the user agent is never shown
	((entry: AuditLogEntry) => entry.userAgent)({} as AuditLogEntry);
	// @ts-expect-error errors are values: the result's type would be another
	await auditLog.list({ fetchOptions: { throw: true } });
	// @ts-expect-error no such call
	await auditLog.deleteAuditLog({ id: "x" });
}
