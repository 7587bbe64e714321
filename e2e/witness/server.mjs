// A real Better Auth server that tells what it executed: for every request its route, the address as the server has
// read it from the body, and what reached it of the headers that carry identity. The acceptance suite compares that with the audit log.
//
// better-auth comes from the example's installation (BETTER_AUTH_DIR). The server listens on a free port of loopback,
// a second one answers the test:
//
//   GET /seen   {"CASE": {"url", "cookie", "authorization", "path", "email"}, ...} by the header X-Case, and forgets it;
//               path and email are there only if a route was executed
//   GET /mail   ["text", ...], and forgets it
//
// COOKIE_CACHE=1 switches the cookie cache on. It ends when its standard input does.

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { resolve as absolute } from "node:path";
import { pathToFileURL } from "node:url";

const { resolve } = createRequire(absolute(process.env.BETTER_AUTH_DIR, "package.json"));
const load = (name) => import(pathToFileURL(resolve(name)));

const { betterAuth } = await load("better-auth");
const { memoryAdapter } = await load("better-auth/adapters/memory");
const { createAuthMiddleware } = await load("better-auth/api");
const { getAuthTables } = await load("better-auth/db");
const { toNodeHandler } = await load("better-auth/node");
const { admin, bearer } = await load("better-auth/plugins");

let seen = {};
let mails = [];

function database(options) {
	const tables = Object.fromEntries(Object.keys(getAuthTables(options)).map((name) => [name, []]));
	return memoryAdapter(tables)(options);
}

// noted keeps what a route was called with, under its request's case.
const noted = createAuthMiddleware(async (ctx) => {
	const name = ctx.headers?.get("x-case");
	if (name && seen[name]) Object.assign(seen[name], { path: ctx.path, email: ctx.body?.email });
});

const auth = betterAuth({
	baseURL: process.env.BASE_URL,
	trustedOrigins: [process.env.BASE_URL],
	secret: randomBytes(32).toString("hex"),
	database,
	logger: { level: "error", log: () => {} },
	telemetry: { enabled: false },
	rateLimit: { enabled: false },
	session: { cookieCache: { enabled: process.env.COOKIE_CACHE === "1", maxAge: 300 } },
	emailAndPassword: { enabled: true, sendResetPassword: async ({ url }) => mails.push(url) },
	user: { deleteUser: { enabled: true } },
	hooks: { before: noted },
	plugins: [admin(), bearer()],
});

const handler = toNodeHandler(auth);

// Better Auth's handler throws where a header makes no URL.
async function answer(request, response) {
	try {
		await handler(request, response);
	} catch {
		response.headersSent ? response.destroy() : response.writeHead(500).end();
	}
}

// The first request of a case is the client's own; the audit log's questions carry no case.
const server = createServer((request, response) => {
	const { "x-case": name, cookie, authorization } = request.headers;
	if (name) seen[name] ??= { url: request.url, cookie, authorization };
	if (!request.url.includes("api")) return response.writeHead(404).end();
	return answer(request, response);
});

const control = createServer((request, response) => {
	const answer = request.url === "/mail" ? mails : seen;
	response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer));
	if (request.url === "/mail") mails = [];
	else seen = {};
});

const listen = (what) => new Promise((done) => what.listen(0, "127.0.0.1", () => done(what.address().port)));
console.log(JSON.stringify({ port: await listen(server), controlPort: await listen(control) }));
process.stdin.once("close", () => process.exit(0)).resume();
