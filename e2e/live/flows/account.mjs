// What people do with their own account, up to deleting it.

import { failed, noEntry, pending, success } from "../expectation.mjs";

export default async function account(run) {
	const web = run.browser();
	const uma = run.person("uma");
	await run.signUp(web, uma);
	await update(run, web, uma);
	await verifyAddress(run, web, uma);
	await changeAddress(run, web, uma);
	await remove(run, web, uma);
}

async function update(run, web, { id: user }) {
	const { client } = web;
	await run.step("update-user", 200, () => client.updateUser({ name: "Uma U" }), success({ user }));
	// The official client turns an empty update into a GET.
	const empty = () => web.post("/api/auth/update-user", "{}");
	await run.step("update-user without fields", 400, empty, failed({ user }));
	const stranger = run.browser();
	await run.step("update-user without session", 401, () => stranger.client.updateUser({ name: "x" }), failed());
}

async function verifyAddress(run, web, { id: user, email }) {
	const send = () => web.client.sendVerificationEmail({ email, callbackURL: "/welcome" });
	await run.step("send verification mail", 200, send, pending({ user }));
	const { url, token } = await run.mail(email, "verify-email");
	const badLink = url.replace(token, run.canary("verify"));
	await run.step("verification link, bad token", "302 error", () => run.browser().visit(badLink), failed());
	await run.step("verification link", 302, () => web.visit(url), success({ user }));
}

async function changeAddress(run, web, uma) {
	const user = uma.id;
	const next = run.person("uma-new");
	const change = () => web.client.changeEmail({ newEmail: next.email, callbackURL: "/changed" });
	await run.step("change-email", 200, change, pending({ user }));
	const { url } = await run.mail(next.email, "verify-email");
	await run.step("change-email link", 302, () => web.visit(url), success({ user }));
	uma.email = next.email;
	await run.signIn(run.browser(), uma);
}

async function remove(run, { client }, { id: user, password }) {
	const act = (value) => () => client.deleteUser({ password: value });
	const stranger = run.browser();
	await run.step("delete-user without session", 401, () => stranger.client.deleteUser({ password }), failed());
	await run.step("delete-user, wrong password", 400, act(run.canary("pw")), failed({ user }));
	await run.step("delete-user", 200, act(password), success({ user }), { unlinks: user });
	await run.step("get-session of deleted user", 200, () => client.getSession(), noEntry);
}
