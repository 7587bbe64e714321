// Every secret that crosses the wire in a run, so that the test can look for them where they must not be.

const sentKeys = new Set(["password", "currentPassword", "newPassword", "token", "sessionToken", "code", "otp"]);
// In an answer `code` is the name of an error.
const answeredKeys = new Set(["token", "backupCodes", "totpURI"]);

// Shorter values would be found by chance in any database.
const minimumLength = 8;

export class Secrets {
	canaries = new Set();
	codes = new Set();

	add(value) {
		if (typeof value !== "string") return;
		if (/^\d{6}$/.test(value)) this.codes.add(value);
		if (value.length >= minimumLength) this.canaries.add(value);
	}

	// A signed value travels URL-encoded in cookies and plain in headers, and its first part alone is the session.
	addSigned(value) {
		const decoded = decodeURIComponent(value);
		this.add(value);
		this.add(decoded);
		this.add(encodeURIComponent(decoded));
		this.add(decoded.split(".")[0]);
	}

	addURL(url) {
		const { pathname, searchParams } = new URL(url, "http://base.invalid");
		this.add(searchParams.get("token"));
		this.add(searchParams.get("secret"));
		this.add(pathname.match(/\/reset-password\/([^/]+)$/)?.[1]);
	}

	addSent(body) {
		this.#addByKey(body, sentKeys);
	}

	addAnswered(body) {
		this.#addByKey(body, answeredKeys);
	}

	// Secrets are found by key, however deep; the items of a list below such a key are secrets too.
	#addByKey(value, keys, secret = false) {
		if (typeof value === "string" && secret) {
			this.add(value);
			if (value.startsWith("otpauth:")) this.addURL(value);
		}
		if (value === null || typeof value !== "object") return;
		for (const [key, child] of Object.entries(value)) {
			this.#addByKey(child, keys, keys.has(key) || (secret && Array.isArray(value)));
		}
	}

	addCookie(name, value) {
		if (value) this.addSigned(value);
		// The multi-session plugin puts the session token, in lower case, into the cookie's name.
		this.add(name.match(/_multi-(.+)$/)?.[1]);
	}

	addResponseHeaders(headers) {
		if (headers.has("set-auth-token")) this.addSigned(headers.get("set-auth-token"));
		this.add(headers.get("set-auth-jwt"));
		if (headers.has("location")) this.addURL(headers.get("location"));
	}
}
