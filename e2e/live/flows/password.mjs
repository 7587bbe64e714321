// Changing a password, and resetting a forgotten one.

import { failed, pending, success } from "../expectation.mjs";

export default async function password(run) {
	await change(run);
	await reset(run);
	await resetByCode(run);
}

async function change(run) {
	const web = run.browser();
	const pat = run.person("pat");
	await run.signUp(web, pat);
	const user = pat.id;
	const to = (currentPassword, newPassword, revokeOtherSessions) => () =>
		web.client.changePassword({ currentPassword, newPassword, revokeOtherSessions });

	const [first, second] = [run.canary("pw"), run.canary("pw")];
	await run.step("change-password, wrong current", 400, to(run.canary("pw"), first), failed({ user }));
	await run.step("change-password", 200, to(pat.password, first), success({ user }));
	await run.step("change-password, revoke other sessions", 200, to(first, second, true), success({ user }));
	const nobody = run.browser();
	await run.step(
		"change-password without session",
		401,
		() => nobody.client.changePassword({ currentPassword: second, newPassword: first }),
		failed(),
	);
	await run.signIn(run.browser(), { ...pat, password: second });
}

async function reset(run) {
	const rita = run.person("rita");
	await run.signUp(run.browser(), rita);
	const web = run.browser();
	const request = (email) => () => web.client.requestPasswordReset({ email, redirectTo: "/reset" });

	await run.step("request reset", 200, request(rita.email), pending({ identifier: rita.email }));
	const { url, token } = await run.mail(rita.email, "reset-password");
	const nobody = run.person("nobody");
	await run.step("request reset, unknown user", 200, request(nobody.email), pending({ identifier: nobody.email }));

	const badLink = url.replace(token, run.canary("reset"));
	await run.step("click on reset link, bad token", "302 error", () => web.visit(badLink), failed());
	await run.step("click on reset link", 302, () => web.visit(url), pending());

	const newPassword = run.canary("pw");
	const use = (value) => () => web.client.resetPassword({ newPassword, token: value });
	await run.step("reset-password, bad token", 400, use(run.canary("reset")), failed());
	await run.step("reset-password", 200, use(token), success());
	await run.step("reset-password, used token", 400, use(token), failed());
	await run.signIn(web, { ...rita, password: newPassword });
}

async function resetByCode(run) {
	const otto = run.person("otto");
	await run.signUp(run.browser(), otto);
	const { client } = run.browser();
	const { email } = otto;
	await run.step(
		"request reset by code",
		200,
		() => client.emailOtp.requestPasswordReset({ email }),
		pending({ identifier: email }),
	);
	const { code } = await run.mail(email, "email-otp:forget-password");
	const password = run.canary("pw");
	const wrong = code === "135790" ? "246801" : "135790";
	const use = (otp) => () => client.emailOtp.resetPassword({ email, otp, password });
	await run.step("reset by code, wrong code", 400, use(wrong), failed({ identifier: email }));
	await run.step("reset by code", 200, use(code), success({ identifier: email }));
}
