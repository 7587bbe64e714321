// The page: one state, shown by the filters, the timeline, the table and the detail, and
// written into the address, so that Back, Forward and a copied link mean what they show.
import { $, el, announce, number, visible } from './dom.js';
import { read, write, query, selection, span, active, cleared, defaultRange, isRange, isAccount } from './state.js';
import { get, Failure } from './api.js';
import * as fields from './filters.js';
import { Timeline } from './timeline.js';
import { Log } from './log.js';
import { Detail } from './detail.js';
import { Tail, open, lost, connecting, ended } from './tail.js';

const pageSize = 50;
const mostRows = 300; // of a live tail, before the page begins anew
const mostWaiting = 500; // of a tail that pauses
const settled = 3e3; // milliseconds after which a tail has told of what a list had: three of its looks at the log
const chartEvery = 15e3; // milliseconds, while the tail runs
const moveEvery = 60e3; // milliseconds between two looks at what is too old for the range

/** What the parts share. */
const view = {
  state: read(location.search),
  access: null,
  lastRange: defaultRange,
  keys: true,
  commit,
  everybody: () => (view.access?.surface === 'own' && view.access.everything ? { scope: 'all' } : {}),
};

const log = new Log((id) => commit({ entry: id }), (id) => write({ ...view.state, entry: id }));
const timeline = new Timeline(view);
const detail = new Detail(view, log);
const tail = new Tail({ onEntry: arrived, onLeft: left, onMissed: () => { missed = true; }, onState: tailState, onOpen: opened });

/** Changes the state, and with it the address. how is push or replace. */
function commit(patch, how = 'push', page = null) {
  const before = view.state, after = { ...before, ...patch };
  if (write(after) === write(before) && after.range === before.range) return fields.show(view);
  const marks = page ?? (samePage(before, after) ? { ...history.state } : {});
  marks.opened = after.entry !== '' && (how === 'push' ? before.entry === '' : history.state?.opened === true);
  history[how + 'State'](marks, '', write(after));
  become(after);
}

const selected = (state) => [selection(state), state.range, state.from, state.to].join();
const samePage = (a, b) => selected(a) === selected(b) && a.cursor === b.cursor;

/** Shows a state. */
function become(after) {
  const before = view.state;
  view.state = after;
  if (isRange(after.range)) view.lastRange = after.range;
  fields.show(view);
  if (!samePage(before, after)) loadList();
  if (selected(before) !== selected(after)) loadTimeline();
  if (tail.running && (after.cursor || after.to)) tail.stop();
  else if (tail.running && String(selection(before)) !== String(selection(after))) follow();
  exports();
  detail.show();
}

// --- the list

let listing = null, page = { entries: [], total: 0 }, retry = 0;
let meanwhile = []; // what the tail brought while a list was on its way, which may be older
let gone = new Set(); // and what left meanwhile
let owed = true; // a list that somebody asked for, and that did not come yet

/** Loads the page of the state; quietly when nobody asked for it, unless it takes the place of one that somebody did. */
async function loadList(quietly = false) {
  listing?.abort();
  clearTimeout(retry);
  clearTimeout(doubting);
  if (!quietly) owed = true;
  const asked = listing = new AbortController(), params = query(view.state);
  params.set('limit', pageSize);
  if (view.state.cursor) params.set('cursor', view.state.cursor);
  if (!quietly) log.wait();
  meanwhile = [];
  gone = new Set();
  try {
    page = await get('list', params, asked.signal);
    page.entries = page.entries.filter((entry) => !gone.has(entry.id));
    const before = log.find(view.state.entry);
    newest = page.entries[0]?.createdAt ?? '';
    owed = false;
    unsure = gone.size > 0;
    log.show(page.entries);
    listed();
    listing = null;
    for (const entry of meanwhile) keepIncoming(entry);
    flush();
    const now = log.find(view.state.entry);
    if (now) detail.update(now);
    else if (before) detail.left(before.id); // it has changed, perhaps
    if (undecided().length > 0) doubting = setTimeout(doubt, settled);
  } catch (failure) {
    if (asked.signal.aborted) return;
    listing = null;
    if (owed || [401, 403].includes(failure.status)) refused(failure); // else what is there stays
    else if (tail.running) missed = true; // and is asked for again, some time
  }
}

// What a list has before the tail has heard of it, the tail never tells as left, if its outcome comes first: once the tail
// must have heard of it, the list is read again, once for each.
let doubting = 0, told = new Set(), doubted = new Set(); // ids of what the tail told as unknown, and of what was read again

