// The table of entries: a page of the list, kept up to date by the live tail.
import { $, el, value, badge, className, shortTime, fullTime, ago, zone } from './dom.js';

const skeletons = 8;

export class Log {
  #rows = new Map(); // by entry id: {entry, row}
  #onOpen;

  /** onOpen(id) is called when somebody opens an entry, href(id) is its address. */
  constructor(onOpen, href) {
    this.#onOpen = onOpen;
    this.href = href;
    $('rows').addEventListener('click', (event) => this.#click(event));
    setInterval(() => this.#age(), 20e3);
  }

  #click(event) {
    const row = event.target.closest('tr[data-id]');
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey || event.detail > 0 && String(getSelection())) return; // a new tab, or copying
    event.preventDefault();
    this.#onOpen(row.dataset.id);
  }

  /** The entries shown, newest first. */
  get entries() { return [...$('rows').children].map((row) => this.#rows.get(row.dataset.id)?.entry).filter(Boolean); }
  get size() { return this.#rows.size; }
  /** The last of them, undefined if there is none. */
  get oldest() { return this.#rows.get($('rows').lastChild?.dataset?.id)?.entry; }
  find(id) { return this.#rows.get(id)?.entry; }

  /** Shows that something is on its way. */
  wait() {
    $('table').setAttribute('aria-busy', 'true');
    if (this.size > 0) return; // what is there stays until the new is
    const cells = () => Array.from({ length: 6 }, () => el('td', { role: 'cell' }, el('span', { class: 'skeleton' })));
    $('rows').replaceChildren(...Array.from({ length: skeletons }, () => el('tr', { role: 'row', class: 'waiting' }, ...cells())));
  }

  /** Shows these entries and no others. */
  show(entries) {
    const focused = document.activeElement?.closest('tr[data-id]')?.dataset.id;
    $('table').removeAttribute('aria-busy');
    this.#rows.clear();
    $('rows').replaceChildren(...entries.map((e) => this.#row(e)));
    if (focused) this.focus(focused, { preventScroll: true });
  }

  /** Puts an entry in its place, or its new version; says whether it is a new one. */
  upsert(entry) {
    const old = this.#rows.get(entry.id)?.row;
    const focused = old?.contains(document.activeElement);
    const row = this.#row(entry);
    row.classList.add('fresh');
    if (old) {
      old.replaceWith(row);
      if (focused) row.querySelector('a').focus({ preventScroll: true });
      return false;
    }
    const behind = [...$('rows').children].find((other) => (this.#rows.get(other.dataset.id)?.entry.createdAt ?? '') <= entry.createdAt);
    $('rows').insertBefore(row, behind ?? null);
    return true;
  }

  #row(entry) {
    const m = entry.metadata ?? {}, date = new Date(entry.createdAt);
    const open = el('a', { href: this.href(entry.id), class: 'open' }, value(entry.action));
    const row = el('tr', { role: 'row', 'data-id': entry.id },
      el('td', { role: 'cell', class: 'time' }, time(date), el('small', { 'data-ago': entry.createdAt, text: ago(date) })),
      el('td', { role: 'cell', class: 'action' }, open, el('small', {}, typeof m.class === 'string' ? className(m.class) : '', reason(m))),
      el('td', { role: 'cell', class: 'status' }, badge('status', entry.status)),
      el('td', { role: 'cell', class: 'level' }, badge('severity', entry.severity)),
      el('td', { role: 'cell', class: 'who' }, who(entry, m)),
      el('td', { role: 'cell', class: 'from' }, entry.ipAddress ? value(entry.ipAddress, 'mono') : none('no address')));
    this.#rows.set(entry.id, { entry, row });
    return row;
  }

  /** Drops an entry; says whether it was there. */
  remove(id) {
    const row = this.#rows.get(id)?.row;
    if (row?.contains(document.activeElement)) $('log').focus({ preventScroll: true });
    row?.remove();
    return this.#rows.delete(id);
  }

  /** Drops the oldest of more than that many. */
  trim(most) {
    for (let row = $('rows').lastChild; row && this.size > most; row = $('rows').lastChild) {
      this.#rows.delete(row.dataset.id);
      row.remove();
    }
  }

  /** Drops what is older than that; says how many. */
  expire(createdAt) {
    const before = this.size;
    for (let oldest = this.oldest; oldest && oldest.createdAt < createdAt; oldest = this.oldest) this.remove(oldest.id);
    return before - this.size;
  }

  #age() {
    for (const node of $('rows').querySelectorAll('[data-ago]')) node.textContent = ago(new Date(node.dataset.ago));
  }

  /** Goes to the next entry (1) or the previous one (-1), or to the first. */
  step(by) {
    const links = [...$('rows').querySelectorAll('a.open')];
    const at = links.findIndex((a) => a.closest('tr').contains(document.activeElement));
    const next = links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by))];
    next?.focus();
    next?.closest('tr').scrollIntoView({ block: 'nearest' });
  }

  /** The id beside that one, or undefined. */
  beside(id, by) {
    const ids = this.entries.map((e) => e.id);
    return ids.includes(id) ? ids[ids.indexOf(id) + by] : undefined;
  }

  /** Gives an entry's row the focus; the list, if the row is gone and the focus with it. */
  focus(id, options) {
    const row = this.#rows.get(id)?.row;
    if (row) row.querySelector('a').focus(options);
    else if (document.activeElement === document.body || !document.activeElement.checkVisibility()) $('log').focus({ preventScroll: true });
  }
}

/** A moment in local time, with UTC in its title. */
export function time(date) {
  return el('time', { datetime: date.toISOString(), title: `${date.toISOString()} (UTC)\n${fullTime(date)} (${zone})`, text: shortTime(date) });
}

/** Why it failed, in a few words. */
function reason(m) {
  const why = typeof m.error?.code === 'string' && m.error.code || typeof m.error?.message === 'string' && m.error.message;
  return why ? el('span', { class: 'why' }, value(why)) : null;
}

function who(entry, m) {
  if (entry.userId) return value(entry.userId, 'mono');
  if (typeof m.identifier === 'string' && m.identifier) return el('span', { class: 'tried', title: 'What was typed to sign in' }, el('span', { text: 'typed ' }), value(m.identifier));
  return none('nobody');
}

const none = (word) => el('span', { class: 'none', title: word }, el('span', { 'aria-hidden': 'true', text: '–' }), el('span', { class: 'vh', text: word }));
