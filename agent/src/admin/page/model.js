// What the maps of the agents say: frames kept for some minutes, and what happened between two of them. Knows no
// document and no network.

// Frames are kept this long, and only one in ten seconds once they are two minutes old.
const KEPT_MS = 15 * 60_000;
const FINE_MS = 2 * 60_000;
const COARSE_MS = 10_000;
// Edges, services and workloads of all frames together, those counted once that did not change from one to the next: some
// hundred megabytes of a browser's memory.
const MOST_ITEMS = 200_000;
// Failures that are told one by one.
const MOST_FAILURES = 500;
// Rates are of this long before the moment shown.
export const SPAN_MS = 10_000;
// From which share of failures an edge is failing, and not just hurt.
const FAILING = 0.05;

export const health = (traffic) => {
  const share = failedShare(traffic);
  if (share === null) return 'idle';
  if (share >= FAILING) return 'bad';
  return share > 0 ? 'hurt' : 'good';
};

// The larger of both shares: connections that failed, requests with a server's fault. Null where nothing was tried.
export const failedShare = (traffic) => {
  const shares = [];
  const tried = traffic.opened + traffic.failed;
  if (tried > 0) shares.push(traffic.failed / tried);
  if (traffic.requests > 0) shares.push(traffic.errors / traffic.requests);
  return shares.length > 0 ? Math.max(...shares) : null;
};

export const connectionRate = (traffic) => (traffic.seconds > 0 ? (traffic.opened + traffic.failed) / traffic.seconds : 0);
export const requestRate = (traffic) => (traffic.seconds > 0 ? traffic.requests / traffic.seconds : 0);
export const busyness = (traffic) => Math.max(connectionRate(traffic), requestRate(traffic));

// The duration below which this share lies, taken as evenly spread within its bucket. Null where nothing was counted.
export const quantile = (buckets, bounds, share) => {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  const rank = share * total;
  let below = 0;
  for (let bucket = 0; bucket < buckets.length; bucket += 1) {
    const held = buckets[bucket];
    if (held > 0 && below + held >= rank) {
      if (bucket >= bounds.length) break;
      const lower = bucket > 0 ? bounds[bucket - 1] : 0;
      return lower + (bounds[bucket] - lower) * Math.min(1, Math.max(0, (rank - below) / held));
    }
    below += held;
  }
  return bounds[bounds.length - 1];
};

// Of requests where there were any, else of handshakes.
export const times = (traffic) => (traffic.requests > 0 ? traffic.answer : traffic.connect);
export const timeAt = (traffic, share) => quantile(times(traffic), traffic.bounds, share);

export const noTraffic = (bounds = []) => ({
  seconds: 0, opened: 0, failed: 0, active: 0, requests: 0, errors: 0, resets: 0, sent: 0, received: 0, resent: 0,
  connect: [], answer: [], reasons: {}, statuses: {}, bounds,
});

const addCounts = (to, from, sign = 1) => {
  for (const [name, count] of Object.entries(from)) to[name] = Math.max(0, (to[name] ?? 0) + sign * count);
};
const addBuckets = (to, from, sign = 1) => {
  for (let bucket = 0; bucket < from.length; bucket += 1) to[bucket] = Math.max(0, (to[bucket] ?? 0) + sign * from[bucket]);
};
const SUMS = ['opened', 'failed', 'requests', 'errors', 'resets', 'sent', 'received', 'resent'];

const add = (to, from, sign = 1) => {
  for (const name of SUMS) to[name] = Math.max(0, to[name] + sign * from[name]);
  addBuckets(to.connect, from.connect, sign);
  addBuckets(to.answer, from.answer, sign);
  addCounts(to.reasons, from.reasons, sign);
  addCounts(to.statuses, from.statuses, sign);
};

export const sum = (all) => {
  const total = noTraffic();
  for (const traffic of all) {
    add(total, traffic);
    total.active += traffic.active;
    total.seconds = Math.max(total.seconds, traffic.seconds);
    if (traffic.bounds.length > 0) total.bounds = traffic.bounds;
  }
  return total;
};

