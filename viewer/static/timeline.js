// The chart: how many events there were over time, successes above the line and failures
// below it. The same stands in a sentence and in a table. Each event is an entry but in a
// flood, which is rolled up: where there are fewer entries, that is said, too.
import { $, el, number, briefTime, fullTime } from './dom.js';
import { span, query, rangeWords } from './state.js';
import { spanWords } from './filters.js';
import { get } from './api.js';

const second = 1e3, minute = 60e3, hour = 3600e3, day = 24 * hour;
const steps = [10, 50, 100, 200, 500, second, 2 * second, 5 * second, 10 * second, 15 * second, 30 * second, minute, 2 * minute, 5 * minute, 10 * minute, 15 * minute, 30 * minute, hour, 2 * hour, 3 * hour, 6 * hour, 12 * hour, day, 2 * day, 7 * day, 30 * day, 91 * day, 365 * day];
const names = ['success', 'pending', 'failed', 'unknown'];
const words = { success: 'succeeded', pending: 'pending', failed: 'failed', unknown: 'unknown' };
const shortest = 100; // milliseconds that a zoom leaves

/** The step for a span, so that there are at most that many. */
const stepFor = (from, to, most) => steps.find((s) => (to - from) / s <= most) ?? steps.at(-1);

export class Timeline {
  #view; #plot = null; #data = null; #asked = null;

