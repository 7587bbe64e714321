// Listing and revoking sessions.

import { failed, noEntry, success } from "../expectation.mjs";

export default async function sessions(run) {
	const sam = run.person("sam");
	const [laptop, phone, tablet] = [run.browser(), run.browser(), run.browser()];
	await run.signUp(laptop, sam);
	const onPhone = await run.signIn(phone, sam);
	await run.signIn(tablet, sam);
	const { client } = laptop;
	const user = sam.id;

	await run.step("list-sessions", 200, () => client.listSessions(), noEntry);
	await run.step("list-accounts", 200, () => client.listAccounts(), noEntry);
	await run.step("revoke one session", 200, () => client.revokeSession({ token: onPhone.json.token }), success({ user }));
	await run.step("update-user in revoked session", 401, () => phone.client.updateUser({ name: "sam" }), failed());
	await run.step("sign-out in revoked session", 200, () => phone.client.signOut(), success());
	await run.step("revoke other sessions", 200, () => client.revokeOtherSessions(), success({ user }));
	await run.step("get-session in revoked session", 200, () => tablet.client.getSession(), noEntry);
	await run.step("revoke all sessions", 200, () => client.revokeSessions(), success({ user }));
	await run.step("revoke all sessions without session", 401, () => client.revokeSessions(), failed());
}