/** The ids that this is about. Where no filter chooses, each outcome comes by itself. */
function undecided() {
  if (!tail.running || !active(view.state).some((name) => name !== 'scope')) return [];
  return log.entries.filter((entry) => entry.status === 'unknown' && !told.has(entry.id) && !doubted.has(entry.id)).map((entry) => entry.id);
}

function doubt() {
  const ids = undecided();
  if (ids.length === 0) return;
  doubted = new Set([...doubted, ...ids].slice(-mostWaiting));
  anew();
}

/** Reads the list again, when nobody reads it. */
function anew() {
  if (paused) missed = true;
  else loadList(true);
}

/** Says what is in the list. */
function listed() {
  unlock();
  const { entries } = page, total = page.totalIsCapped ? `more than ${number(Number(page.total))}` : number(Number(page.total));
  const at = history.state?.trail?.length ?? 0, first = at * pageSize + 1;
  const deep = view.state.cursor && !at; // from a link: nobody knows which page it is
  const { activeElement: focused } = document;
  $('count').textContent = entries.length === 0 ? '' : deep ? `${number(entries.length)} of ${total}` : `${number(first)}–${number(first + entries.length - 1)} of ${total}`;
  $('table').hidden = entries.length === 0;
  $('pager').hidden = entries.length === 0 && !view.state.cursor || !view.state.cursor && !page.nextCursor;
  $('newest').hidden = !view.state.cursor;
  $('newer').disabled = at === 0;
  $('older').disabled = !page.nextCursor;
  $('page').textContent = deep ? '' : `Page ${number(at + 1)}`;
  if (focused?.disabled || focused?.closest('[hidden]')) $('log').focus({ preventScroll: true }); // the end of the pages
  if (entries.length === 0) empty();
  else notice(null);
  offerAccount();
  announce(entries.length === 0 ? 'No entries' : `${entries.length} entries of ${total}`);
}

function older() {
  if (!page.nextCursor || $('older').disabled) return;
  const trail = [...(history.state?.trail ?? []), view.state.cursor].slice(-1000);
  turn(page.nextCursor, trail);
}

function newer() {
  const trail = [...(history.state?.trail ?? [])];
  if (trail.length > 0) turn(trail.pop(), trail);
}

function turn(cursor, trail) {
  commit({ cursor }, 'push', { trail });
  if ($('log').getBoundingClientRect().top < 0) $('log').scrollIntoView();
}

// --- what is said instead of entries

/** Shows a notice in place of the list, or takes it away. */
function notice(kind, title, text, ...actions) {
  const box = $('notice'), focused = box.contains(document.activeElement);
  box.hidden = kind === null;
  box.className = 'notice ' + kind;
  box.replaceChildren(...(kind === null ? [] : [el('h3', { text: title }), el('p', { text }), el('p', { class: 'ways' }, ...actions)]));
  if (focused) $('log').focus({ preventScroll: true });
}

const way = (text, f) => el('button', { type: 'button', class: 'button', text, on: { click: f } });

function empty() {
  const set = active(view.state).filter((name) => name !== 'scope');
  if (view.state.cursor) return notice('empty', 'No older entries', 'This is the end of the log.', way('Newest', () => commit({ cursor: '' })));
  const typed = view.access?.everything && view.state.q !== '' ? ' A text does not find what was typed to sign in, which entries have masked.' : '';
  if (set.length > 0) return notice('empty', 'No entries match', 'Nothing in this time fits the filters.' + typed, toAccount(), way('Clear the filters', () => commit(cleared(view.state))), longer());
  notice('empty', 'No entries', isRange(view.state.range) ? 'Nothing was recorded in this time. Entries come as soon as somebody signs in, or tries to.' : 'Nothing was recorded in this time.', longer());
}

/** The way from a text that looks like an account to the attempts on it, for whom may ask for those. */
function toAccount() {
  const { q } = view.state;
  if (!view.access?.everything || !isAccount(q)) return null;
  return way('Look for attempts on this account', () => commit({ q: '', userId: '', identifierHash: '', identifier: q, cursor: '' }));
}

/** Offers that way beside entries that have the text elsewhere. */
function offerAccount() {
  const go = $('table').hidden ? null : toAccount(), box = $('account'), focused = box.contains(document.activeElement);
  box.hidden = go === null;
  box.replaceChildren(...(go === null ? [] : [el('span', { text: 'These have the text in them. What was typed to sign in is masked, and not among them.' }), go]));
  if (focused) $('log').focus({ preventScroll: true });
}

