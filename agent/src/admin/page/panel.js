// The details of what is chosen: figures, backends, failures, changes. Everything a person reads is made of elements and
// text, never of markup.

import { connectionRate, failedShare, health, quantile, requestRate, sum, times, timeAt } from './model.js';
import { STATES, ago, bytes, clock, count, duration, percent, rate, stateOf } from './format.js';
import { glyph, svg } from './draw.js';

// Rows of a list; what is older or less is said to be left out.
const MOST_ROWS = 40;

export const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

const mark = (state) => svg('svg', { viewBox: '0 0 12 12', class: 'mark', 'aria-hidden': 'true' }, glyph(state));
const heading = (content) => element('h3', {}, content);

const table = (columns, rows) => {
  const head = element('tr', {}, ...columns.map((column) => element('th', { scope: 'col', class: column.startsWith('>') ? 'number' : '' }, column.replace('>', ''))));
  const body = rows.slice(0, MOST_ROWS).map((row) => element('tr', {}, ...row.map((cell, index) => element('td', { class: columns[index].startsWith('>') ? 'number' : 'wide' }, cell))));
  const all = element('table', {}, element('thead', {}, head), element('tbody', {}, ...body));
  return rows.length > MOST_ROWS ? element('div', {}, all, element('p', { class: 'muted' }, `and ${rows.length - MOST_ROWS} more`)) : all;
};

const figure = (name, value, of = '') => element('div', {}, element('dt', {}, name), element('dd', { class: of }, value));

const figures = (traffic) => {
  const failed = failedShare(traffic);
  const state = health(traffic);
  return element('dl', { class: 'figures' },
    figure('Requests/s', traffic.requests > 0 ? rate(requestRate(traffic)) : '–'), figure('Connections/s', rate(connectionRate(traffic))), figure('Open now', count(traffic.active)),
    figure('Failed', failed === null ? '–' : percent(failed), state === 'bad' || state === 'hurt' ? state : ''),
    figure(traffic.requests > 0 ? 'p50 answer' : 'p50 handshake', duration(timeAt(traffic, 0.5))), figure(traffic.requests > 0 ? 'p99 answer' : 'p99 handshake', duration(timeAt(traffic, 0.99))));
};

// The distribution behind p50 and p99, as bars.
const bars = (traffic) => {
  const buckets = times(traffic);
  const first = buckets.findIndex((held) => held > 0);
  if (first < 0) return null;
  const last = buckets.findLastIndex((held) => held > 0);
  const from = Math.max(0, first - 1);
  const shown = buckets.slice(from, last + 2);
  const most = Math.max(...shown);
  const width = 400 / Math.max(6, shown.length + 1);
  const picture = svg('svg', { class: 'bars', viewBox: '0 0 400 74', role: 'img' });
  picture.append(svg('title'));
  picture.firstChild.textContent = `Distribution: half within ${duration(quantile(buckets, traffic.bounds, 0.5))}, 99 % within ${duration(quantile(buckets, traffic.bounds, 0.99))}`;
  shown.forEach((held, index) => {
    const tall = held > 0 ? Math.max(2, 54 * held / most) : 0;
    picture.append(svg('rect', { x: index * width + 1, y: 58 - tall, width: width - 3, height: tall, rx: 2 }));
    const bound = traffic.bounds[from + index];
    if (index % Math.ceil(shown.length / 7) !== 0) return;
    const label = svg('text', { x: index * width + width - 2, y: 71, 'text-anchor': 'middle' });
    label.textContent = bound === undefined ? 'more' : `≤${duration(bound)}`;
    picture.append(label);
  });
  return element('div', {}, heading(traffic.requests > 0 ? 'Time to the first byte of the answer' : 'Time of handshakes'), picture);
};

const counts = (title, all, describe) => {
  const rows = Object.entries(all).filter(([, number]) => number > 0).map(([name, number]) => [describe(name), count(number)]);
  return rows.length > 0 ? element('div', {}, heading(title), table(['What', '>Count'], rows)) : null;
};

const EVENTS = {
  breaker_opened: ['open', 'opened'], breaker_half_open: ['half_open', 'lets probes through'], breaker_closed: ['closed', 'closed'],
  rollout_stepped_up: ['closed', 'canary stepped up'], rollout_promoted: ['closed', 'canary promoted'], rollout_rolled_back: ['open', 'canary rolled back'],
  rollout_paused: ['half_open', 'canary paused'], rollout_resumed: ['closed', 'canary resumed'],
};

export class Panel {
  constructor(root, { choose, close }) {
    this.root = root;
    this.choose = choose;
    this.close = close;
  }

