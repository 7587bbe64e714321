// An Auth.js server for the tests: sessions in a cookie (the default), a sign-in by name and password, one by OAuth.
// Its only argument is JSON: {"port", "people": {"alice": {"id", "password"}}, "provider": "http://..."}.

import { randomBytes } from "node:crypto";

import { ExpressAuth } from "@auth/express";
import Credentials from "@auth/express/providers/credentials";
import express from "express";

const { port, people, provider } = JSON.parse(process.argv[2]);

const byPassword = Credentials({
	credentials: { username: {}, password: { type: "password" } },
	authorize({ username, password }) {
		const person = Object.hasOwn(people, username) && people[username];
		if (!person || person.password !== password) return null;
		// "big" makes the cookie so large that Auth.js cuts it into several.
		return { id: person.id, name: username, image: person.big ? randomBytes(3000).toString("hex") : undefined };
	},
});

const byProvider = {
	id: "stub",
	name: "Stub",
	type: "oauth",
	clientId: "authjs",
	clientSecret: randomBytes(16).toString("hex"),
	issuer: provider,
	authorization: `${provider}/authorize`,
	token: `${provider}/token`,
	userinfo: `${provider}/userinfo`,
	profile: ({ sub, email }) => ({ id: sub, email }),
};

const config = {
	providers: [byPassword, byProvider],
	secret: randomBytes(32).toString("hex"),
	trustHost: true,
	callbacks: {
		session({ session, token }) {
			session.user.id = token.sub;
			return session;
		},
	},
};

const app = express();
app.set("trust proxy", true);
app.use("/auth/*", ExpressAuth(config));
app.listen(port, "127.0.0.1");
