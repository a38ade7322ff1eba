// Asks the agents for their maps, again and again. An agent that does not answer keeps its last map, with since when.

// Between two rounds, and how long an answer may take.
const EVERY_MS = 2_000;
const PATIENCE_MS = 8_000;
// A reading that takes long is asked for less often: at most a tenth of the time is spent on it.
const SHARE = 10;
const SLOWEST_MS = 30_000;
const MOST_AGENTS = 32;

// The agents named in the page's address, `?agents=http://a:9464,http://b:9464`; the one that served the page where none is.
export const sources = (search, own) => {
  const named = (new URLSearchParams(search).get('agents') ?? '').split(',').map((part) => part.trim()).filter(Boolean);
  const valid = [];
  const wrong = [];
  for (const part of named) {
    const url = URL.canParse(part) ? new URL(part) : null;
    if (url && ['http:', 'https:'].includes(url.protocol)) valid.push(url.origin);
    else wrong.push(part);
  }
  const all = [...new Set(valid.length > 0 ? valid : [own])];
  return { agents: all.slice(0, MOST_AGENTS), wrong: [...wrong, ...all.slice(MOST_AGENTS)] };
};

export class Feed {
  constructor(agents, tell) {
    this.states = agents.map((source) => ({ source, map: null, since: null, why: '' }));
    this.tell = tell;
  }

  async start() {
    for (;;) {
      const begin = performance.now();
      await Promise.all(this.states.map((state) => this.#ask(state)));
      const took = performance.now() - begin;
      this.tell(Date.now(), this.states);
      const answering = this.states.some((state) => state.since === null);
      const pause = Math.min(SLOWEST_MS, Math.max(EVERY_MS, answering ? took * SHARE : EVERY_MS)) - took;
      await new Promise((resolve) => { setTimeout(resolve, Math.max(250, pause)); });
    }
  }

  async #ask(state) {
    try {
      const answer = await fetch(`${state.source}/map.json`, { signal: AbortSignal.timeout(PATIENCE_MS), cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' });
      if (!answer.ok) throw new Error(`it answers with ${answer.status}`);
      state.map = await answer.json();
      state.since = null;
    } catch (error) {
      state.since ??= Date.now();
      state.why = { TimeoutError: 'no answer in time', TypeError: 'no connection' }[error.name] ?? error.message;
    }
  }
}
