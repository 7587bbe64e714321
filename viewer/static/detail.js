// One entry, in a sheet beside the list: all its fields, and ways on from it.
import { $, el, icon, value, visible, badge, className, fullTime, ago, zone } from './dom.js';
import { cleared, wholeLog } from './state.js';
import { bare, getEntry, Literal } from './api.js';

const address = /^(\d{1,3}\.){3}\d{1,3}$|^[\da-f.]*:[\da-f:.]*$/i; // a rule may have put something else in its place
const deepest = 64; // of metadata that is shown as a tree

export class Detail {
  #view; #log; #wanted = '';

  constructor(view, log) {
    this.#view = view;
    this.#log = log;
    const dialog = $('detail');
    dialog.addEventListener('close', () => this.#closed());
    dialog.addEventListener('click', (event) => event.target === dialog && dialog.close()); // on the backdrop
    dialog.addEventListener('keydown', (event) => this.#key(event));
  }

  #key(event) {
    const by = { j: 1, k: -1 }[event.key];
    if (by && this.#view.keys && !event.ctrlKey && !event.metaKey && !event.altKey) this.#beside(by);
  }

  #beside(by) {
    const next = this.#log.beside(this.#view.state.entry, by);
    if (next) this.#view.commit({ entry: next }, 'replace');
  }

  #closed() {
    const id = this.#view.state.entry;
    this.#wanted = '';
    if (id && history.state?.opened) history.back(); // Back would open it again
    else if (id) this.#view.commit({ entry: '' }, 'replace');
    this.#log.focus(id);
  }