const longer = () => (view.state.range === '90d' || span(view.state).from === null ? null : way('Look at 90 days', () => commit({ range: '90d', from: '', to: '', cursor: '' })));

/** Says why there is no list. */
function refused(failure) {
  if (!(failure instanceof Failure)) throw failure;
  const again = way('Try again', start), { state } = view;
  log.show([]);
  $('table').hidden = $('pager').hidden = true;
  $('count').textContent = '';
  offerAccount();
  if (failure.status === 401 || failure.status === 403) lock();
  if (failure.code === 'SENT_AWAY') notice('locked', 'Sign in again', failure.message, way('Load the page again', () => location.reload()));
  else if (failure.status === 401) notice('locked', 'Sign in first', 'This log is shown to those who are signed in. Sign in at this site, then come back here.', again, el('a', { class: 'button', href: '/', text: 'Go to the site' }));
  else if (failure.status === 403) notice('locked', 'Not allowed', failure.message, again, active(state).length ? way('Show what I may see', () => commit({ ...cleared(state), scope: '' })) : null);
  else if (failure.code === 'QUERY_TOO_SLOW') notice('problem', 'This search takes too long', 'No index helps with it in so many entries. Choose less time, or a filter instead of text.', toAccount(), state.q ? way('Take out the text', () => commit({ q: '', cursor: '' })) : null, way('Look at the last hour', () => commit({ range: '1h', from: '', to: '', cursor: '' })), again);
  else if (failure.status === 429) wait(failure.retryAfter || 10, again);
  else if (failure.status === 400 && state.cursor) notice('problem', 'This page is gone', failure.message, way('Newest', () => commit({ cursor: '' })));
  else if (failure.status === 400) notice('problem', 'This cannot be asked', failure.message, way('Clear the filters', () => commit({ ...cleared(state), range: defaultRange, from: '', to: '' })));
  else notice('problem', failure.status === 0 ? 'No connection' : 'The log cannot be read', failure.message, again);
  announce($('notice').querySelector('h3').textContent);
}

/** Too many requests: tries again by itself. */
function wait(seconds, again) {
  notice('problem', 'Too many requests', `Trying again in ${number(seconds)} seconds.`, again);
  retry = setTimeout(start, seconds * 1000);
}

function lock() {
  waiting.clear(); // is not theirs any more
  incoming = [];
  missed = false;
  tail.stop();
  document.body.classList.add('locked');
}

function unlock() { document.body.classList.remove('locked'); }

// --- the timeline

let counting = null, owedChart = true; // a chart that somebody asked for, and that did not come yet

async function loadTimeline(quietly = false) {
  if (view.access && !view.access.can.histogram) return;
  counting?.abort();
  const asked = counting = new AbortController();
  if (!quietly) owedChart = true;
  try {
    await timeline.load(asked.signal, quietly);
    owedChart = false;
  } catch (failure) {
    if (asked.signal.aborted) return;
    if (!(failure instanceof Failure)) throw failure;
    if (!owedChart && failure.status !== 501) {
      dirty = true; // what is there stays, and is counted again some time
      return;
    }
    owedChart = false;
    $('timeline').hidden = failure.status === 501;
    timeline.fail(failure);
  }
}

// --- the live tail

let paused = false, dirty = false, said = 0, trimmed = 0, moved = Date.now(), incoming = [];
let missed = false; // more came than can be held: the list has to be read again
let newest = ''; // createdAt of the newest entry of the list, when it was read: what is newer is not in page.total
let unsure = false; // page.total may not count all: it is asked for again, some time
const waiting = new Map();

/** What came before the tail has to be fetched, and whatever it told before may have changed. */
function opened() {
  told = new Set();
  doubted = new Set();
  anew();
}

function follow() {
  pause(false);
  tail.start(selection(view.state));
}

function toggleLive() {
  if ($('live').hidden) return;
  if (tail.running) return tail.stop();
  if (view.state.cursor || view.state.to) commit({ range: view.lastRange, from: '', to: '', cursor: '' });
  follow();
}

function pause(on) {
  paused = on;
  $('pause').textContent = on ? 'Resume' : 'Pause';
  $('pause').setAttribute('aria-pressed', String(on));
  if (on) return;
  const again = missed && tail.running && !view.state.cursor; // the list has what waits, and newer versions of it
  if (!again) for (const entry of waiting.values()) keepIncoming(entry);
  waiting.clear();
  showFresh();
  if (!again) return flush();
  missed = false;
  loadList(true);
}

