// Second factors: enrolment, the challenge after a right password, TOTP, mailed codes, backup codes.

import { failed, pending, success } from "../expectation.mjs";
import { Authenticator } from "../totp.mjs";

export default async function twoFactor(run) {
	const web = run.browser();
	const tina = run.person("tina");
	await run.signUp(web, tina);

	const { authenticator, backupCodes } = await enrol(run, web, tina);
	await challengeWithTOTP(run, tina, authenticator);
	await challengeWithMailedCode(run, tina);
	await challengeWithBackupCode(run, tina, backupCodes);
	await withoutChallenge(run);
	await disable(run, web, tina);
}

async function enrol(run, web, tina) {
	const { client } = web;
	const user = tina.id;
	const enable = (password) => () => client.twoFactor.enable({ password });
	await run.step("2FA enable, wrong password", 400, enable(run.canary("pw")), failed({ user }));
	const { json } = await run.step("2FA enable", 200, enable(tina.password), pending({ user }));
	const authenticator = new Authenticator(json.totpURI);

	const verify = (code) => () => client.twoFactor.verifyTotp({ code });
	await run.step("2FA enrolment, wrong code", 401, verify(authenticator.wrongCode()), failed({ user }));
	await run.step("2FA enrolment, right code", 200, verify(authenticator.code()), success({ user }));
	const renewed = await run.step(
		"2FA new backup codes",
		200,
		() => client.twoFactor.generateBackupCodes({ password: tina.password }),
		success({ user }),
	);
	return { authenticator, backupCodes: renewed.json.backupCodes };
}

// challenge signs in with the right password in a new browser. Nobody is signed in after that.
async function challenge(run, { email, password }) {
	const web = run.browser();
	await run.step(
		"sign-in, 2FA challenge",
		"200 challenge",
		() => web.client.signIn.email({ email, password }),
		pending({ identifier: email }),
	);
	return web.client.twoFactor;
}

async function challengeWithTOTP(run, tina, authenticator) {
	const factor = await challenge(run, tina);
	await run.step("2FA wrong code", 401, () => factor.verifyTotp({ code: authenticator.wrongCode() }), failed());
	await run.step("2FA right code", 200, () => factor.verifyTotp({ code: authenticator.code() }), success({ user: tina.id }));
}

async function challengeWithMailedCode(run, tina) {
	const factor = await challenge(run, tina);
	await run.step("2FA send OTP", 200, () => factor.sendOtp(), pending());
	const { code } = await run.mail(tina.email, "two-factor-otp");
	const wrong = code === "135790" ? "246801" : "135790";
	await run.step("2FA wrong OTP", 401, () => factor.verifyOtp({ code: wrong }), failed());
	await run.step("2FA right OTP", 200, () => factor.verifyOtp({ code }), success({ user: tina.id }));
}

async function challengeWithBackupCode(run, tina, [code]) {
	const factor = await challenge(run, tina);
	const wrong = run.canary("backup");
	await run.step("2FA wrong backup code", 401, () => factor.verifyBackupCode({ code: wrong }), failed());
	await run.step("2FA right backup code", 200, () => factor.verifyBackupCode({ code }), success({ user: tina.id }));
	const again = await challenge(run, tina);
	await run.step("2FA used backup code", 401, () => again.verifyBackupCode({ code }), failed());
}

async function withoutChallenge(run) {
	const { client } = run.browser();
	await run.step("2FA code without challenge", 401, () => client.twoFactor.verifyTotp({ code: "135790" }), failed());
}

async function disable(run, { client }, tina) {
	const user = tina.id;
	const act = (password) => () => client.twoFactor.disable({ password });
	await run.step("2FA disable, wrong password", 400, act(run.canary("pw")), failed({ user }));
	await run.step("2FA disable", 200, act(tina.password), success({ user }));
	await run.signIn(run.browser(), tina);
}