  // Shows a node or a link of the picture; `view` is `{graph, picture, memory, frame}`.
  show(id, view) {
    const item = view.picture.nodes.get(id) ?? view.picture.links.get(id);
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const body = item ? this.#body(item, view) : [element('h2', {}, 'Not on the map'), element('p', { class: 'what' }, 'It is not there at this moment, or it does not match the filter.')];
    const close = element('button', { type: 'button', class: 'close', title: 'Close (Esc)', 'aria-label': 'Close', 'data-key': 'close' }, '✕');
    close.addEventListener('click', this.close);
    const top = this.root.scrollTop;
    this.root.replaceChildren(close, ...body.filter(Boolean));
    this.root.hidden = false;
    this.root.scrollTop = top;
    if (focused) [...this.root.querySelectorAll('[data-key]')].find((one) => one.dataset.key === focused)?.focus({ preventScroll: true });
  }

  hide() {
    this.root.hidden = true;
    this.root.replaceChildren();
  }

  #body(item, view) {
    if (item.kind === 'workload') return this.#workload(item, view);
    if (item.kind === 'service') return this.#service(item, view, item.backends, null);
    if (item.kind === 'backends') return this.#service(item, view, item.backends, item);
    return this.#link(item, view);
  }

  #jump(id, label) {
    const button = element('button', { type: 'button', class: 'jump', 'data-key': `jump ${id}` }, label);
    button.addEventListener('click', () => this.choose(id, true));
    return button;
  }

  #service({ service, traffic }, view, backends, version) {
    const own = (one) => one.to === service.name && (version === null || (one.version ?? null) === version.version);
    const carried = view.graph.flows.filter(own);
    const its = traffic ?? sum(carried.map((flow) => flow.traffic));
    const facts = version === null
      ? [service.frontends.join(', '), `${service.protocol}`, `breaker ${service.breaker_mode}`, service.fallback ? `fallback ${service.fallback}` : 'no fallback']
      : [`of ${service.name}`, version.share ? `share ${version.share.share}` : null];
    const seconds = view.graph.seconds || 1;
    const chosen = [
      [service.choices.chosen, 'given a backend'], [service.choices.refused, 'refused'], [service.choices.avoided, 'kept from a held-back backend'], [service.choices.fallback, 'sent to the fallback'],
    ].filter(([number]) => number > 0).map(([number, what]) => `${rate(number / seconds)}/s ${what}`);
    const spoken = version === null ? service.name : version.version ?? `backends of ${service.name}`;
    return [
      element('h2', {}, spoken), element('p', { class: 'what' }, facts.filter(Boolean).join(' · ')),
      service.rollout && version === null ? element('p', {}, `Canary: ${service.rollout}`) : null,
      figures(its), chosen.length > 0 && version === null ? element('p', { class: 'muted' }, `Choices: ${chosen.join(', ')}`) : null,
      heading(`Backends (${backends.length})`), this.#backends(backends, view),
      this.#clients(carried, view), bars(its), counts('Answers by status', its.statuses, (status) => status),
      this.#failures(view, own), this.#changes(view, service.name, version),
    ];
  }

  #backends(backends, view) {
    if (backends.length === 0) return element('p', {}, 'None. Connections are refused, or go to the fallback.');
    const rows = backends.map((backend) => {
      const state = stateOf(backend);
      const probe = backend.next_probe_in_ms === null ? '' : backend.next_probe_in_ms === 0 ? ', probe with the next' : `, probe in ${ago(backend.next_probe_in_ms)}`;
      const [good, failed, slow] = backend.window;
      const where = [backend.zone && `zone ${backend.zone}`, backend.version, view.graph.several ? `seen by ${backend.on.join(', ')}` : null].filter(Boolean).join(' · ');
      return [
        element('div', {}, element('span', { class: 'mono' }, backend.address), where ? element('div', { class: 'muted' }, where) : null),
        element('div', {}, element('span', { class: 'state' }, mark(state), STATES[state].split(':')[0] + probe), element('div', { class: 'muted' }, `lately ${good} good, ${failed} failed, ${slow} slow`)),
        count(backend.active), count(backend.failures),
      ];
    });
    return table(['Address', 'State', '>Open', '>Failed'], rows);
  }

  #clients(carried, view) {
    if (carried.length === 0) return element('p', { class: 'muted' }, 'Nobody has connected yet.');
    const rows = [...Map.groupBy(carried, (flow) => flow.from)].map(([from, flows]) => this.#flowRow(view, from, `${from} → service ${flows[0].to}`, view.graph.workloads.get(from)?.name ?? from, sum(flows.map((flow) => flow.traffic))));
    return element('div', {}, heading('Clients'), table(['Client', '>Rate', '>Failed', '>p99'], rows));
  }

  #flowRow(view, node, link, name, traffic) {
    const per = traffic.requests > 0 ? `${rate(requestRate(traffic))} req/s` : `${rate(connectionRate(traffic))} conn/s`;
    const failed = failedShare(traffic);
    const target = view.picture.links.has(link) ? link : node;
    return [this.#jump(target, name), per, failed === null ? '–' : percent(failed), duration(timeAt(traffic, 0.99))];
  }

  #workload({ workload, id }, view) {
    const carried = view.graph.flows.filter((flow) => flow.from === id);
    const its = sum(carried.map((flow) => flow.traffic));
    const rows = [...Map.groupBy(carried, (flow) => flow.to)].map(([to, flows]) => this.#flowRow(view, `service ${to}`, `${id} → service ${to}`, to, sum(flows.map((flow) => flow.traffic))));
    const answers = workload.answers.map(({ port, requests }) => [`:${port}`, requests.protocol, count(requests.count), percent(requests.count > 0 ? requests.errors / requests.count : 0)]);
    return [
      element('h2', {}, workload.name), element('p', { class: 'what' }, `${workload.kind} · ${workload.namespace} · on ${workload.node}`),
      carried.length > 0 ? figures(its) : null,
      rows.length > 0 ? element('div', {}, heading('Connects to'), table(['Service', '>Rate', '>Failed', '>p99'], rows)) : null,
      answers.length > 0 ? element('div', {}, heading('Answers on this node, in all'), table(['Port', 'Protocol', '>Requests', '>Errors'], answers)) : null,
      bars(its), this.#failures(view, (one) => one.from === id),
    ];
  }

  #link(link, view) {
    const nameOf = (id) => { const node = view.picture.nodes.get(id); return node.kind === 'backends' ? `${node.version ?? 'backends'} of ${node.service.name}` : node.name; };
    const title = `${nameOf(link.from)} → ${nameOf(link.to)}`;
    const ends = element('p', { class: 'what' }, this.#jump(link.from, nameOf(link.from)), ' → ', this.#jump(link.to, nameOf(link.to)));
    if (link.kind === 'fallback') return [element('h2', {}, title), ends, element('p', {}, 'Takes the connections where no backend of the first is usable.'), element('p', {}, link.used > 0 ? 'It does now.' : 'It is not used now.')];
    if (link.kind === 'same') return [element('h2', {}, title), ends, element('p', {}, 'This workload answers at the backend’s address.')];
    const { traffic } = link;
    const keys = new Set(link.flows.map((flow) => JSON.stringify([flow.from, flow.to, flow.version])));
    const amounts = [['sent', bytes(traffic.sent)], ['received', bytes(traffic.received)], ['segments sent again', count(traffic.resent)], ['reset by the backend', count(traffic.resets)]];
    return [
      element('h2', {}, title), ends, figures(traffic), bars(traffic), counts('Answers by status', traffic.statuses, (status) => status),
      counts('Connections that failed', traffic.reasons, (reason) => reason.replaceAll('_', ' ')), heading('In these seconds'), table(['What', '>How much'], amounts),
      this.#failures(view, (one) => keys.has(JSON.stringify([one.from, one.to, one.version]))),
    ];
  }

  #failures(view, wanted) {
    const all = view.memory.failures.filter((failure) => failure.t <= view.frame.t && wanted(failure)).reverse();
    if (all.length === 0) return null;
    const rows = all.map(({ t, from, what, count: number }) => [clock(t), view.graph.workloads.get(from)?.name ?? from, what.replaceAll('_', ' '), count(number)]);
    return element('div', {}, heading('Recent failures'), table(['Time', 'Client', 'What', '>Count'], rows));
  }

  #changes(view, service, version) {
    const its = view.graph.changes.filter((change) => change.service === service && (version === null || (change.version ?? null) === version.version));
    if (its.length === 0) return element('div', {}, heading('Breaker history'), element('p', { class: 'muted' }, 'No breaker has changed since the agent started.'));
    const rows = its.map((change) => {
      const [state, words] = EVENTS[change.event] ?? ['closed', change.event];
      const why = typeof change.reason === 'string' ? change.reason.replaceAll('_', ' ') : '';
      return [clock(Date.parse(change.time)), change.backend ?? '', element('span', {}, mark(state), [words, why && `(${why})`].filter(Boolean).join(' ')), ...(view.graph.several ? [change.node] : [])];
    });
    return element('div', {}, heading('Breaker history'), table(['Time', 'Backend', 'What', ...(view.graph.several ? ['Node'] : [])], rows));
  }
}
