// Drives a real Better Auth server behind Caddy with the official client and this plugin; e2e/client_test.go starts
// both. Prints one JSON line with the number of calls.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";

import { createAuthClient } from "better-auth/client";
import { auditLogClient } from "../src/index.js";

const baseURL = process.env.BASE_URL;
assert.ok(baseURL, "BASE_URL is not set");
let calls = 0;
let last;

// browser is the official client with a cookie jar.
function browser() {
	const jar = new Map();
	async function customFetchImpl(url, init = {}) {
		const headers = new Headers(init.headers);
		headers.set("origin", baseURL);
		headers.set("cookie", [...jar].map((pair) => pair.join("=")).join("; "));
		if (jar.size === 0) headers.delete("cookie");
		const response = await fetch(url, { ...init, headers, redirect: "manual" });
		for (const line of response.headers.getSetCookie()) {
			const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
			if (value === "") jar.delete(name);
			else jar.set(name, value);
		}
		calls += 1;
		last = `${init.method ?? "GET"} ${new URL(url).pathname}`;
		return response;
	}
	return createAuthClient({ baseURL, plugins: [auditLogClient()], fetchOptions: { customFetchImpl } });
}

// person signs a new user up, who is then signed in.
async function person(name, email = `${name}-${randomBytes(4).toString("hex")}@example.com`) {
	const client = browser();
	const credentials = { email, password: randomBytes(12).toString("hex") };
	const { data, error } = await client.signUp.email({ name, ...credentials });
	assert.equal(error, null);
	return { client, ...credentials, id: data.user.id };
}

// fails checks that a call's result is an error with this status and code.
function fails({ data, error }, status, code, message = /./) {
	assert.equal(data, null);
	assert.equal(error.status, status);
	assert.equal(error.code, code);
	assert.match(error.message, message);
}

const actions = ({ entries }) => entries.map(({ action, status }) => `${action} ${status}`);

async function listsAndGets(ada, started) {
	const { data: page } = await ada.client.auditLog.list();
	assert.equal(last, "GET /api/auth/audit-log/list");
	assert.deepEqual(actions(page), ["change-password failed", "sign-in:email success", "sign-up:email success"]);
	assert.equal(page.total, 3);
	const [newest] = page.entries;
	assert.ok(newest.createdAt instanceof Date && newest.createdAt >= started && newest.createdAt <= new Date());
	assert.equal(newest.userId, ada.id);
	assert.ok(!("userAgent" in newest));
	assert.equal(newest.metadata.error.code, "INVALID_PASSWORD");

	for (const call of [ada.client.auditLog.get({ id: newest.id }), ada.client.auditLog.getAuditLog({ params: { id: newest.id } })]) {
		const { data: one, error } = await call;
		assert.equal(error, null);
		assert.deepEqual(one, newest);
		assert.equal(last, `GET /api/auth/audit-log/${newest.id}`);
	}
	return newest;
}

async function filters(ada, started) {
	const list = async (query) => {
		const { data, error } = await ada.client.auditLog.listAuditLogs({ query });
		assert.equal(error, null, JSON.stringify(error));
		return data;
	};
	assert.deepEqual(actions(await list({ status: "failed", limit: 20 })), ["change-password failed"]);
	assert.equal(last, "GET /api/auth/audit-log/list");
	assert.equal((await list({ action: "sign-up:email" })).total, 1);
	assert.equal((await list({ severity: "critical" })).total, 0);
	assert.equal((await list({ q: "SIGN-" })).total, 2);
	assert.equal((await list({ q: "invalid_password" })).total, 1);
	assert.equal((await list({ from: started, to: new Date() })).total, 3);
	assert.equal((await list({ to: new Date(started - 1000) })).total, 0);
	assert.equal((await list({ from: started.getTime(), userId: ada.id, scope: "own", action: undefined })).total, 3);
	const first = await list({ limit: 2 });
	assert.deepEqual(actions(await list({ limit: 2, cursor: first.nextCursor })), ["sign-up:email success"]);
	assert.deepEqual(actions(await list({ limit: 2, offset: 2 })), ["sign-up:email success"]);
}

async function inserts(ada) {
	const when = "2026-01-02T03:04:05.000Z";
	for (const name of ["insert", "insertAuditLog"]) {
		const { data, error } = await ada.client.auditLog[name]({ action: "report:exported", severity: "high", metadata: { rows: 3, when } });
		assert.equal(error, null, JSON.stringify(error));
		assert.deepEqual(data, { success: true });
		assert.equal(last, "POST /api/auth/audit-log/insert");
	}
	const { data } = await ada.client.auditLog.list({ query: { action: "report:exported" } });
	assert.equal(data.total, 2);
	assert.equal(data.entries[0].metadata.when, when); // not made a Date
	assert.equal(data.entries[0].metadata.source, "api");
	fails(await ada.client.auditLog.insert({ action: "admin:ban-user" }), 400, "VALIDATION_ERROR", /Reserved/);
}

