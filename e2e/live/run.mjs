// A run is a sequence of steps. Each step is exactly one HTTP request, and one line of output.

import { randomBytes } from "node:crypto";

import { Browser } from "./browser.mjs";
import { success } from "./expectation.mjs";
import { Secrets } from "./secrets.mjs";

const mailTimeout = 5_000;

// resultOf is what a step is checked against: the status, and what a status does not tell.
function resultOf({ status, location, json }) {
	if (location && new URL(location, "http://base.invalid").searchParams.has("error")) return `${status} error`;
	if (json?.twoFactorRedirect) return `${status} challenge`;
	return `${status}`;
}

export class Run {
	secrets = new Secrets();
	addresses = new Set();
	failures = [];
	steps = 0;
	#exchanges = [];
	#mailsRead = new Map();

	constructor({ baseURL, mailboxURL, adminEmail, print }) {
		this.baseURL = baseURL;
		this.mailboxURL = mailboxURL;
		this.adminEmail = adminEmail;
		this.print = print;
	}

	observe(exchange) {
		this.#exchanges.push(exchange);
	}

	browser(options) {
		return new Browser(this, options);
	}

	// canary makes a secret that cannot occur by chance.
	canary(kind) {
		const value = `canary-${kind}-${randomBytes(8).toString("hex")}`;
		this.secrets.add(value);
		return value;
	}

	person(name, { email = `${name}-${randomBytes(4).toString("hex")}@example.com` } = {}) {
		this.addresses.add(email);
		return { name, email, password: this.canary("pw"), id: null };
	}

	// step makes one request. `want` is the result that the driver counts on, `expectation` turns the exchange into
	// what the log must hold. Whatever else is given goes into the step's line as it is.
	async step(name, want, act, expectation, extra = {}) {
		this.steps += 1;
		this.#exchanges = [];
		await act();
		if (this.#exchanges.length !== 1) throw new Error(`${name}: ${this.#exchanges.length} requests, want one`);
		const [exchange] = this.#exchanges;
		const { method, path, status } = exchange;
		const got = resultOf(exchange);
		if (got !== String(want)) this.failures.push({ n: this.steps, step: name, want: String(want), got, json: exchange.json });
		this.print({ n: this.steps, step: name, method, path, status, expect: expectation(exchange), ...extra });
		return exchange;
	}

	// signUp enrols a person through the official client and learns their id.
	async signUp(browser, person, fields = {}) {
		const { name, email, password } = person;
		const act = () => browser.client.signUp.email({ name, email, password, ...fields });
		const learnId = (exchange) => {
			person.id = exchange.json?.user?.id;
			return success({ user: person.id })(exchange);
		};
		return this.step(`sign-up of ${name}`, 200, act, learnId);
	}

	async signIn(browser, { name, email, password, id }) {
		const act = () => browser.client.signIn.email({ email, password });
		return this.step(`sign-in of ${name}`, 200, act, success({ user: id }));
	}

	// mail waits for the next unread mail of that kind; Better Auth may send after it has answered.
	async mail(to, kind) {
		const key = `${to} ${kind}`;
		const read = this.#mailsRead.get(key) ?? 0;
		const mail = await this.#poll(to, (mails) => mails.filter((each) => each.kind === kind)[read]);
		if (!mail) throw new Error(`no mail ${kind} to ${to}`);
		this.#mailsRead.set(key, read + 1);
		if (kind !== "invitation") this.secrets.addSent(mail);
		return mail;
	}

	async #poll(to, choose) {
		const url = new URL(`/mailbox?to=${encodeURIComponent(to)}`, this.mailboxURL);
		const deadline = Date.now() + mailTimeout;
		for (;;) {
			const { mails } = await (await fetch(url)).json();
			const mail = choose(mails);
			if (mail || Date.now() > deadline) return mail;
			await new Promise((resolve) => setTimeout(resolve, 20));
		}
	}
}
