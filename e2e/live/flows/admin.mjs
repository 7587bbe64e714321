// An administrator acts on other people's accounts.

import { ANY, failed, noEntry, success } from "../expectation.mjs";

export default async function admin(run) {
	const web = run.browser();
	const root = run.person("root", { email: run.adminEmail });
	const vic = run.person("vic");
	const vicWeb = run.browser();
	await run.signUp(web, root);
	await run.signUp(vicWeb, vic);

	await users(run, web, root);
	await forbidden(run, vicWeb, vic, root);
	await ban(run, web, root, vic);
	await takeOver(run, web, root, vic);
	await impersonate(run, web, root, vic);
	await remove(run, web, root, vic);
}

async function users(run, { client }, root) {
	const made = run.person("made");
	await run.step("admin list-users", 200, () => client.admin.listUsers({ query: { limit: 5 } }), noEntry);
	const create = () => client.admin.createUser({ ...made, id: undefined, role: "user" });
	await run.step("admin create-user", 200, create, (exchange) => {
		made.id = exchange.json?.user?.id;
		return success({ user: root.id, target: made.id })(exchange);
	});
	const act = { user: root.id, target: made.id };
	await run.step("admin create-user, duplicate", 400, create, failed({ user: root.id, target: ANY }));
	await run.step("admin set-role", 200, () => client.admin.setRole({ userId: made.id, role: "admin" }), success(act));
	await run.step(
		"admin update-user",
		200,
		() => client.admin.updateUser({ userId: made.id, data: { name: "Made M" } }),
		success(act),
	);
}

async function forbidden(run, { client }, vic, root) {
	const act = failed({ user: vic.id, target: root.id });
	await run.step("admin set-role by a normal user", 403, () => client.admin.setRole({ userId: root.id, role: "user" }), act);
	await run.step("admin ban-user by a normal user", 403, () => client.admin.banUser({ userId: root.id }), act);
	await run.step("admin impersonate by a normal user", 403, () => client.admin.impersonateUser({ userId: root.id }), act);
	const stranger = run.browser();
	const remove = () => stranger.client.admin.removeUser({ userId: root.id });
	await run.step("admin remove-user without session", 401, remove, failed({ target: root.id }));
}

async function ban(run, { client }, root, vic) {
	const act = { user: root.id, target: vic.id };
	const { email, password } = vic;
	await run.step("admin ban-user", 200, () => client.admin.banUser({ userId: vic.id, banReason: "spam" }), success(act));
	const banned = run.browser();
	const signIn = () => banned.client.signIn.email({ email, password });
	await run.step("sign-in of a banned user", 403, signIn, failed({ identifier: email }));
	await run.step("admin unban-user", 200, () => client.admin.unbanUser({ userId: vic.id }), success(act));
	await run.step(
		"admin ban-user, oneself",
		400,
		() => client.admin.banUser({ userId: root.id }),
		failed({ user: root.id, target: root.id }),
	);
}

async function takeOver(run, { client }, root, vic) {
	const act = { user: root.id, target: vic.id };
	const newPassword = run.canary("pw");
	await run.step("admin set-user-password", 200, () => client.admin.setUserPassword({ userId: vic.id, newPassword }), success(act));
	vic.password = newPassword;
	const web = run.browser();
	await run.signIn(web, vic);
	await run.step("admin revoke-user-sessions", 200, () => client.admin.revokeUserSessions({ userId: vic.id }), success(act));
	await run.step("get-session after admin revoked it", 200, () => web.client.getSession(), noEntry);
}

async function impersonate(run, { client }, root, vic) {
	const victim = { user: vic.id, impersonatedBy: root.id };
	await run.step(
		"admin impersonate-user",
		200,
		() => client.admin.impersonateUser({ userId: vic.id }),
		success({ user: root.id, target: vic.id }),
	);
	await run.step("get-session while impersonating", 200, () => client.getSession(), noEntry);
	await run.step("update-user while impersonating", 200, () => client.updateUser({ name: "by admin" }), success(victim));
	const wrong = { currentPassword: run.canary("pw"), newPassword: run.canary("pw") };
	await run.step("change-password while impersonating, wrong", 400, () => client.changePassword(wrong), failed(victim));
	await run.step(
		"admin stop-impersonating",
		200,
		() => client.admin.stopImpersonating(),
		success({ user: root.id, target: ANY, impersonatedBy: ANY }),
	);
	await run.step("update-user after impersonating", 200, () => client.updateUser({ name: "root" }), success({ user: root.id }));
	await run.step(
		"admin stop-impersonating, not impersonating",
		400,
		() => client.admin.stopImpersonating(),
		failed({ user: root.id, target: ANY }),
	);
}

async function remove(run, { client }, root, vic) {
	const act = { user: root.id, target: vic.id };
	const user = { userId: vic.id };
	await run.step("admin remove-user", 200, () => client.admin.removeUser(user), success(act), { unlinks: vic.id });
	await run.step("admin remove-user, unknown", 404, () => client.admin.removeUser(user), failed(act));
	await run.step("sign-out of the admin", 200, () => client.signOut(), success({ user: root.id }));
}