const totals = (edge, bounds) => {
  const traffic = noTraffic(bounds);
  traffic.opened = edge.opened;
  traffic.active = edge.active;
  traffic.resets = edge.resets;
  traffic.sent = edge.sent_bytes;
  traffic.received = edge.received_bytes;
  traffic.resent = edge.retransmits;
  addBuckets(traffic.connect, edge.connect.buckets);
  addCounts(traffic.reasons, edge.failed);
  traffic.failed = Object.values(edge.failed).reduce((total, count) => total + count, 0);
  for (const requests of edge.requests) addRequests(traffic, requests);
  return traffic;
};

const addRequests = (traffic, requests) => {
  traffic.requests += requests.count;
  traffic.errors += requests.errors;
  addBuckets(traffic.answer, requests.duration.buckets);
  addCounts(traffic.statuses, requests.by_status);
};

// What came between two totals. Totals that fell were begun anew; then all of them came in between.
const since = (now, then, seconds) => {
  const fell = then && SUMS.some((name) => now[name] < then[name]);
  if (then && !fell) add(now, then, -1);
  now.seconds = seconds;
  return now;
};

const edgeKey = (edge) => JSON.stringify([edge.from, edge.to, edge.version]);
const indexed = (list, key) => new Map(list.map((item) => [key(item), item]));
const secondsBetween = (before, after) => Math.max(0, after.monotonic_ms - before.monotonic_ms) / 1000;

// What went over each edge of one agent's map.
export const flows = (before, after) => {
  const old = indexed(before.edges, edgeKey);
  const seconds = secondsBetween(before, after);
  return after.edges.map((edge) => {
    const then = old.get(edgeKey(edge));
    const traffic = since(totals(edge, after.bounds_ns), then && totals(then, after.bounds_ns), seconds);
    return { from: edge.from, to: edge.to, version: edge.version, traffic };
  });
};

// Connections a service was given a backend for, its refusals and its fallbacks, by each second; datagrams too.
const choices = (before, after) => {
  const old = before?.counters;
  const grown = (name) => Math.max(0, after.counters[name] - (old?.[name] ?? 0));
  return {
    chosen: grown('selected') + grown('affine'), refused: grown('no_backend') + grown('limited'), fallback: grown('fallback'),
    avoided: grown('avoided'),
  };
};

// Puts the objects of the map before in the place of those that are the same. How many are not.
const share = (map, before) => {
  let fresh = 0;
  const keys = { edges: edgeKey, services: (service) => service.name, workloads: (workload) => workload.id };
  for (const [name, key] of Object.entries(keys)) {
    const old = indexed(before?.[name] ?? [], key);
    map[name] = map[name].map((item) => {
      const known = old.get(key(item));
      if (known !== undefined && JSON.stringify(known) === JSON.stringify(item)) return known;
      fresh += 1 + (item.backends?.length ?? 0);
      return item;
    });
  }
  return fresh;
};

// The frames of the last minutes, and what failed in them.
export class Memory {
  constructor() {
    this.frames = [];
    this.failures = [];
  }

  // Adds what all sources say at a moment: `maps` are `{source, map}`.
  push(t, maps) {
    const before = this.frames.at(-1);
    const frame = { t, maps, items: 0 };
    for (const { source, map } of maps) frame.items += share(map, before?.maps.find((other) => other.source === source)?.map);
    const rates = graph(before ?? frame, frame);
    frame.rate = rates.rate;
    frame.failed = rates.failed;
    if (before) this.#note(t, rates);
    this.frames.push(frame);
    this.#thin(t);
  }

  // The last frame at or before a moment; the first where all are later.
  at(t) {
    let found = 0;
    for (let index = 0; index < this.frames.length && this.frames[index].t <= t; index += 1) found = index;
    return this.frames[found];
  }

  // The graph of a frame: rates are of the ten seconds before.
  graph(frame) {
    return graph(this.at(frame.t - SPAN_MS), frame);
  }

