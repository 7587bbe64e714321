// RFC 6238 with Better Auth's defaults: SHA-1, six digits, thirty seconds.

import { createHmac } from "node:crypto";

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const period = 30_000;

function decodeBase32(text) {
	let bits = "";
	for (const letter of text) bits += alphabet.indexOf(letter).toString(2).padStart(5, "0");
	return Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
}

function codeAt(secret, time) {
	const counter = Buffer.alloc(8);
	counter.writeBigUInt64BE(BigInt(Math.floor(time / period)));
	const digest = createHmac("sha1", secret).update(counter).digest();
	const offset = digest.at(-1) & 0xf;
	const number = digest.readUInt32BE(offset) & 0x7fffffff;
	return String(number % 1_000_000).padStart(6, "0");
}

export class Authenticator {
	constructor(totpURI) {
		this.secret = decodeBase32(new URL(totpURI).searchParams.get("secret"));
	}

	code() {
		return codeAt(this.secret, Date.now());
	}

	// wrongCode is refused now and in the neighbouring periods, which the server accepts too.
	wrongCode() {
		const valid = [-2, -1, 0, 1, 2].map((step) => codeAt(this.secret, Date.now() + step * period));
		return ["135790", "246801", "975310", "864209", "112358", "271828"].find((code) => !valid.includes(code));
	}
}
