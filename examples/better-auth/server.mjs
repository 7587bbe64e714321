// A complete Better Auth server to put behind Caddy's `audit_log`. Everything lives in memory and is gone when the
// process ends, so it is for trying things out and for tests. See README.md for the environment variables.

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { isIP } from "node:net";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { getAuthTables } from "better-auth/db";
import { toNodeHandler } from "better-auth/node";
import {
	admin,
	anonymous,
	bearer,
	emailOTP,
	jwt,
	magicLink,
	multiSession,
	organization,
	phoneNumber,
	twoFactor,
	username,
} from "better-auth/plugins";

const env = process.env;
const host = env.HOST || "127.0.0.1";
const adminEmail = (env.ADMIN_EMAIL || "admin@example.com").toLowerCase();
const mailboxLimit = 1000;

// --- mail -----------------------------------------------------------------------------------------------------------

const mails = [];

// deliver stands where your mail and SMS provider goes.
function deliver(mail) {
	mails.push({ ...mail, at: new Date().toISOString() });
	if (mails.length > mailboxLimit) mails.shift();
	if (env.MAIL_LOG === "1") console.log(JSON.stringify({ mail }));
}

// The mailbox has a listener of its own, so that reading mail never passes the audited server.
function mailboxHandler(request, response) {
	const url = new URL(request.url, "http://mailbox.invalid");
	const to = url.searchParams.get("to");
	if (request.method !== "GET" || url.pathname !== "/mailbox" || !to) {
		response.writeHead(404).end();
		return;
	}
	const found = mails.filter((mail) => mail.to.toLowerCase() === to.toLowerCase());
	response.writeHead(200, { "content-type": "application/json", "cache-control": "no-store" });
	response.end(JSON.stringify({ mails: found }));
}

// --- data -----------------------------------------------------------------------------------------------------------

// The memory adapter has no foreign keys. dropRowsOf does what ON DELETE CASCADE does in a SQL database: without it a
// deleted user stays a member of organizations.
function dropRowsOf(userId, tables, schema) {
	for (const [name, { fields }] of Object.entries(schema)) {
		for (const [field, { references }] of Object.entries(fields)) {
			if (references?.model !== "user" || references.onDelete === "set null") continue;
			tables[name] = tables[name].filter((row) => row[field] !== userId);
		}
	}
}

function memoryDatabase() {
	const tables = {};
	let schema = {};
	return {
		adapter(options) {
			schema = getAuthTables(options);
			for (const name of Object.keys(schema)) tables[name] ??= [];
			return memoryAdapter(tables)(options);
		},
		dropRowsOf: (userId) => dropRowsOf(userId, tables, schema),
	};
}

// --- auth -----------------------------------------------------------------------------------------------------------

function plugins() {
	return [
		username(),
		admin(),
		organization({
			teams: { enabled: true },
			sendInvitationEmail: ({ id, email }) => deliver({ to: email, kind: "invitation", token: id }),
		}),
		twoFactor({
			issuer: "caddy-audit-log example",
			otpOptions: { sendOTP: ({ user, otp }) => deliver({ to: user.email, kind: "two-factor-otp", code: otp }) },
		}),
		magicLink({ sendMagicLink: ({ email, url, token }) => deliver({ to: email, kind: "magic-link", url, token }) }),
		emailOTP({
			sendVerificationOTP: ({ email, otp, type }) => deliver({ to: email, kind: `email-otp:${type}`, code: otp }),
		}),
		phoneNumber({
			sendOTP: ({ phoneNumber: to, code }) => deliver({ to, kind: "phone-otp", code }),
			signUpOnVerification: { getTempEmail: (number) => `${number.replace(/\D/g, "")}@phone.invalid` },
		}),
		anonymous(),
		multiSession(),
		jwt(),
		bearer(),
	];
}

// A single account, known by its address, is the administrator. Nothing proves here that whoever signs up owns the
// address: in production set the role in the database, or use the admin plugin's `adminUserIds`.
async function withRole(user) {
	return user.email?.toLowerCase() === adminEmail ? { data: { ...user, role: "admin" } } : undefined;
}

function createAuth(baseURL) {
	const database = memoryDatabase();
	return betterAuth({
		appName: "caddy-audit-log example",
		baseURL,
		trustedOrigins: [new URL(baseURL).origin],
		secret: env.BETTER_AUTH_SECRET || randomBytes(32).toString("hex"),
		database: database.adapter,
		// Standard output belongs to the ready line and MAIL_LOG.
		logger: { level: "error", log: (level, message) => console.error(`${level}: ${message}`) },
		telemetry: { enabled: false },
		rateLimit: { enabled: env.RATE_LIMIT === "1" },
		databaseHooks: {
			user: {
				create: { before: withRole },
				delete: { after: async (user) => database.dropRowsOf(user.id) },
			},
		},
		emailAndPassword: {
			enabled: true,
			sendResetPassword: async ({ user, url, token }) =>
				deliver({ to: user.email, kind: "reset-password", url, token }),
		},
		emailVerification: {
			sendVerificationEmail: async ({ user, url, token }) =>
				deliver({ to: user.email, kind: "verify-email", url, token }),
		},
		user: {
			changeEmail: { enabled: true },
			deleteUser: { enabled: true },
		},
		plugins: plugins(),
	});
}

// --- server ---------------------------------------------------------------------------------------------------------

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Better Auth behind Caddy's audit_log</title>
<h1>A Better Auth server</h1>
<p>Its API is under <code>/api/auth</code>. Come through Caddy, and every sign-in, password change and
session revocation becomes an entry in the audit log. Nothing in this server knows about the log.</p>
</html>
`;

function route(authHandler, request, response) {
	const { pathname } = new URL(request.url, "http://server.invalid");
	if (pathname === "/api/auth" || pathname.startsWith("/api/auth/")) return authHandler(request, response);
	if (pathname === "/" && request.method === "GET") {
		response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page);
		return;
	}
	response.writeHead(404).end();
}

function isLoopback(address) {
	return address === "localhost" || address === "::1" || (isIP(address) === 4 && address.startsWith("127."));
}

function listen(server, port) {
	return new Promise((resolve, reject) => {
		server.once("error", reject);
		server.listen(port, host, () => resolve(server.address().port));
	});
}

function stopOn(servers) {
	const stop = () => {
		for (const server of servers) server.close();
		process.exit(0);
	};
	process.once("SIGTERM", stop);
	process.once("SIGINT", stop);
	if (env.EXIT_ON_STDIN_CLOSE === "1") process.stdin.once("close", stop).resume();
}

async function main() {
	// Whoever reaches this server directly goes around the log.
	if (!isLoopback(host)) throw new Error(`HOST must be a loopback address, not ${host}`);
	// Better Auth would add these to trustedOrigins by itself.
	delete env.BETTER_AUTH_TRUSTED_ORIGINS;

	let handler;
	const server = createServer((request, response) => route(handler, request, response));
	const mailbox = createServer(mailboxHandler);
	const port = await listen(server, Number(env.PORT ?? 3000));
	const mailboxPort = await listen(mailbox, Number(env.MAILBOX_PORT ?? 0));
	handler = toNodeHandler(createAuth(env.BASE_URL || `http://${host.includes(":") ? `[${host}]` : host}:${port}`));

	stopOn([server, mailbox]);
	console.log(JSON.stringify({ ready: true, port, mailboxPort }));
}

await main();
