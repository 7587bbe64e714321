// Runs client.mjs against the example server without a proxy between them: it shows whether the driver and Better Auth
// still agree with each other, and nothing about the audit log.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

function startServer() {
	return spawn(process.execPath, [here("../../examples/better-auth/server.mjs")], {
		env: { ...process.env, PORT: "0", MAILBOX_PORT: "0", EXIT_ON_STDIN_CLOSE: "1" },
		stdio: ["pipe", "pipe", "inherit"],
	});
}

const server = startServer();
const [line] = await once(createInterface({ input: server.stdout }), "line");
const { port, mailboxPort } = JSON.parse(line);
const client = spawn(process.execPath, [here("client.mjs")], {
	env: { ...process.env, BASE_URL: `http://127.0.0.1:${port}`, MAILBOX_URL: `http://127.0.0.1:${mailboxPort}` },
	stdio: "inherit",
});
const [code] = await once(client, "exit");
server.stdin.end();
await once(server, "exit");
process.exitCode = code ?? 1;
