// Signing in without a password: magic links, mailed codes, phone codes, anonymously.

import { ANY, failed, pending, success } from "../expectation.mjs";

export default async function passwordless(run) {
	await magicLink(run);
	await emailCode(run);
	await phoneCode(run);
	await anonymous(run);
}

// newUser expects the success of whoever the answer says is signed in, and remembers the id.
const newUser = (person) => (exchange) => {
	person.id = exchange.json?.user?.id;
	return success({ user: person.id })(exchange);
};

async function magicLink(run) {
	const web = run.browser();
	const mia = run.person("mia");
	await run.signUp(run.browser(), mia);
	const { email, id } = mia;
	const send = () => web.client.signIn.magicLink({ email, callbackURL: "/dash" });

	await run.step("magic link send", 200, send, pending({ identifier: email }));
	const { url, token } = await run.mail(email, "magic-link");
	const badLink = url.replace(token, run.canary("magic"));
	await run.step("magic link, bad token", "302 error", () => web.visit(badLink), failed());
	await run.step("magic link", 302, () => web.visit(url), success({ user: id }));
	await run.step("magic link, used token", "302 error", () => run.browser().visit(url), failed());
	await run.step("sign-out after magic link", 200, () => web.client.signOut(), success({ user: id }));

	await run.step("magic link send, no callback", 200, () => web.client.signIn.magicLink({ email }), pending({ identifier: email }));
	const second = await run.mail(email, "magic-link");
	const asJSON = () => web.client.magicLink.verify({ query: { token: second.token } });
	await run.step("magic link, JSON answer", 200, asJSON, success({ user: id }));
}

async function emailCode(run) {
	const { client } = run.browser();
	const ed = run.person("ed");
	const { email } = ed;
	const send = () => client.emailOtp.sendVerificationOtp({ email, type: "sign-in" });
	await run.step("email code send", 200, send, pending({ identifier: email }));
	const { code } = await run.mail(email, "email-otp:sign-in");
	const wrong = code === "135790" ? "246801" : "135790";
	await run.step("email code, wrong", 400, () => client.signIn.emailOtp({ email, otp: wrong }), failed({ identifier: email }));
	await run.step("email code, new user", 200, () => client.signIn.emailOtp({ email, otp: code }), newUser(ed));
}

async function phoneCode(run) {
	const { client } = run.browser();
	const phil = { id: null };
	const phoneNumber = `+1555${String(Date.now()).slice(-7)}`;
	await run.step("phone code send", 200, () => client.phoneNumber.sendOtp({ phoneNumber }), pending({ identifier: ANY }));
	const { code } = await run.mail(phoneNumber, "phone-otp");
	const wrong = code === "135790" ? "246801" : "135790";
	const verify = (value) => () => client.phoneNumber.verify({ phoneNumber, code: value });
	await run.step("phone code, wrong", 400, verify(wrong), failed({ identifier: ANY }));
	await run.step("phone code, new user", 200, verify(code), newUser(phil));
}

async function anonymous(run) {
	const { client } = run.browser();
	const ghost = { id: null };
	await run.step("anonymous sign-in", 200, () => client.signIn.anonymous(), newUser(ghost));
	await run.step("update-user as anonymous", 200, () => client.updateUser({ name: "ghost" }), success({ user: ghost.id }));
	await run.step(
		"delete anonymous user",
		200,
		() => client.deleteAnonymousUser(),
		success({ user: ghost.id }),
		{ unlinks: ghost.id },
	);
}
