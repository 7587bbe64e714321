// The filters: fields that follow the state, and tell of what somebody changes in them.
import { $, el, icon, value, visible, number, className, fullTime } from './dom.js';
import { filters, active, isRange, cleared, span, query } from './state.js';
import { get } from './api.js';

const words = { q: 'text', status: 'outcome', class: 'kind', userId: 'user', ip: 'address', identifier: 'account typed', identifierHash: 'account', scope: 'whose' };
/** The word for a filter. */
export const filterWord = (name) => words[name] ?? name;

/** Puts the filters to work; commit(patch) is called with what changed. */
export function setUp(view) {
  const form = $('filters');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    view.commit(typed(form));
  });
  form.addEventListener('change', (event) => {
    const name = event.target.name;
    if (name === 'from' || name === 'to') dated(view, event.target);
    else if (filters.includes(name)) view.commit({ ...typed(form), cursor: '' });
  });
  // The cross in a search field, and Escape, empty it without a change event.
  form.elements.q.addEventListener('search', () => view.commit(typed(form)));
  $('ranges').addEventListener('click', (event) => choose(view, event.target.dataset.range));
  $('more').addEventListener('click', () => {
    const open = form.classList.toggle('unfolded');
    $('more').setAttribute('aria-expanded', String(open));
  });
  form.elements.action.addEventListener('focus', () => suggest(view));
}

/** What the fields hold. A field that is not offered keeps its value. */
function typed(form) {
  const patch = { cursor: '' };
  for (const name of filters) if (form.elements[name]) patch[name] = form.elements[name].value.trim();
  return patch;
}

function choose(view, range) {
  if (isRange(range)) view.commit({ range, from: '', to: '', cursor: '' });
  else if (range === 'custom' && view.state.range !== 'custom') {
    const { from } = span(view.state);
    view.commit({ range, from: new Date(from).toISOString(), to: '', cursor: '' });
    $('filters').elements.from.focus();
  }
}

/** Takes a field of local time. Browsers tell of each digit of a year: 2026 is 2, 20 and 202 first. */
function dated(view, field) {
  const date = new Date(field.value);
  if (field.value && !shown(date)) return;
  if (field.name === 'to') date.setMilliseconds(999); // a second counts to its end
  view.commit({ range: 'custom', [field.name]: field.value ? date.toISOString() : '', cursor: '' });
}

/** Whether a field can show a time, and the log have it. */
const shown = (date) => date.getFullYear() >= 1970 && date.getFullYear() <= 9999;

/** What a field of local time shows. */
function local(iso) {
  const date = new Date(iso || NaN), two = (n) => String(n).padStart(2, '0');
  if (!shown(date)) return '';
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** Shows the state in the fields. */
export function show(view) {
  const { state } = view, form = $('filters');
  for (const name of filters) {
    const field = form.elements[name];
    if (!field) continue;
    // A kind that this page does not know is a kind all the same.
    if (field.options && ![...field.options].some((o) => o.value === state[name])) field.append(el('option', { value: state[name], text: visible(state[name]) }));
    if (field.value !== state[name]) field.value = state[name];
    field.closest('.field')?.classList.toggle('set', state[name] !== '');
  }
  for (const name of ['from', 'to']) {
    const field = form.elements[name];
    if (field !== document.activeElement || !state[name]) field.value = local(state[name]); // not under somebody's fingers
  }
  for (const button of $('ranges').children) button.setAttribute('aria-pressed', String(button.dataset.range === state.range));
  $('custom').hidden = state.range !== 'custom';
  chips(view);
}

/** Shows what the caller may ask for. */
export function allow(access) {
  const own = access.surface === 'own';
  $('field-user').hidden = $('field-identifier').hidden = !access.everything;
  $('field-scope').hidden = !(own && access.everything);
}

function chips(view) {
  const { state } = view, list = $('chips'), set = active(state);
  const at = [...list.querySelectorAll('button')].indexOf(document.activeElement);
  list.replaceChildren(...set.map((name) => chip(view, name)));
  if (set.length > 0) list.append(el('li', {}, el('button', { type: 'button', class: 'link', text: 'Clear all', on: { click: () => view.commit({ ...cleared(state), scope: '' }) } })));
  list.hidden = set.length === 0;
  const left = list.querySelectorAll('button');
  if (at >= 0) (left[Math.min(at, left.length - 1)] ?? $('f-q')).focus({ preventScroll: true });
  const fields = set.filter((name) => name !== 'q').length;
  $('more-count').textContent = fields ? ` (${fields})` : '';
}

function chip(view, name) {
  const v = view.state[name], text = name === 'class' ? className(v) : name === 'scope' ? 'everybody’s' : name === 'userId' && v === 'null' ? 'none' : visible(v);
  const remove = el('button', { type: 'button', 'aria-label': `Remove ${filterWord(name)} ${text}`, on: { click: () => view.commit({ [name]: '', cursor: '' }) } }, icon('close'));
  return el('li', { class: 'chip' }, el('span', { text: filterWord(name) + ' ' }), value(text), remove);
}

let suggested = '';
/** Offers the actions that there are in this time, most frequent first. */
async function suggest(view) {
  if (!view.access?.can.histogram) return;
  const params = query({ ...cleared(view.state), class: view.state.class });
  const key = [view.state.range, view.state.from, view.state.to, view.state.class, view.state.scope].join();
  if (key === suggested) return;
  try {
    const { groups } = await get('tally', params);
    const counts = new Map();
    for (const g of groups) counts.set(g.action, (counts.get(g.action) ?? 0) + Number(g.count));
    const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 100);
    $('actions').replaceChildren(...top.map(([action, n]) => el('option', { value: action, label: `${visible(action)} (${number(n)})` })));
    suggested = key;
  } catch { /* a suggestion less */ }
}

/** The time that is looked at, as words. */
export function spanWords(state) {
  const { from, to } = span(state);
  const end = state.to ? fullTime(new Date(to)) : 'now';
  return from === null ? `until ${end}` : `from ${fullTime(new Date(from))} to ${end}`;
}