  constructor(view) {
    this.#view = view;
    const zoom = (factor) => () => this.#move((from, to) => [(from + to) / 2 - (to - from) * factor / 2, (from + to) / 2 + (to - from) * factor / 2]);
    const pan = (part) => () => this.#move((from, to) => [from + (to - from) * part, to + (to - from) * part]);
    $('zoom-in').addEventListener('click', zoom(0.5));
    $('zoom-out').addEventListener('click', zoom(2));
    $('pan-back').addEventListener('click', pan(-0.5));
    $('pan-on').addEventListener('click', pan(0.5));
    $('zoom-reset').addEventListener('click', () => {
      view.commit({ range: this.#before(), from: '', to: '', cursor: '' });
      $('zoom-out').focus({ preventScroll: true }); // it is hidden now
    });
    new ResizeObserver(() => this.#fit()).observe($('chart'));
    $('uplot').addEventListener('load', () => this.draw());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  /** The range that Reset zoom goes back to: the last one that was chosen. */
  #before() { return this.#view.lastRange; }

  #move(how) {
    const { from, to } = span(this.#view.state);
    if (from === null) return;
    this.#zoom(...how(from, to));
  }

  /** Looks at another time, never beyond now. */
  #zoom(from, to) {
    const now = Date.now();
    const wide = Math.min(Math.max(to - from, shortest), now);
    to = Math.min(Math.max(to, wide), now);
    this.#view.commit({ range: 'custom', from: new Date(Math.max(0, to - wide)).toISOString(), to: new Date(to).toISOString(), cursor: '' });
  }

  /** Asks for the counts of the state. Throws what the API throws. */
  async load(signal, quietly) {
    const { state } = this.#view, { from, to: end } = span(state), to = Math.min(end, Date.now());
    $('zoom-reset').hidden = state.range !== 'custom';
    for (const id of ['zoom-in', 'zoom-out', 'pan-back', 'pan-on']) $(id).disabled = from === null;
    $('pan-on').disabled ||= state.range !== 'custom' || !state.to;
    if (from === null || from >= to) return this.#say(from === null ? 'Choose a start to see the entries over time.' : 'The start is after the end, or after now.');
    if (!quietly) $('timeline').setAttribute('aria-busy', 'true');
    const step = stepFor(from, to, Math.min(180, Math.max(24, Math.floor($('chart').clientWidth / 7))));
    const params = query(state);
    params.set('from', new Date(from).toISOString());
    params.set('to', new Date(to).toISOString());
    params.set('step', step);
    try {
      const found = await get('histogram', params, signal);
      this.#asked = { from, to, step };
      this.#take(found.buckets.map((b) => ({
        at: Date.parse(b.at), entries: names.reduce((total, n) => total + Number(b[n] ?? 0), 0),
        ...Object.fromEntries(names.map((n) => [n, Number(b.events?.[n] ?? b[n] ?? 0)])),
      })));
    } finally {
      if (!signal?.aborted) $('timeline').removeAttribute('aria-busy');
    }
  }

  /** Shows a sentence instead of the chart. */
  #say(sentence) {
    this.#data = null;
    $('timeline').removeAttribute('aria-busy');
    this.#plot?.destroy();
    this.#plot = null;
    $('summary').textContent = sentence;
    $('chart-table').replaceChildren();
    $('chart').classList.add('none');
  }

  /** What is said when the counts are not to be had. */
  fail(failure) {
    this.#say(failure.code === 'QUERY_TOO_SLOW' ? 'Counting takes too long here: choose less time, or take out the text.' : failure.message);
  }

  #take(buckets) {
    const { from, to, step } = this.#asked;
    const first = Math.floor(from / step) * step, n = Math.floor((to - first) / step) + 1;
    const columns = Object.fromEntries([...names, 'entries'].map((name) => [name, new Array(n).fill(0)]));
    for (const b of buckets) {
      const i = Math.round((b.at - first) / step);
      if (i >= 0 && i < n) for (const name in columns) columns[name][i] = b[name];
    }
    const at = Array.from({ length: n }, (_, i) => first + i * step);
    this.#data = { at, columns, buckets, step };
    $('chart').classList.remove('none');
    this.#describe();
    this.draw();
  }

  /** The chart as a sentence and as a table. */
  #describe() {
    const { buckets, step } = this.#data, { state } = this.#view;
    const total = Object.fromEntries(names.map((name) => [name, buckets.reduce((sum, b) => sum + b[name], 0)]));
    const all = { ...total, entries: buckets.reduce((sum, b) => sum + b.entries, 0) };
    const when = rangeWords[state.range] ? `in ${rangeWords[state.range]}` : spanWords(state);
    if (sum(all) === 0) {
      $('summary').textContent = `Nothing ${when}`;
      $('chart-table').replaceChildren();
      return;
    }
    const parts = names.filter((name) => total[name]).map((name) => `${number(total[name])} ${words[name]}`);
    const most = buckets.reduce((a, b) => (sum(b) > sum(a) ? b : a));
    const count = flooded(all) ? `${number(sum(all))} events in ${entriesOf(all)}` : number(sum(all));
    $('summary').textContent = `${count} ${when}: ${parts.join(', ')}`;
    $('chart-table').replaceChildren(el('p', { text: `The most, ${number(sum(most))}, at ${spell(most.at, step)}.` }), table(buckets, step));
  }

  /** Draws the data again: it changed, or the colours did. */
  draw() {
    if (!this.#data || !$('chart').clientWidth || typeof uPlot === 'undefined') return; // the script is still on its way
    const { at, columns } = this.#data;
    const over = (lower, upper, sign) => upper.map((n, i) => n && sign * (n + lower[i])); // stands out beyond the lower one
    const up = over(columns.success, columns.pending, 1), down = over(columns.failed, columns.unknown, -1);
    const drawn = (column) => column.map((n) => n || null); // nothing is no bar
    const data = [at.map((t) => t / 1000), ...[up, columns.success, down, columns.failed.map((n) => -n)].map(drawn)];
    this.#plot?.destroy();
    $('chart').replaceChildren();
    this.#plot = new uPlot(this.#options(), data, $('chart'));
    this.#plot.over.addEventListener('click', () => this.#click());
  }

  #options() {
    const colour = (name) => getComputedStyle(document.querySelector('.swatch.' + name)).backgroundColor;
    const style = getComputedStyle($('hover')), ink = style.color, grid = getComputedStyle($('chart')).borderTopColor;
    const font = '12px ' + style.fontFamily;
    const bars = uPlot.paths.bars({ size: [0.86, 60], align: 1, gap: 1 });
    const series = (name) => ({ label: name, fill: colour(name), stroke: colour(name), width: 0, paths: bars, points: { show: false } });
    const { from, to, step } = this.#asked, { at } = this.#data;
    const left = Math.min(from, at[0]) / 1000, right = Math.max(to, at.at(-1) + step) / 1000;
    return {
      width: $('chart').clientWidth, height: $('chart').clientHeight, padding: [8, 30, 0, 0],
      legend: { show: false },
      scales: { x: { time: true, range: () => [left, right] }, y: { range: (_, min, max) => yRange(min, max) } },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
      axes: [
        { stroke: ink, font, grid: { show: false }, ticks: { stroke: grid, width: 1, size: 4 }, size: 30, space: 84, values: (_, splits, __, ___, incr) => splits.map((s) => tick(s * 1000, incr)) },
        { stroke: ink, font, grid: { stroke: grid, width: 1 }, ticks: { show: false }, size: 52, space: 30, incrs: whole, values: (_, splits) => splits.map((n) => compact.format(Math.abs(n))) },
      ],
      series: [{}, series('pending'), series('success'), series('unknown'), series('failed')],
      hooks: {
        setSelect: [(u) => this.#select(u)],
        setCursor: [(u) => this.#hover(u)],
        draw: [(u) => baseline(u, ink)],
      },
    };
  }

  #select(u) {
    if (u.select.width < 4) return;
    const at = (x) => Math.round(u.posToVal(x, 'x') * 1000);
    this.#dragged = Date.now();
    this.#zoom(at(u.select.left), at(u.select.left + u.select.width));
  }
  #dragged = 0;

  /** A click on a bar looks into it. */
  #click() {
    const bucket = this.#under(this.#plot);
    if (Date.now() - this.#dragged < 300 || !bucket || bucket.step <= shortest || sum(bucket) === 0) return;
    this.#zoom(bucket.at, bucket.at + bucket.step);
  }

  /** The step under the cursor; the index that uPlot finds is that of the nearest one. */
  #under(u) {
    if (u.cursor.left < 0 || !this.#data) return null;
    const { at, columns, step } = this.#data;
    const i = Math.floor((u.posToVal(u.cursor.left, 'x') * 1000 - at[0]) / step);
    return i < 0 || i >= at.length ? null : { at: at[i], step, ...Object.fromEntries(Object.keys(columns).map((name) => [name, columns[name][i]])) };
  }

  #hover(u) {
    const bucket = this.#under(u);
    $('hover').textContent = !bucket ? 'Drag over the chart to zoom, click a bar to look into it'
      : `${spell(bucket.at, bucket.step)}: ${names.filter((name) => bucket[name]).map((name) => `${number(bucket[name])} ${words[name]}`).join(', ') || 'nothing'}${flooded(bucket) ? ` (${entriesOf(bucket)})` : ''}`;
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = $('chart');
    if (!width || !height) return;
    if (this.#plot) this.#plot.setSize({ width, height });
    else this.draw(); // it was hidden
  }
}