  #note(t, rates) {
    for (const { from, to, version, traffic } of rates.flows) {
      for (const [reason, count] of Object.entries(traffic.reasons)) {
        if (count > 0) this.failures.push({ t, from, to, version, what: reason, count });
      }
      for (const [status, count] of Object.entries(traffic.statuses)) {
        if (count > 0 && status >= 500) this.failures.push({ t, from, to, version, what: `status ${status}`, count });
      }
    }
    if (this.failures.length > MOST_FAILURES) this.failures.splice(0, this.failures.length - MOST_FAILURES);
  }

  #thin(now) {
    let last = -Infinity;
    this.frames = this.frames.filter((frame) => {
      if (frame.t < now - KEPT_MS) return false;
      if (frame.t < now - FINE_MS && frame.t - last < COARSE_MS) return false;
      last = frame.t;
      return true;
    });
    let items = this.frames.reduce((count, frame) => count + frame.items, 0);
    while (items > MOST_ITEMS && this.frames.length > 2) items -= this.frames.shift().items;
  }
}

const worst = { closed: 0, forced_closed: 0, half_open: 1, open: 2, forced_open: 3 };
const isLoopback = (address) => address.startsWith('127.') || address.startsWith('[::1]');

// What all agents' maps say together. Workloads belong to a node; services are the same on all of them.
export const graph = (before, after) => {
  const several = after.maps.length > 1;
  const merged = { workloads: new Map(), services: new Map(), flows: [], changes: [], unseen: {}, nodes: [], seconds: 0, several };
  for (const { source, map } of after.maps) {
    const then = before.maps.find((other) => other.source === source)?.map ?? map;
    const own = (id) => (several ? `${map.node}|${id}` : id);
    merged.nodes.push(map.node);
    merged.seconds = Math.max(merged.seconds, secondsBetween(then, map));
    for (const workload of map.workloads) {
      merged.workloads.set(own(workload.id), { ...workload, id: own(workload.id), node: map.node });
    }
    const old = indexed(then.services, (service) => service.name);
    for (const service of map.services) mergeService(merged, service, old.get(service.name), map, own);
    for (const flow of flows(then, map)) merged.flows.push({ ...flow, from: own(flow.from) });
    for (const change of map.changes) merged.changes.push({ ...change, node: map.node });
    addUnseen(merged.unseen, map.unseen);
  }
  merged.changes.sort((one, other) => (one.time < other.time ? 1 : -1));
  merged.rate = merged.flows.reduce((total, { traffic }) => total + busyness(traffic), 0);
  merged.failed = merged.flows.reduce((total, { traffic }) => total + (traffic.failed + traffic.errors) / (traffic.seconds || 1), 0);
  return merged;
};

const mergeService = (merged, service, then, map, own) => {
  const grown = choices(then, service);
  const known = merged.services.get(service.name);
  const all = known ?? { ...service, backends: new Map(), choices: { chosen: 0, refused: 0, fallback: 0, avoided: 0 } };
  if (known?.gone && !service.gone) Object.assign(known, { ...service, backends: known.backends, choices: known.choices });
  addCounts(all.choices, grown);
  for (const backend of service.backends) {
    const key = isLoopback(backend.address) && merged.several ? `${map.node}|${backend.address}` : backend.address;
    const seen = { ...backend, key, node: map.node, workload: backend.workload && own(backend.workload) };
    const other = all.backends.get(key);
    if (!other) {
      all.backends.set(key, { ...seen, on: [map.node], seen: [seen] });
      continue;
    }
    other.on.push(map.node);
    other.seen.push(seen);
    for (const name of ['active', 'connections', 'failures']) other[name] += backend[name];
    if (worst[backend.breaker] > worst[other.breaker]) {
      Object.assign(other, { breaker: backend.breaker, next_probe_in_ms: backend.next_probe_in_ms, window: backend.window });
    }
    other.held_back ||= backend.held_back;
  }
  merged.services.set(service.name, all);
};

const addUnseen = (to, unseen) => {
  for (const [reason, count] of Object.entries(unseen.unparsed)) addCounts(to, { [`connections not read as requests (${reason})`]: count });
  for (const [place, count] of Object.entries(unseen.lost)) addCounts(to, { [`records lost (${place})`]: count });
  if (unseen.unnamed_clients > 0) addCounts(to, { 'clients gone before they had a name': unseen.unnamed_clients });
  if (unseen.beyond_limit > 0) addCounts(to, { 'connections beyond the limit on edges': unseen.beyond_limit });
};
