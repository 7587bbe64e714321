// Building the page out of nodes. Everything that comes from the log becomes text here,
// never markup.

/** The element with that id. */
export const $ = (id) => document.getElementById(id);

/** A new element. props.text is its text, props.on its listeners, the others are attributes. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'text') node.textContent = value;
    else if (name === 'on') for (const [event, f] of Object.entries(value)) node.addEventListener(event, f);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

const svgNS = 'http://www.w3.org/2000/svg';

/** An icon of the sprite in index.html. */
export function icon(name, className = 'icon') {
  const svg = document.createElementNS(svgNS, 'svg');
  svg.setAttribute('class', className);
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(svgNS, 'use');
  use.setAttribute('href', '#i-' + name);
  svg.append(use);
  return svg;
}

// What would not be seen, or would turn the text around it: controls, the bidirectional
// ones, zero widths, line separators, lone surrogates.
const unseen = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]|\p{Surrogate}/gu;

/** Text as it can be shown: what is not to be seen is spelled out, such as \u202e. */
export function visible(text) {
  return String(text).replace(unseen, (c) => '\\u' + c.codePointAt(0).toString(16).padStart(4, '0'));
}

/** An element that holds a text of the log. */
export function value(text, className = '') {
  return el('bdi', { class: className || null, text: visible(text) });
}

/** Says something to screen readers. */
export function announce(text) {
  $('announce').textContent = text;
}

const count = new Intl.NumberFormat();
/** A count with its thousands apart. */
export const number = (n) => count.format(n);

const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const short = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit' });
const brief = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: 'auto', style: 'short' });
/** The browser's time zone, such as Europe/Berlin. */
export const zone = full.resolvedOptions().timeZone;

/** A moment in full, in the browser's time zone. */
export const fullTime = (date) => full.format(date);
/** A moment without seconds. */
export const briefTime = (date) => brief.format(date);
/** A moment with the year only when it is not this one. */
export const shortTime = (date) => (date.getFullYear() === new Date().getFullYear() ? short : full).format(date);

/** How long ago. */
export function ago(date, now = Date.now()) {
  const seconds = (date - now) / 1000;
  for (const [unit, size] of [['day', 86400], ['hour', 3600], ['minute', 60]]) {
    if (Math.abs(seconds) >= size) return relative.format(Math.trunc(seconds / size), unit);
  }
  return seconds > -5 ? 'just now' : relative.format(Math.trunc(seconds), 'second');
}

const classWords = new Map([['mfa', 'second factor'], ['admin', 'administration']]);
/** The word for a class of entries. */
export const className = (c) => classWords.get(c) ?? visible(c);

/** Status or severity: an icon and a word, so that it is never the colour alone. */
export function badge(kind, name) {
  const known = ['success', 'failed', 'pending', 'unknown', 'low', 'medium', 'high', 'critical'].includes(name);
  return el('span', { class: `badge ${kind} ${known ? name : ''}` }, known ? icon(name, kind === 'severity' ? 'bars' : 'icon') : null, visible(name));
}
