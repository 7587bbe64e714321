// Sign-up, sign-in and sign-out with a password.

import { ANY, failed, noEntry, success } from "../expectation.mjs";

export default async function credentials(run) {
	const web = run.browser();
	const alice = run.person("alice");
	const username = `alice_${alice.email.slice(6, 14)}`;

	await run.signUp(web, alice, { username });
	await run.step("get-session", 200, () => web.client.getSession(), noEntry);
	await run.step("sign-out with session", 200, () => web.client.signOut(), success({ user: alice.id }));
	await run.step("sign-out without session", 200, () => web.client.signOut(), success());
	await run.step("get-session without session", 200, () => web.client.getSession(), noEntry);

	await refusedSignIns(run, alice, username);

	await run.signIn(web, alice);
	const byName = run.browser();
	const { password } = alice;
	await run.step("sign-in with username", 200, () => byName.client.signIn.username({ username, password }), success({ user: alice.id }));
}

async function refusedSignIns(run, alice, username) {
	const web = run.browser();
	const nobody = run.person("nobody");
	const wrong = run.canary("pw");

	await run.step(
		"sign-up duplicate",
		422,
		() => web.client.signUp.email({ name: "alice", email: alice.email, password: wrong }),
		failed({ identifier: alice.email }),
	);
	await run.step(
		"sign-up with short password",
		400,
		() => web.client.signUp.email({ name: "nobody", email: nobody.email, password: "canary-" }),
		failed({ identifier: nobody.email }),
	);
	await run.step(
		"sign-in wrong password",
		401,
		() => web.client.signIn.email({ email: alice.email, password: wrong }),
		failed({ identifier: alice.email }),
	);
	await run.step(
		"sign-in unknown user",
		401,
		() => web.client.signIn.email({ email: nobody.email, password: wrong }),
		failed({ identifier: nobody.email }),
	);
	await run.step(
		"sign-in with username, wrong password",
		401,
		() => web.client.signIn.username({ username, password: wrong }),
		failed({ identifier: ANY }),
	);
}
