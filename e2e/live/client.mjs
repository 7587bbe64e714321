// Drives a real Better Auth server through BASE_URL and says, for every request, what the audit log must hold.
// See README.md for the output.

import account from "./flows/account.mjs";
import admin from "./flows/admin.mjs";
import bearer from "./flows/bearer.mjs";
import credentials from "./flows/credentials.mjs";
import multiSession from "./flows/multi-session.mjs";
import organization from "./flows/organization.mjs";
import password from "./flows/password.mjs";
import passwordless from "./flows/passwordless.mjs";
import refused from "./flows/refused.mjs";
import sessions from "./flows/sessions.mjs";
import twoFactor from "./flows/two-factor.mjs";
import { Run } from "./run.mjs";

const flows = {
	credentials,
	twoFactor,
	password,
	passwordless,
	sessions,
	account,
	admin,
	organization,
	multiSession,
	bearer,
	refused,
};

function required(name) {
	if (process.env[name]) return process.env[name];
	throw new Error(`${name} is not set`);
}

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const run = new Run({
	baseURL: required("BASE_URL"),
	mailboxURL: required("MAILBOX_URL"),
	adminEmail: process.env.ADMIN_EMAIL || "admin@example.com",
	print,
});

for (const [name, flow] of Object.entries(flows)) {
	// A flow builds on its own earlier steps only, so the others still say something.
	await flow(run).catch((error) => run.failures.push({ flow: name, n: run.steps, error: error.message }));
}

const { canaries, codes } = run.secrets;
print({ canaries: [...canaries], codes: [...codes], addresses: [...run.addresses] });
print({ done: true, steps: run.steps, failures: run.failures });
process.exitCode = run.failures.length === 0 ? 0 : 1;
