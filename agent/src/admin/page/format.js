// Numbers as people read them. Pure.

const digits = (number, least = 9.95) => (number === 0 || number >= least ? Math.round(number).toLocaleString('en') : number.toFixed(1));

export const rate = (perSecond) => (perSecond > 0 && perSecond < 0.05 ? '<0.1' : digits(perSecond));
export const count = (number) => Math.round(number).toLocaleString('en');
export const percent = (share) => `${share > 0 && share < 0.0005 ? '<0.1' : digits(share * 100)}\u202f%`;

export const duration = (ns) => {
  if (ns === null || ns === undefined) return '–';
  const [size, unit] = [[1e9, 's'], [1e6, 'ms'], [1e3, 'µs'], [1, 'ns']].find(([least]) => ns >= least) ?? [1, 'ns'];
  return `${digits(ns / size)}\u202f${unit}`;
};

export const bytes = (number) => {
  const [size, unit] = [[2 ** 40, 'TiB'], [2 ** 30, 'GiB'], [2 ** 20, 'MiB'], [2 ** 10, 'KiB'], [1, 'B']].find(([least]) => number >= least) ?? [1, 'B'];
  return `${digits(number / size)}\u202f${unit}`;
};

export const clock = (t) => new Date(t).toLocaleTimeString('en-GB');

export const ago = (ms) => {
  const seconds = Math.max(0, Math.round(ms / 1000));
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
};

export const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

// What breakers' states are called, and what becomes of connections then.
export const STATES = {
  closed: 'closed: takes connections', open: 'open: takes none', half_open: 'half-open: takes probes', forced_open: 'forced open by an order',
  forced_closed: 'forced closed by an order', draining: 'draining: takes no new connections',
};
export const stateOf = (backend) => (backend.breaker === 'closed' && backend.status === 'draining' ? 'draining' : backend.breaker);
