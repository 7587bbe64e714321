// Two people signed in at once in one browser.

import { failed, noEntry, success } from "../expectation.mjs";

export default async function multiSession(run) {
	const web = run.browser();
	const { client } = web;
	const [ann, ben] = [run.person("ann"), run.person("ben")];
	const annSession = (await run.signUp(web, ann)).json.token;
	const benSession = (await run.signUp(web, ben)).json.token;

	await run.step("multi-session list", 200, () => client.multiSession.listDeviceSessions(), noEntry);
	const setActive = (sessionToken) => () => client.multiSession.setActive({ sessionToken });
	// From here on the browser acts as the other person, and that is whom the server names.
	await run.step("multi-session set-active", 200, setActive(annSession), success({ user: ann.id }));
	await run.step("update-user after set-active", 200, () => client.updateUser({ name: "ann" }), success({ user: ann.id }));
	await run.step("multi-session set-active, bad token", 401, setActive(run.canary("session")), failed({ user: ann.id }));
	const revoke = (sessionToken) => () => client.multiSession.revoke({ sessionToken });
	await run.step("multi-session revoke, bad token", 401, revoke(run.canary("session")), failed({ user: ann.id }));
	await run.step("multi-session revoke", 200, revoke(benSession), success({ user: ann.id }));
	await run.step("sign-out of all sessions", 200, () => client.signOut(), success({ user: ann.id }));
}
