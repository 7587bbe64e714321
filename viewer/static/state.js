// What is looked at: one object, the same as the page's address. Filters have the names
// of the API's parameters.

/** The filters, in the order in which they are shown. */
export const filters = ['q', 'status', 'severity', 'class', 'action', 'userId', 'ip', 'identifier', 'identifierHash', 'scope'];

const hour = 3600e3;
/** The ranges that move along with the time, in milliseconds. */
export const ranges = { '1h': hour, '24h': 24 * hour, '7d': 168 * hour, '30d': 720 * hour, '90d': 2160 * hour };
export const rangeWords = { '1h': 'the last hour', '24h': 'the last 24 hours', '7d': 'the last 7 days', '30d': 'the last 30 days', '90d': 'the last 90 days' };
export const isRange = (name) => Object.hasOwn(ranges, name ?? '');
export const defaultRange = '7d';

/** Reads an address's query. */
export function read(search) {
  const given = new URLSearchParams(search);
  const state = { range: defaultRange, from: '', to: '', cursor: given.get('cursor') ?? '', entry: given.get('entry') ?? '' };
  for (const name of filters) state[name] = given.get(name) ?? '';
  state.from = moment(given.get('from'));
  state.to = moment(given.get('to'));
  const range = given.get('range');
  if (isRange(range)) state.range = range;
  else if (range === 'custom' || state.from || state.to) state.range = 'custom';
  if (state.range !== 'custom') state.from = state.to = '';
  return state;
}

/** A valid time as ISO 8601, or ''. */
function moment(text) {
  const ms = text ? Date.parse(text) : NaN;
  return Number.isNaN(ms) ? '' : new Date(ms).toISOString();
}

/** Writes the address's query, '' for what the page shows by itself. */
export function write(state) {
  const out = new URLSearchParams();
  for (const name of filters) if (state[name]) out.set(name, state[name]);
  if (state.range === 'custom') {
    out.set('range', 'custom');
    if (state.from) out.set('from', state.from);
    if (state.to) out.set('to', state.to);
  } else if (state.range !== defaultRange) out.set('range', state.range);
  if (state.cursor) out.set('cursor', state.cursor);
  if (state.entry) out.set('entry', state.entry);
  const text = out.toString();
  return text ? '?' + text : location.pathname;
}

/** From when to when, in milliseconds; from is null for the whole log. */
export function span(state, now = Date.now()) {
  if (state.range !== 'custom') return { from: now - ranges[state.range], to: now };
  return { from: state.from ? Date.parse(state.from) : null, to: state.to ? Date.parse(state.to) : now };
}

/** The filters as parameters of the API, without the time. */
export function selection(state) {
  const out = new URLSearchParams();
  for (const name of filters) if (state[name]) out.set(name, state[name]);
  return out;
}

/** The filters and the time as parameters of the API. */
export function query(state) {
  const out = selection(state);
  const { from } = span(state);
  if (from !== null) out.set('from', new Date(from).toISOString());
  if (state.range === 'custom' && state.to) out.set('to', state.to);
  return out;
}

/** Whether a text looks like what people sign in with, an e-mail address or a telephone number: entries have it masked, so that no text finds it. */
export const isAccount = (text) => /^[^\s*]+@([\p{L}\d-]+\.)*(\p{L}{2,}|xn--[a-z\d-]+)$/u.test(text) || /^\+(?=(\D*\d){8})[\d ().-]{8,39}$/.test(text);

/** What is in force besides the time. */
export const active = (state) => filters.filter((name) => state[name]);

/** The whole log, as a part of the state. */
export const wholeLog = { range: 'custom', from: '', to: '' };

/** Nothing selected but the time and whose. */
export function cleared(state) {
  const out = { ...state, cursor: '', entry: '' };
  for (const name of filters) if (name !== 'scope') out[name] = '';
  return out;
}