function arrived(entry) {
  dirty = true;
  told.delete(entry.id);
  if (entry.status === 'unknown' && told.add(entry.id).size > mostWaiting) told.delete(told.values().next().value);
  if (paused) {
    waiting.delete(entry.id);
    waiting.set(entry.id, entry);
    if (waiting.size > mostWaiting) {
      waiting.delete(waiting.keys().next().value);
      missed = true;
    }
    return showFresh();
  }
  if (listing && meanwhile.push(entry) > mostWaiting) {
    meanwhile.shift();
    missed = true;
  }
  keepIncoming(entry);
  if (incoming.length === 1) requestAnimationFrame(flush); // which browsers do not do for a page that nobody sees
}

/** An entry that was shown or waits has changed, and is none of these any more. */
function left(id) {
  waiting.delete(id);
  if (paused) showFresh();
  const others = (entry) => entry.id !== id;
  incoming = incoming.filter(others);
  meanwhile = meanwhile.filter(others);
  told.delete(id);
  if (listing) gone.add(id);
  dirty = unsure = true;
  if (log.remove(id)) {
    counted(-1);
    emptied();
  }
  detail.left(id);
}

/** The last row has gone. */
function emptied() {
  if (log.size > 0 || listing) return;
  if (page.nextCursor) return anew(); // others move up
  page = { entries: [], total: 0 };
  listed();
}

function keepIncoming(entry) {
  if (incoming.push(entry) <= mostWaiting) return;
  incoming.shift();
  missed = true;
}

function showFresh() {
  $('fresh').hidden = waiting.size === 0;
  $('fresh').textContent = `${waiting.size >= mostWaiting ? 'More than ' : ''}${number(waiting.size)} new: show`;
}

function flush() {
  const entries = incoming;
  incoming = [];
  if (view.state.cursor) missed = false; // of another page
  if (entries.length === 0 || view.state.cursor || owed && !listing) return; // the list that was refused brings them
  const last = page.nextCursor ? log.oldest?.createdAt ?? '' : ''; // older ones are on another page
  if (log.size === 0) { // there was a notice in place of the table
    $('table').hidden = false;
    notice(null);
    offerAccount();
  }
  let fresh = 0;
  for (const entry of entries) {
    detail.update(entry);
    if (entry.createdAt < last && !log.find(entry.id)) unsure = true;
    else if (!log.upsert(entry)) continue;
    else if (entry.createdAt <= newest) unsure = true; // it was counted, unless it has only come to fit
    else fresh++;
  }
  counted(fresh);
  if (fresh > 0 && Date.now() - said > 5000) {
    said = Date.now();
    announce(`${fresh} new ${fresh === 1 ? 'entry' : 'entries'}`);
  }
  if ((log.size > mostRows || missed) && Date.now() - trimmed > 5000) {
    trimmed = Date.now();
    missed = false;
    loadList(true);
  }
  log.trim(3 * mostRows);
}

/** Asks how many there are, and leaves the rows alone: somebody may be reading them. */
async function recount() {
  const asked = view.state, params = query(asked);
  params.set('limit', 1);
  unsure = false;
  try {
    const now = await get('list', params);
    if (asked !== view.state || listing) return;
    const known = now.entries[0]?.createdAt ?? '';
    newest = known > newest ? known : newest;
    Object.assign(page, { total: Number(now.total) + log.entries.filter((entry) => entry.createdAt > known).length, totalIsCapped: now.totalIsCapped });
    counted(0);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    unsure = true; // some other time
  }
}

/** A range that ends now has moved. */
function move() {
  moved = Date.now();
  dirty = unsure = true;
  if (log.expire(new Date(span(view.state).from).toISOString()) > 0) {
    counted(0);
    emptied();
  }
}

/** Says how many there are, so many more than before. */
function counted(more) {
  page.total = Math.max(0, Number(page.total) + more);
  $('count').textContent = log.size === 0 ? '' : `${number(log.size)} of ${page.totalIsCapped ? 'more than ' : ''}${number(page.total)}`;
}

setInterval(() => {
  if (paused || document.hidden) return;
  if (tail.running && isRange(view.state.range) && Date.now() - moved > moveEvery) move();
  if (missed && tail.running && !view.state.cursor && !listing) {
    missed = false;
    loadList(true);
  } else if (unsure && !owed && tail.running && !view.state.cursor && !listing) recount();
  if (!dirty) return;
  dirty = false;
  loadTimeline(true);
}, chartEvery);

