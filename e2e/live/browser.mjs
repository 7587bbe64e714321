// One browser: a cookie jar, and the official Better Auth client on top of it.

import { createRequire } from "node:module";
import { resolve as absolute } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

// better-auth comes from the example's own installation, so that client and server are always the same version.
const exampleDir = process.env.BETTER_AUTH_DIR ?? fileURLToPath(new URL("../../examples/better-auth", import.meta.url));
const { resolve } = createRequire(absolute(exampleDir, "package.json"));
const load = (name) => import(pathToFileURL(resolve(name)));

const { createAuthClient } = await load("better-auth/client");
const plugins = await load("better-auth/client/plugins");

const clientPlugins = () => [
	plugins.usernameClient(),
	plugins.adminClient(),
	plugins.organizationClient({ teams: { enabled: true } }),
	plugins.twoFactorClient(),
	plugins.magicLinkClient(),
	plugins.emailOTPClient(),
	plugins.phoneNumberClient(),
	plugins.anonymousClient(),
	plugins.multiSessionClient(),
];

function parseJSON(text) {
	try {
		return JSON.parse(text);
	} catch {
		return null;
	}
}

export class Browser {
	#jar = new Map();
	#run;
	#bearer;

	// With `bearer` there is no jar: such a client is an app or a script that keeps the token itself.
	constructor(run, { bearer } = {}) {
		this.#run = run;
		this.#bearer = bearer;
		this.client = createAuthClient({
			baseURL: run.baseURL,
			plugins: clientPlugins(),
			fetchOptions: { customFetchImpl: (url, init) => this.fetch(url, init) },
		});
	}

	// visit is a click on a link: a navigation, which sends no Origin.
	visit(url) {
		return this.fetch(url, { method: "GET", headers: { accept: "text/html" } });
	}

	// post sends a body as it is, for what the official client would never send.
	post(path, body, headers = {}) {
		const url = new URL(path, this.#run.baseURL);
		return this.fetch(url, { method: "POST", body, headers: { "content-type": "application/json", ...headers } });
	}

	async fetch(url, init = {}) {
		const target = new URL(url);
		const method = init.method ?? "GET";
		const headers = this.#requestHeaders(method, init.headers);
		this.#noteRequest(target, init.body, headers);
		const response = await fetch(target, { ...init, headers, redirect: "manual" });
		const text = await response.clone().text();
		this.#keepCookies(response.headers);
		const { secrets } = this.#run;
		secrets.addResponseHeaders(response.headers);
		secrets.addAnswered(parseJSON(text));
		this.#run.observe({
			method,
			path: target.pathname,
			status: response.status,
			location: response.headers.get("location"),
			bearerToken: response.headers.get("set-auth-token"),
			json: parseJSON(text),
		});
		return response;
	}

	#requestHeaders(method, given) {
		const headers = new Headers(given);
		headers.set("user-agent", "caddy-audit-log-live/1");
		headers.set("x-request-step", String(this.#run.steps));
		if (method !== "GET" && !headers.has("origin")) headers.set("origin", new URL(this.#run.baseURL).origin);
		if (this.#bearer) headers.set("authorization", `Bearer ${this.#bearer}`);
		if (this.#jar.size > 0) headers.set("cookie", [...this.#jar].map((pair) => pair.join("=")).join("; "));
		return headers;
	}

	#noteRequest(url, body, headers) {
		const { secrets } = this.#run;
		secrets.addURL(url);
		if (typeof body === "string") secrets.addSent(parseJSON(body));
		if (headers.has("authorization")) secrets.addSigned(headers.get("authorization").slice("Bearer ".length));
	}

	#keepCookies(headers) {
		for (const line of headers.getSetCookie()) {
			const [pair, ...attributes] = line.split("; ");
			const [name, value] = [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)];
			this.#run.secrets.addCookie(name, value);
			if (value === "" || attributes.includes("Max-Age=0")) this.#jar.delete(name);
			else this.#jar.set(name, value);
		}
	}
}