  /** Shows the entry that the state names, or nothing. */
  async show() {
    const id = this.#view.state.entry, dialog = $('detail');
    if (id === this.#wanted) return;
    this.#wanted = id;
    this.#shown = null;
    if (!id) return dialog.close();
    const known = this.#log.find(id);
    this.#fill(known ? this.#content(known) : [el('p', { class: 'waiting', text: 'Loading the entry' })], known);
    if (!dialog.open) dialog.showModal();
    if (known) return;
    try {
      const entry = await getEntry(id);
      if (this.#wanted === id && !this.#shown) this.#fill(this.#content(entry), entry); // else the tail was quicker
    } catch (failure) {
      if (this.#wanted === id && !this.#shown) this.#fill([el('p', { class: 'missing', text: failure.status === 404 ? 'There is no such entry, or it is not yours to see. Old entries are deleted after a time.' : failure.message })]);
    }
  }

  /** Shows the entry again, with what the caller may do. */
  again() {
    if (this.#shown) this.#refill(this.#shown);
  }
  #shown = null;

  /** Shows a new version of the entry that is open. */
  update(entry) {
    if (entry.id === this.#wanted && JSON.stringify(entry) !== JSON.stringify(this.#shown)) this.#refill(entry);
  }

  /** Gets the entry anew if it is the open one: it has changed, and the tail does not show how. */
  async left(id) {
    if (id !== this.#wanted) return;
    try {
      this.update(await getEntry(id));
    } catch { /* what is there stays */ }
  }

  /** Fills the sheet anew, under the eyes of somebody who reads it. */
  #refill(entry) {
    const dialog = $('detail'), top = dialog.scrollTop;
    const places = () => [...dialog.querySelectorAll('button, a, [tabindex]')];
    const label = document.activeElement?.getAttribute('aria-label') || document.activeElement?.textContent;
    const inside = dialog.contains(document.activeElement);
    this.#fill(this.#content(entry), entry);
    dialog.scrollTop = top;
    if (inside) places().find((place) => (place.getAttribute('aria-label') || place.textContent) === label)?.focus({ preventScroll: true });
  }

  #fill(content, entry) {
    this.#shown = entry ?? null;
    const button = (name, label, f) => el('button', { type: 'button', class: 'button small square', 'aria-label': label, title: label, on: { click: f } }, icon(name));
    const near = (by) => entry && this.#log.beside(entry.id, by);
    const title = el('h2', { id: 'detail-title', tabindex: '-1' }, entry ? value(entry.action) : 'Entry');
    $('detail').replaceChildren(
      el('div', { class: 'sheet-head' }, title,
        near(-1) ? button('left', 'Newer entry (k)', () => this.#beside(-1)) : null,
        near(1) ? button('right', 'Older entry (j)', () => this.#beside(1)) : null,
        button('close', 'Close', () => $('detail').close())),
      el('div', { class: 'sheet-body' }, ...content));
    title.focus({ preventScroll: true });
    $('detail').scrollTop = 0;
  }

  #content(entry) {
    const m = entry.metadata ?? {}, date = new Date(entry.createdAt);
    const named = typeof m.class === 'string';
    return [
      el('p', { class: 'badges' }, badge('status', entry.status), badge('severity', entry.severity), named ? el('span', { class: 'tag' }, className(m.class)) : null),
      el('p', { class: 'when' }, el('time', { datetime: entry.createdAt, text: `${fullTime(date)} (${zone})` }), el('small', { text: `${ago(date)} · ${entry.createdAt}` })),
      failure(m.error),
      this.#people(entry, m),
      exchange(m),
      el('section', {}, el('div', { class: 'title' }, el('h3', { text: 'Metadata' }), copyButton('Copy as JSON', () => JSON.stringify(plainJSON(entry), null, 2))), el('pre', { class: 'tree', tabindex: '0', 'aria-label': 'Metadata' }, tree(m, 0))),
      el('section', { class: 'foot' }, copyButton('Copy a link to this entry', () => bare(location.href).href), el('p', { class: 'mono' }, value(entry.id))),
    ];
  }

  /** Who and from where, with what leads to their other entries. */
  #people(entry, m) {
    const all = this.#view.access?.everything, rows = [];
    const row = (name, text, more) => text && rows.push(el('div', {}, el('dt', { text: name }), el('dd', {}, value(text, 'mono'), more)));
    row('User', entry.userId, all && this.#everything('user', { userId: entry.userId }));
    row('Typed to sign in', string(m.identifier), all && string(m.identifierHash) && this.#everything('account', { identifierHash: m.identifierHash }));
    row('Address', entry.ipAddress, this.#everything('address', address.test(entry.ipAddress) ? { ip: entry.ipAddress } : { q: entry.ipAddress }));
    row('Acts upon', string(m.targetUserId), all && this.#everything('user', { userId: m.targetUserId }));
    row('Impersonated by', string(m.impersonatedBy), all && this.#everything('user', { userId: m.impersonatedBy }));
    row('Session', string(m.sessionHash), this.#everything('session', { q: m.sessionHash }));
    row('User agent', string(entry.userAgent));
    return rows.length ? el('section', {}, el('h3', { text: 'Who and where' }), el('dl', { class: 'facts' }, ...rows)) : null;
  }

  #everything(what, filter) {
    const go = () => this.#view.commit({ ...cleared(this.#view.state), ...wholeLog, ...this.#view.everybody(), ...filter });
    return el('button', { type: 'button', class: 'link', text: `Everything of this ${what}`, on: { click: go } });
  }
}

const string = (v) => (typeof v === 'string' ? v : '');

/** A value of metadata that is shown by itself, as text. */
const plain = (v) => (v instanceof Literal ? v.source : v === undefined || v === null || typeof v === 'object' ? '' : String(v));

function failure(error) {
  if (!error || typeof error !== 'object') return null;
  const code = plain(error.code) || plain(error.status), message = plain(error.message);
  return code || message ? el('p', { class: 'failure' }, code ? el('strong', {}, value(code)) : null, message ? value(message) : null) : null;
}

const sources = new Map([['proxy', 'the proxy'], ['api', 'an insert through the API']]);

/** What went over the wire. */
function exchange(m) {
  const path = plain(m.path), code = plain(m.statusCode), took = plain(m.durationMs);
  const rows = [['Request', [plain(m.method), path].filter(Boolean).join(' ')], ['Answer', code], ['Answer of the server', plain(m.upstreamStatus)],
    ['Took', took && `${Number(took) < 10 ? took : Math.round(took)} ms`], ['Request id', plain(m.requestId)], ['Recorded by', sources.get(m.source) ?? plain(m.source)]].filter(([, text]) => text);
  const notes = [[m.aborted, 'The connection broke before the answer was complete.'], [m.withheld, 'The answer was withheld: the log could not be written.'], [m.interrupted, 'The server ended before the answer.'], [m.identity === 'unavailable', 'The auth server could not be asked who this was.']].filter(([on]) => on === true);
  if (!rows.length) return null;
  return el('section', {}, el('h3', { text: 'Exchange' }),
    el('dl', { class: 'facts' }, ...rows.map(([name, text]) => el('div', {}, el('dt', { text: name }), el('dd', {}, value(text, 'mono'))))),
    ...notes.map(([, text]) => el('p', { class: 'note', text })));
}

/** JSON as indented nodes. */
function tree(v, depth) {
  if (v instanceof Literal) return el('span', { class: 'v-number', text: v.source });
  if (v === null || typeof v === 'boolean') return el('span', { class: 'v-word', text: String(v) });
  if (typeof v === 'number') return el('span', { class: 'v-number', text: String(v) });
  if (typeof v === 'string') return el('bdi', { class: 'v-string', text: quoted(v) });
  const list = Array.isArray(v), inside = list ? v.map((item) => [null, item]) : Object.entries(v);
  const [open, close] = list ? '[]' : '{}';
  if (inside.length === 0) return el('span', { text: open + close });
  if (depth >= deepest) return el('span', { text: JSON.stringify(plainJSON(v)) });
  const out = el('span', {}, open + '\n'), indent = '  '.repeat(depth);
  inside.forEach(([key, item], i) => {
    out.append(indent + '  ');
    if (key !== null) out.append(el('bdi', { class: 'v-key', text: quoted(key) }), ': ');
    out.append(tree(item, depth + 1), (i < inside.length - 1 ? ',' : '') + '\n');
  });
  out.append(indent + close);
  return out;
}

/** A string of JSON, with what would not be seen spelled out. */
const quoted = (text) => visible(JSON.stringify(text));

/** The value with literals as JSON has them, where the browser can. */
function plainJSON(v) {
  if (v instanceof Literal) return JSON.rawJSON ? JSON.rawJSON(v.source) : v.source;
  if (Array.isArray(v)) return v.map(plainJSON);
  if (v && typeof v === 'object') return Object.fromEntries(Object.entries(v).map(([k, item]) => [k, plainJSON(item)]));
  return v;
}

function copyButton(label, text) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = 'Copied';
    } catch { // without TLS browsers have no clipboard
      button.textContent = 'The browser does not allow it here';
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  };
  const button = el('button', { type: 'button', class: 'link', text: label, on: { click: copy } });
  return button;
}