function tailState(state, message) {
  const running = tail.running, { activeElement: focused } = document;
  $('live').setAttribute('aria-pressed', String(running));
  $('live').dataset.state = state;
  $('pause').hidden = !running;
  $('live-state').textContent = { [connecting]: 'Connecting', [open]: '', [lost]: 'Disconnected, trying again', [ended]: `Live has ended: ${visible(message)}` }[state] ?? '';
  if (!running) pause(false);
  if (focused?.closest('[hidden]')) $('live').focus({ preventScroll: true });
}

// --- the head

/** The links of the export follow the filters. */
function exports() {
  for (const format of ['csv', 'jsonl', 'parquet']) {
    const params = query(view.state);
    params.set('format', format);
    $('export-' + format).href = 'export?' + params;
  }
}

function menu(show) {
  if (show) exports(); // a range that moves has moved
  $('export-menu').hidden = !show;
  for (const part of document.querySelector('main').children) part.inert = show; // the menu lies over them
  $('export-button').setAttribute('aria-expanded', String(show));
}

const themes = { auto: 'automatic', light: 'light', dark: 'dark' };

function showTheme() {
  const now = document.documentElement.dataset.theme ?? 'auto';
  $('theme').querySelector('use').setAttribute('href', '#i-' + now);
  $('theme').setAttribute('aria-label', `Theme: ${themes[now]}`);
  $('theme').title = `Theme: ${themes[now]} (t)`;
}

function nextTheme() {
  const order = Object.keys(themes), root = document.documentElement;
  const next = order[(order.indexOf(root.dataset.theme ?? 'auto') + 1) % order.length];
  if (next === 'auto') delete root.dataset.theme;
  else root.dataset.theme = next;
  keep('theme', next);
  showTheme();
  timeline.draw();
}

function keep(name, text) {
  try { localStorage.setItem('audit-log-' + name, text); } catch { /* it holds until the page is left */ }
}

function kept(name) {
  try { return localStorage.getItem('audit-log-' + name); } catch { return null; }
}

// --- the keyboard

const keys = {
  '/': () => $('f-q').focus(),
  j: () => log.step(1),
  k: () => log.step(-1),
  n: older,
  p: newer,
  l: toggleLive,
  t: nextTheme,
  '?': () => $('help').showModal(),
};

function pressed(event) {
  if (event.key === 'Escape' && !$('export-menu').hidden) {
    menu(false);
    return $('export-button').focus();
  }
  const { target } = event, writes = target.matches?.('input, select, textarea, [contenteditable]');
  if (event.key === 'Escape' && writes) return target.blur();
  if (!view.keys || writes || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  const act = Object.hasOwn(keys, event.key) && keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

// --- the beginning

/** Asks who is there, and shows what that one may see. */
async function admit() {
  try {
    view.access = await get('access');
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    return; // the list says why
  }
  const { surface, userId, can } = view.access;
  $('title').textContent = surface === 'own' ? (view.access.everything ? 'Audit log' : 'Your activity') : 'Audit log';
  $('surface').hidden = false;
  $('surface').textContent = surface === 'own' ? visible(userId ?? '') : 'operator';
  document.title = $('title').textContent;
  $('live').hidden = !can.tail;
  $('export').hidden = !can.export;
  $('timeline').hidden = !can.histogram;
  fields.allow(view.access);
  offerAccount();
  if ($('notice').className === 'notice empty' && !$('notice').hidden) empty();
  detail.again();
}

function start() {
  admit();
  loadList();
  loadTimeline();
  detail.show();
}

function setUp() {
  const on = (id, f) => $(id).addEventListener('click', () => {
    f();
    if ($(id).closest('[hidden]')) $('log').focus({ preventScroll: true }); // a button that is gone has no focus
  });
  fields.setUp(view);
  on('older', older);
  on('newer', newer);
  on('newest', () => commit({ cursor: '' }));
  on('refresh', () => { admit(); loadList(); loadTimeline(); });
  on('live', toggleLive);
  on('pause', () => pause(!paused));
  on('fresh', () => pause(false));
  on('theme', nextTheme);
  on('help-button', () => $('help').showModal());
  on('help-close', () => $('help').close());
  on('export-button', () => menu($('export-menu').hidden));
  document.addEventListener('click', (event) => event.target.closest('#export') && !event.target.closest('a') || menu(false));
  document.addEventListener('keydown', pressed);
  addEventListener('popstate', () => become(read(location.search)));
  view.keys = kept('keys') !== 'off';
  $('keys-on').checked = view.keys;
  $('keys-on').addEventListener('change', (event) => keep('keys', (view.keys = event.target.checked) ? 'on' : 'off'));
  if (isRange(view.state.range)) view.lastRange = view.state.range;
  fields.show(view);
  exports();
  showTheme();
}

setUp();
start();
