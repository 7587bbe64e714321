// Asking the server. All addresses are relative to the page, so that it works below any
// path.

/** An answer that is none: code as the API says it, NETWORK when nothing came. */
export class Failure extends Error {
  constructor(status, code, message, retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** A number that JavaScript cannot hold, as it was written. */
export class Literal {
  constructor(source) { this.source = source; }
}

// Numbers stay what they are: 9007199254740993 and 1e400 are not rounded.
function exact(key, v, context) {
  if (typeof v !== 'number' || !context?.source || String(v) === context.source) return v;
  return new Literal(context.source);
}

/** Reads JSON. Whole numbers of our own fields are always plain. */
export function parse(text) {
  return JSON.parse(text, exact);
}

export const address = (path, params) => bare(path + (params?.size ? '?' + params : ''));

/** An address relative to the page, without the name and password with which somebody may have opened it: fetch refuses them. */
export function bare(href) {
  const url = new URL(href, document.baseURI);
  url.username = url.password = '';
  return url;
}

/** Gets JSON. Throws a Failure, or what an abort throws. */
export async function get(path, params, signal) {
  let answer, text;
  try {
    answer = await fetch(address(path, params), { headers: { Accept: 'application/json' }, cache: 'no-store', credentials: 'same-origin', redirect: 'manual', signal });
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure(0, 'NETWORK', 'The server did not answer.');
  }
  // The API sends nobody elsewhere, and answers no page: that is who signs people in, before it.
  if (answer.type === 'opaqueredirect' || answer.ok && /html/.test(answer.headers.get('Content-Type'))) throw new Failure(401, 'SENT_AWAY', 'The server sends you elsewhere, to sign in again as it seems.');
  let body = null;
  try { body = parse(text); } catch { /* not ours: said below */ }
  if (answer.ok && body !== null) return body;
  const retry = Number.parseInt(answer.headers.get('Retry-After') ?? '', 10) || 0;
  throw new Failure(answer.status, body?.code ?? 'HTTP_' + answer.status, body?.message ?? `The server answered ${answer.status}.`, retry);
}

/** What else than an entry there is at that place. */
const others = ['access', 'export', 'histogram', 'list', 'list-audit-logs', 'tail', 'tally', 'viewer'];

/** Gets one entry. */
export async function getEntry(id, signal) {
  const missing = new Failure(404, 'NOT_FOUND', 'Audit log entry not found');
  if (!/^[\w.:~-]{1,255}$/.test(id) || /^\.+$/.test(id) || others.includes(id)) throw missing; // it goes into a path
  const entry = await get(encodeURIComponent(id), null, signal);
  if (entry.id !== id) throw missing;
  return entry;
}