async function errors(ada, entry) {
	const { auditLog } = ada.client;
	const bob = await person("bob");
	fails(await bob.client.auditLog.get({ id: entry.id }), 404, "NOT_FOUND");
	fails(await auditLog.get({ id: "a/../list?x" }), 404, "NOT_FOUND");
	fails(await auditLog.list({ query: { userId: bob.id } }), 403, "FORBIDDEN");
	fails(await auditLog.list({ query: { userId: null } }), 403, "FORBIDDEN");
	fails(await auditLog.list({ query: { scope: "all" } }), 403, "FORBIDDEN");
	fails(await auditLog.list({ query: { severity: "HIGH" } }), 400, "VALIDATION_ERROR", /"low"\|"medium"\|"high"\|"critical"/);
	fails(await auditLog.list({ query: { q: "x".repeat(101) } }), 400, "VALIDATION_ERROR", /<=100 bytes/);
	fails(await auditLog.list({ query: { cursor: "x" } }), 400, "VALIDATION_ERROR");
	fails(await browser().auditLog.list(), 401, "UNAUTHORIZED");
	const before = calls;
	for (const id of ["", ".", "..", "list", undefined]) assert.throws(() => auditLog.get({ id }), TypeError);
	assert.equal(calls, before);

	let seen;
	await auditLog.list({ fetchOptions: { onSuccess: ({ data }) => (seen = data.total) } }, { headers: { "x-test": "1" } });
	assert.ok(seen >= 3);
	await assert.doesNotReject(auditLog.list({ query: { limit: 0 }, fetchOptions: { throw: true } }));
}

// attempts checks that users see who failed to sign in to their account once the address is verified to be theirs, and
// that nobody else does.
async function attempts(ada, root) {
	const eve = await person("eve");
	await browser().signIn.email({ email: ` ${ada.email.toUpperCase()}`.trim(), password: "wrong-password" });
	const list = async ({ client }, query = { action: "sign-in:email", status: "failed" }) => (await client.auditLog.list({ query })).data;
	assert.equal((await list(ada)).total, 0); // anybody can sign up with an address
	const body = { userId: ada.id, data: { emailVerified: true } };
	assert.equal((await root.client.$fetch("/admin/update-user", { method: "POST", body })).error, null);
	const { entries } = await list(ada);
	assert.equal(entries.length, 1);
	assert.equal(entries[0].userId, null);
	assert.equal(entries[0].metadata.identifier.slice(1, 5), "***@");
	assert.equal((await list(eve)).total, 0);
	assert.equal((await ada.client.auditLog.get({ id: entries[0].id })).error, null);
	fails(await eve.client.auditLog.get({ id: entries[0].id }), 404, "NOT_FOUND");
	return entries[0];
}

// administrators checks what the administrator of the site may read, and a user may not.
async function administrators(ada, root, attempt) {
	const list = async (query) => {
		const { data, error } = await root.client.auditLog.list({ query });
		assert.equal(error, null, JSON.stringify(error));
		return data;
	};
	assert.deepEqual(actions(await list({})), ["admin:update-user success", "sign-up:email success"]);
	assert.ok((await list({ scope: "all" })).total > 6);
	assert.equal((await list({ userId: ada.id, action: "sign-in:email" })).total, 1);
	assert.ok((await list({ userId: null })).entries.some(({ id }) => id === attempt.id));
	assert.ok((await list({ scope: "all", q: "node" })).total > 0); // the user agent, which is not shown
	assert.equal((await root.client.auditLog.get({ id: attempt.id })).error, null);
	fails(await ada.client.auditLog.list({ query: { scope: "all" } }), 403, "FORBIDDEN");
}

const started = new Date();
const ada = await person("ada");
await ada.client.signIn.email({ email: ada.email, password: ada.password });
await ada.client.changePassword({ currentPassword: "wrong-password", newPassword: randomBytes(12).toString("hex") });
const newest = await listsAndGets(ada, started);
await filters(ada, started);
await errors(ada, newest);
await inserts(ada);
const root = await person("root", "admin@example.com");
await administrators(ada, root, await attempts(ada, root));
console.log(JSON.stringify({ calls }));
