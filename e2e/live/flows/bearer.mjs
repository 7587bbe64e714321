// A client that sends Authorization and keeps no cookies.

import { failed, noEntry, success } from "../expectation.mjs";

export default async function bearer(run) {
	const bob = run.person("bob");
	await run.signUp(run.browser(), bob);
	const user = bob.id;
	const signedIn = await run.signIn(run.browser(), bob);
	const { client } = run.browser({ bearer: signedIn.bearerToken });

	await run.step("bearer get-session", 200, () => client.getSession(), noEntry);
	await run.step("bearer update-user", 200, () => client.updateUser({ name: "bob" }), success({ user }));
	await run.step("bearer sign-out", 200, () => client.signOut(), success({ user }));
	await run.step("bearer update-user after sign-out", 401, () => client.updateUser({ name: "bob" }), failed());

	const plain = await run.signIn(run.browser(), bob);
	const script = run.browser({ bearer: plain.json.token });
	await run.step("bearer update-user, unsigned token", 200, () => script.client.updateUser({ name: "bob" }), success({ user }));
	const unknown = run.browser({ bearer: run.canary("bearer") });
	await run.step("bearer update-user, unknown token", 401, () => unknown.client.updateUser({ name: "x" }), failed());
}