const compact = new Intl.NumberFormat(undefined, { notation: 'compact' });
const whole = [1, 2, 5].flatMap((n) => Array.from({ length: 12 }, (_, e) => n * 10 ** e)).sort((a, b) => a - b);
const sum = (b) => names.reduce((total, name) => total + b[name], 0);
const flooded = (b) => sum(b) > b.entries;
const entriesOf = (b) => `${number(b.entries)} ${b.entries === 1 ? 'entry' : 'entries'}`;

/** Both ends of the upright axis: at least one, with some air. */
function yRange(min, max) {
  const air = Math.max(max, -min, 1) * 0.06;
  return [min < 0 ? min - air : 0, Math.max(max, min < 0 ? 0 : 1) + air];
}

/** The line between successes and failures. */
function baseline(u, ink) {
  const y = Math.round(u.valToPos(0, 'y', true)) + 0.5, { ctx } = u;
  ctx.save();
  ctx.strokeStyle = ink;
  ctx.globalAlpha = 0.6;
  ctx.beginPath();
  ctx.moveTo(u.bbox.left, y);
  ctx.lineTo(u.bbox.left + u.bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

const dateTick = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });
const monthTick = new Intl.DateTimeFormat(undefined, { month: 'short', year: 'numeric' });
const clockTick = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const secondTick = new Intl.DateTimeFormat(undefined, { minute: '2-digit', second: '2-digit', fractionalSecondDigits: 1 });

/** The text below a mark of the time axis; incr is the seconds between two. */
function tick(ms, incr) {
  const date = new Date(ms), midnight = date.getHours() + date.getMinutes() + date.getSeconds() === 0;
  if (incr >= 28 * 86400) return monthTick.format(date);
  if (incr >= 86400 || midnight) return dateTick.format(date);
  return (incr >= 30 ? clockTick : incr >= 1 ? fullClock : secondTick).format(date);
}
const fullClock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

const dayUTC = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', timeZone: 'UTC' });

/** A step as words. Days are those of UTC, as the server counts them. */
function spell(at, step) {
  const from = new Date(at), to = new Date(at + step);
  if (step < minute) return fullTime(from);
  if (step === day) return `${dayUTC.format(from)} UTC`;
  if (step > day) return `${dayUTC.format(from)} – ${dayUTC.format(new Date(to - day))} UTC`;
  return `${briefTime(from)} – ${clockTick.format(to)}`;
}

function table(buckets, step) {
  const flood = buckets.some(flooded), columns = flood ? [...names, 'entries'] : names;
  const head = el('tr', {}, el('th', { scope: 'col', text: 'Time' }), ...columns.map((name) => el('th', { scope: 'col', text: name })));
  const rows = buckets.map((b) => el('tr', {}, el('th', { scope: 'row', text: spell(b.at, step) }), ...columns.map((name) => el('td', { text: number(b[name]) }))));
  return el('table', {}, el('caption', { text: flood ? 'Events over time, and the entries that tell of them' : 'Entries over time' }), el('thead', {}, head), el('tbody', {}, ...rows));
}
