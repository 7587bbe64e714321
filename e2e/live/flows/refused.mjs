// What the server turns away before any handler of its own sees it, and what is none of the log's business.

import { failed, noEntry, unrouted } from "../expectation.mjs";

const signInPath = "/api/auth/sign-in/email";
const foreign = { origin: "https://evil.example" };

export default async function refused(run) {
	const web = run.browser();
	const fay = run.person("fay");
	await run.signUp(web, fay);
	const stranger = run.browser();
	const { email } = fay;
	const password = run.canary("pw");
	const body = JSON.stringify({ email, password });

	await run.step("invalid JSON", 400, () => stranger.post(signInPath, `{"password":"${password}",`), failed());
	const text = { "content-type": "text/plain" };
	await run.step("wrong media type", 415, () => stranger.post(signInPath, `password ${password}`, text), failed());
	await run.step("foreign Origin, sign-in", 403, () => stranger.post(signInPath, body, foreign), failed({ identifier: email }));
	const rename = () => web.post("/api/auth/update-user", JSON.stringify({ name: "x" }), foreign);
	await run.step("foreign Origin, update-user", 403, rename, failed({ user: fay.id }));
	await run.step("unknown path, POST", 404, () => stranger.post("/api/auth/does-not-exist", body), unrouted);
	await run.step("unknown path, GET", 404, () => stranger.visit(new URL("/api/auth/does-not-exist", run.baseURL)), unrouted);
	await run.step("health check", 200, () => stranger.visit(new URL("/api/auth/ok", run.baseURL)), noEntry);
	await run.step("public keys", 200, () => stranger.visit(new URL("/api/auth/jwks", run.baseURL)), noEntry);
	await run.step("outside the base path", 200, () => stranger.visit(new URL("/", run.baseURL)), noEntry);
}
