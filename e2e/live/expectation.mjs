// What the audit log must hold for one HTTP request. This is written from the rules of the log, not from Better Auth's
// answers: the same file would judge any client of the same server.
//
// A key that is left out of an expectation is not asserted; null means that the entry must not have it.

export const ANY = Symbol("not asserted");

const classes = [
	[/^sign-out$/, "sign-out"],
	[/^sign-up:/, "sign-up"],
	[/^(sign-in:|magic-link:verify$|phone-number:verify$)/, "sign-in"],
	[/^two-factor:/, "mfa"],
	[/^admin:/, "admin"],
	[/^organization:/, "organization"],
	[/^(revoke-|multi-session:)/, "session"],
	[/(password|-otp$)/, "credential"],
	[/^(update-user|change-email|send-verification-email|verify-email|delete-user|delete-anonymous-user)$/, "account"],
];

const secretSegments = [[/^reset-password\/[^/]+$/, "reset-password/:token"]];

export function actionOf(path) {
	let route = path.replace(/^\/api\/auth\//, "");
	for (const [pattern, template] of secretSegments) route = route.replace(pattern, template);
	return route.replaceAll("/", ":");
}

export function classOf(action) {
	const found = classes.find(([pattern]) => pattern.test(action));
	if (!found) throw new Error(`no class for action ${action}`);
	return found[1];
}

const endsSomething = /(^|:)(delete|remove|revoke|unlink|disable)/;
const changesPassword = /^(email-otp:|phone-number:)?(change|reset)-password/;

export function severityOf(action, status) {
	if (action === "admin:ban-user" || action === "admin:impersonate-user") return "critical";
	if (action.startsWith("admin:") || endsSomething.test(action)) return "high";
	if (action === "sign-out") return "medium";
	const guarded = ["sign-in", "mfa"].includes(classOf(action)) || changesPassword.test(action);
	if (!guarded) return "low";
	return status === "failed" ? "high" : "medium";
}

export function mask(identifier) {
	const at = identifier.lastIndexOf("@");
	return `${identifier[0]}***${identifier.slice(at)}`;
}

// entry builds an expectation. `user` is the acting user as the server proved it, `identifier` what was typed by
// somebody whom the server did not prove.
function entry(status, { user = null, identifier = null, target = null, impersonatedBy = null } = {}) {
	return (exchange) => {
		const action = actionOf(exchange.path);
		const expected = { action, status, userId: user, severity: severityOf(action, status), class: classOf(action) };
		// Whether the entry of a proved user also keeps what was typed is the log's own choice.
		if (user === null && identifier !== ANY) expected.identifier = identifier && mask(identifier);
		if (target !== ANY) expected.targetUserId = target;
		if (impersonatedBy !== ANY) expected.impersonatedBy = impersonatedBy;
		return expected;
	};
}

export const success = (who) => entry("success", who);
export const pending = (who) => entry("pending", who);
export const failed = (who) => entry("failed", who);

export const noEntry = () => null;

// A path that the server does not route leaves an entry, but its name is the log's own choice.
export const unrouted = () => ({ status: "failed", userId: null });
