// Which nodes and links are drawn of a graph, and which are left out. Pure.

import { busyness, failedShare, sum } from './model.js';

// Services and clients drawn at a time: what a person can still read.
const MOST_SERVICES = 36;
const MOST_WORKLOADS = 48;
// Backends listed in one node; where there are many services, backends are a row of signs.
export const MOST_ROWS = 6;
export const MOST_SIGNS = 9;
const LISTED_SERVICES = 12;
// A service that is drawn stays drawn until another one is so much busier.
const LOYALTY = 1.5;
const TROUBLE = 1e9;

const holds = (text, part) => text.toLowerCase().includes(part);

const matches = (service, clients, part) => part === '' || holds(service.name, part) || clients.some((client) => holds(client, part))
  || [...service.backends.values()].some((backend) => holds(backend.address, part) || holds(backend.version ?? '', part));

// `drawn`: the names of services drawn before.
export const picture = (graph, filter, drawn) => {
  const part = filter.trim().toLowerCase();
  const byService = Map.groupBy(graph.flows, (flow) => flow.to);
  const found = [...graph.services.values()].map((service) => {
    const flows = byService.get(service.name) ?? [];
    const traffic = sum(flows.map((flow) => flow.traffic));
    const backends = [...service.backends.values()];
    const troubled = backends.some((backend) => backend.held_back) || (failedShare(traffic) ?? 0) > 0;
    const known = flows.length > 0 ? 1 : 0;
    // Datagrams have no edges, and are counted where a backend was chosen.
    const chosen = graph.seconds > 0 ? service.choices.chosen / graph.seconds : 0;
    const score = (troubled ? TROUBLE : 0) + (Math.max(busyness(traffic), chosen) + known) * (drawn.has(service.name) ? LOYALTY : 1);
    const clients = flows.map((flow) => graph.workloads.get(flow.from)?.name ?? '');
    return { service, flows, traffic, chosen, backends, score, fits: matches(service, clients, part) };
  }).filter((one) => one.fits);
  found.sort((one, other) => other.score - one.score || (one.service.name < other.service.name ? -1 : 1));
  const shown = found.slice(0, MOST_SERVICES);
  const result = { nodes: new Map(), links: new Map(), left: { services: found.length - shown.length, workloads: 0 }, found: found.length };
  const busiest = busiestWorkloads(graph, shown, result);
  const listed = shown.length <= LISTED_SERVICES;
  for (const one of shown) addService(result, one, listed);
  for (const one of shown) addFlows(result, graph, one, busiest);
  return result;
};

// The clients of the services shown, the busiest first.
const busiestWorkloads = (graph, shown, result) => {
  const rates = new Map();
  for (const { flows } of shown) {
    for (const { from, traffic } of flows) rates.set(from, (rates.get(from) ?? 0) + busyness(traffic));
  }
  const sorted = [...rates].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
  result.left.workloads = Math.max(0, sorted.length - MOST_WORKLOADS);
  return new Set(sorted.slice(0, MOST_WORKLOADS).map(([id]) => id));
};

const addService = (result, { service, traffic, chosen, backends }, listed) => {
  const id = `service ${service.name}`;
  result.nodes.set(id, { id, kind: 'service', name: service.name, service, traffic, chosen, backends, rows: 0 });
  for (const [version, its] of Map.groupBy(backends, (backend) => backend.version ?? '')) {
    const its_id = `backends ${service.name} ${version}`;
    const share = service.split.find((one) => one.version === version);
    result.nodes.set(its_id, {
      id: its_id, kind: 'backends', name: version === '' ? 'backends' : version, service, version: version === '' ? null : version, share, backends: its, servers: [],
      listed, rows: listed ? Math.min(its.length, MOST_ROWS) + (its.length > MOST_ROWS ? 1 : 0) : 1,
    });
  }
};

const addWorkload = (result, graph, id) => {
  const workload = graph.workloads.get(id);
  if (!workload || result.nodes.has(id)) return workload !== undefined;
  result.nodes.set(id, { id, kind: 'workload', name: workload.name, workload, several: graph.several, rows: 0 });
  return true;
};

const addLink = (result, link) => {
  if (result.nodes.has(link.from) && result.nodes.has(link.to)) result.links.set(link.id, link);
};

const addFlows = (result, graph, { service, flows, backends }, busiest) => {
  const to = `service ${service.name}`;
  for (const [from, its] of Map.groupBy(flows, (flow) => flow.from)) {
    if (!busiest.has(from) || !addWorkload(result, graph, from)) continue;
    addLink(result, { id: `${from} → ${to}`, kind: 'traffic', from, to, traffic: sum(its.map((flow) => flow.traffic)), flows: its });
  }
  for (const [version, its] of Map.groupBy(backends, (backend) => backend.version ?? '')) {
    const id = `backends ${service.name} ${version}`;
    const carried = flows.filter((flow) => (flow.version ?? '') === version);
    const held = its.filter((backend) => backend.held_back).length;
    addLink(result, {
      id: `${to} → ${id}`, kind: 'traffic', from: to, to: id, traffic: sum(carried.map((flow) => flow.traffic)), flows: carried, held, of: its.length,
    });
    // Who answers there is drawn where it also connects to something, and else only named.
    for (const server of new Set(its.map((backend) => backend.workload).filter(Boolean))) {
      if (!busiest.has(server)) result.nodes.get(id).servers.push(graph.workloads.get(server)?.name ?? server);
      else if (addWorkload(result, graph, server)) addLink(result, { id: `${id} = ${server}`, kind: 'same', from: id, to: server });
    }
  }
  if (service.fallback) {
    addLink(result, {
      id: `${to} ⇢ ${service.fallback}`, kind: 'fallback', from: to, to: `service ${service.fallback}`, used: service.choices.fallback,
    });
  }
};
