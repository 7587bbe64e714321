// The live tail: a stream of entries, opened again when it breaks, until the server says
// that it is over.
import { address, get, parse } from './api.js';

/** What the tail may be. */
export const off = 'off', connecting = 'connecting', open = 'open', lost = 'lost', ended = 'ended';
const longest = 30e3; // milliseconds between two tries

export class Tail {
  #source = null; #timer = 0; #tries = 0; #params = null; #run = 0;

  /** onEntry(entry); onLeft(id): an entry is none of these any more; onMissed(): not all is told; onState(state, message); onOpen(): what came meanwhile has to be fetched. */
  constructor({ onEntry, onLeft, onMissed, onState, onOpen }) {
    Object.assign(this, { onEntry, onLeft, onMissed, onState, onOpen, state: off });
  }

  get running() { return this.state !== off && this.state !== ended; }

  start(params) {
    this.stop();
    this.#params = params;
    this.#tries = 0;
    this.#set(connecting);
    this.#connect();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#run++; // a question that is under way is of the one before
    this.#source?.close();
    this.#source = null;
    if (this.state !== off) this.#set(off);
  }

  #set(state, message = '') {
    this.state = state;
    this.onState(state, message);
  }

  #connect() {
    const source = this.#source = new EventSource(address('tail', this.#params));
    source.addEventListener('open', () => {
      this.#tries = 0;
      this.#set(open);
      this.onOpen();
    });
    source.addEventListener('entry', (event) => this.onEntry(parse(event.data)));
    source.addEventListener('left', (event) => this.onLeft(parse(event.data).id));
    source.addEventListener('missed', () => this.onMissed());
    source.addEventListener('end', (event) => this.#end(parse(event.data)));
    source.addEventListener('error', () => {
      if (source !== this.#source) return;
      this.#set(lost);
      if (source.readyState === EventSource.CLOSED) this.#again(); // refused: browsers do not try again
    });
  }

  /** The server closed for good; but a server that starts anew is worth another try. */
  #end({ code, message }) {
    this.#source.close();
    this.#source = null;
    if (['UNAUTHORIZED', 'FORBIDDEN'].includes(code)) return this.#set(ended, message);
    this.#set(lost);
    this.#again();
  }

  #again() {
    this.#source = null;
    const wait = Math.min(longest, 1000 * 2 ** this.#tries++) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#retry(), wait);
  }

  /** An EventSource does not say why it was refused; access does. */
  async #retry() {
    const run = this.#run;
    try {
      await get('access');
    } catch (failure) {
      if (run !== this.#run) return;
      if ([401, 403].includes(failure.status)) return this.#set(ended, failure.message);
      if (this.state === lost) this.#again();
      return;
    }
    if (run === this.#run && this.state === lost) this.#connect();
  }
}
