// The page: what is asked, kept, drawn and chosen, and which keys do what.

import { Feed, sources } from './feed.js';
import { Memory, connectionRate, failedShare, requestRate, sum } from './model.js';
import { picture } from './picture.js';
import { layout } from './layout.js';
import { Canvas, glyph, svg } from './draw.js';
import { Panel, element } from './panel.js';
import { drawHistory } from './timeline.js';
import { STATES, ago, clock, count, percent, rate } from './format.js';
import { save } from './export.js';

const byId = (id) => document.getElementById(id);
const THEMES = ['auto', 'light', 'dark'];

const state = { filter: '', chosen: null, frame: null, paused: false, drawn: new Set(), shape: '', placed: null, states: [] };
const memory = new Memory();
const canvas = new Canvas(byId('graph'), { choose: (id) => choose(id, false) });
const panel = new Panel(byId('panel'), { choose: (id, focus) => choose(id, focus), close: () => choose(null, true) });
const { agents, wrong } = sources(location.search, location.origin);

const take = (t, states) => {
  state.states = states;
  const maps = states.filter(({ map }) => map !== null).map(({ source, map }) => ({ source, map }));
  if (maps.length > 0 && states.some(({ since }) => since === null)) memory.push(t, maps);
  if (!state.paused || state.frame === null) state.frame = memory.frames.at(-1) ?? null;
  show();
};

const show = () => {
  news();
  if (state.frame === null) return;
  const graph = memory.graph(state.frame);
  const shown = picture(graph, state.filter, state.drawn);
  state.drawn = new Set([...shown.nodes.values()].filter((node) => node.kind === 'service').map((node) => node.name));
  // Laid out anew only where something came or went.
  const shape = JSON.stringify([[...shown.nodes.values()].map((node) => [node.id, node.rows]).sort(), [...shown.links.keys()].sort()]);
  if (shape !== state.shape) {
    state.placed = layout([...shown.nodes.values()], [...shown.links.values()]);
    state.shape = shape;
  }
  canvas.draw(shown, state.placed, state.chosen);
  state.view = { graph, picture: shown, memory, frame: state.frame };
  if (state.chosen !== null) panel.show(state.chosen, state.view);
  totals(graph);
  teach(graph, shown);
  moment();
  unseen(graph, shown);
  drawHistory(byId('history'), byId('scrub'), memory.frames, state.frame, graph.changes);
};

const news = () => {
  const lines = [];
  for (const part of wrong) lines.push(['bad', `No agent's address, and left out: ${part}`]);
  for (const { source, since, why, map } of state.states) {
    if (since !== null && map !== null) lines.push(['bad', `${map.node} (${source}) does not answer since ${clock(since)} (${why}). Shown is what it last said. The data plane works without its agent.`]);
    if (since !== null && map === null) lines.push(['bad', `${source} does not answer: ${why}. Is the agent running there, and does it allow this page (segue run --map-origin)?`]);
    if (since === null && map.waiting_for.length > 0) lines.push(['', `${map.node} is not ready: it waits for ${map.waiting_for.join(', ')}.`]);
  }
  const text = JSON.stringify(lines);
  if (byId('news').dataset.text === text) return;
  byId('news').dataset.text = text;
  byId('news').replaceChildren(...lines.map(([of, line]) => element('p', { class: of }, line)));
};

const totals = (graph) => {
  const traffic = sum(graph.flows.map((flow) => flow.traffic));
  const failed = failedShare(traffic);
  const held = [...graph.services.values()].flatMap((service) => [...service.backends.values()]).filter((backend) => backend.held_back).length;
  const bold = (content, of = '') => element('b', { class: of }, content);
  byId('totals').replaceChildren(
    bold(count(graph.services.size)), graph.services.size === 1 ? ' service · ' : ' services · ', bold(rate(requestRate(traffic))), ' req/s · ', bold(rate(connectionRate(traffic))), ' conn/s · ',
    bold(failed === null ? '–' : percent(failed), failed > 0 ? 'bad' : ''), ' failed · ', bold(count(held), held > 0 ? 'bad' : ''), held === 1 ? ' backend held back' : ' backends held back',
  );
  byId('nodes').textContent = graph.nodes.length > 3 ? `${graph.nodes.length} nodes` : graph.nodes.join(', ');
};

const CONFIG = 'services:\n  - name: shop/payment\n    frontends: ["198.18.0.10:80"]\n    backends: ["10.0.0.11:8080", "10.0.0.12:8080"]\n';

// Where there is nothing to see, what to do.
const teach = (graph, shown) => {
  const empty = byId('empty');
  const kind = graph.services.size === 0 ? 'none' : shown.found === 0 ? 'filtered' : '';
  byId('graph').toggleAttribute('hidden', kind !== '');
  empty.hidden = kind === '';
  if (empty.dataset.kind === kind) return;
  empty.dataset.kind = kind;
  if (kind === 'none') {
    empty.replaceChildren(
      element('h2', {}, 'No services yet'), element('p', {}, 'The agent runs and knows no service. Name one in its configuration file; it takes effect as soon as the file is saved:'),
      element('pre', {}, element('code', {}, CONFIG)), element('p', {}, element('code', {}, 'segue check FILE'), ' tells whether a file can be used, ', element('code', {}, 'segue status'), ' why one is not in force. With ', element('code', {}, 'segue run --kubernetes'), ', services come from the cluster.'),
    );
  } else {
    empty.replaceChildren(element('h2', {}, 'Nothing matches'), element('p', {}, 'No service, client, version or backend has this in its name. Esc in the field clears the filter.'));
  }
};

const moment = () => {
  const latest = memory.frames.at(-1);
  const live = state.frame === latest && !state.paused;
  const answering = state.states.some(({ since }) => since === null);
  const age = !answering && live ? ` ${ago(Date.now() - latest.t)} old` : live ? ' live' : ` ${ago(latest.t - state.frame.t)} before`;
  byId('moment').replaceChildren(element('b', {}, clock(state.frame.t)), age);
  byId('pause').textContent = state.paused ? 'Go on' : 'Pause';
  byId('pause').setAttribute('aria-pressed', String(state.paused));
  byId('scrub').setAttribute('aria-valuetext', live ? 'live' : clock(state.frame.t));
};

const unseen = (graph, shown) => {
  const parts = [];
  if (shown.left.services > 0) parts.push(`${count(shown.left.services)} less busy services; filter to see them`);
  if (shown.left.workloads > 0) parts.push(`${count(shown.left.workloads)} less busy clients`);
  for (const [what, number] of Object.entries(graph.unseen)) parts.push(`${what}: ${count(number)}`);
  byId('unseen').textContent = parts.length > 0 ? `Not shown: ${parts.join(' · ')}` : '';
};

const choose = (id, focus) => {
  const before = state.chosen;
  state.chosen = id;
  if (state.frame === null) return;
  if (id === null) panel.hide();
  show();
  canvas.scale();
  if (focus) canvas.focus(id ?? before);
  else canvas.reveal(id);
  history.replaceState(null, '', id === null ? location.pathname + location.search : `#${encodeURIComponent(id)}`);
};

const scrubTo = (index) => {
  const latest = memory.frames.length - 1;
  state.paused = index < latest;
  state.frame = memory.frames[Math.min(latest, Math.max(0, index))] ?? null;
  show();
};

const pause = (paused) => {
  state.paused = paused;
  if (!paused) state.frame = memory.frames.at(-1) ?? null;
  show();
};

const zoom = (factor) => {
  canvas.zoom = factor === null ? null : Math.min(3, Math.max(0.3, (canvas.zoom ?? canvas.shownZoom) * factor));
  canvas.scale();
};

// Storage may be switched off; then a choice lasts as long as the page.
const remembered = () => { try { return localStorage.getItem('segue-theme'); } catch { return null; } };
const remember = (theme) => { try { localStorage.setItem('segue-theme', theme); } catch { /* See above. */ } };

const setTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  byId('theme').textContent = { auto: 'Auto', light: 'Light', dark: 'Dark' }[theme];
  byId('theme').setAttribute('aria-label', `Colours: ${theme}`);
};
const nextTheme = () => {
  const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  setTheme(theme);
  remember(theme);
};

const LINES = [
  ['good', 3, 'nothing failed; the thicker, the more'], ['hurt', 3, 'some failed, or some backends are held back'], ['bad', 3, '5 % or more failed'], ['cut', 3, 'every backend is held back'],
  ['idle', 1.5, 'no traffic in the last 10 seconds'], ['fallback', 1.6, 'fallback, where nothing is usable'], ['same', 1.6, 'the workload that answers there'],
];
const KEYS = [['/', 'filter'], ['← ↑ → ↓', 'from node to node'], ['Enter', 'details'], ['Esc', 'close, clear'], ['p', 'pause or go on'], [', .', 'a moment earlier, later'], ['+ − 0', 'larger, smaller, fit'], ['t', 'light or dark'], ['?', 'this']];

const drawLegend = () => {
  const row = (sign, words) => [element('dt', {}, sign), element('dd', {}, words)];
  const line = (look, width) => svg('svg', { width: 66, height: 14, class: 'graph' }, svg('g', { class: `link ${look}` }, svg('path', { class: 'line', d: 'M2 7H54', 'stroke-width': width }), svg('path', { class: 'tip', d: 'M54 2.5L64 7L54 11.5z' })));
  byId('legend').replaceChildren(
    element('h2', {}, 'Lines'), element('dl', {}, ...LINES.flatMap(([look, width, words]) => row(line(look, width), words))),
    element('h2', {}, 'Backends'), element('dl', {}, ...Object.entries(STATES).flatMap(([name, words]) => row(svg('svg', { width: 14, height: 14, viewBox: '0 0 12 12' }, glyph(name)), words))),
    element('h2', {}, 'Keys'), element('dl', {}, ...KEYS.flatMap(([key, words]) => row(element('kbd', {}, key), words))),
    element('p', { class: 'muted' }, 'Rates, shares and 99th percentiles are of the 10 seconds before the moment shown. Failed is the larger of two shares: of connections, and of requests answered with 500 or more.'),
  );
};
const toggleLegend = (open) => {
  byId('legend').hidden = !open;
  byId('help').setAttribute('aria-expanded', String(open));
};

const step = (by) => scrubTo(memory.frames.indexOf(state.frame) + by);
const SHORTCUTS = {
  '/': () => byId('filter').focus(), p: () => pause(!state.paused), ',': () => step(-1), '.': () => step(1), '+': () => zoom(1.2), '=': () => zoom(1.2), '-': () => zoom(1 / 1.2),
  0: () => zoom(null), t: nextTheme, '?': () => toggleLegend(byId('legend').hidden),
};

const onKey = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === byId('filter')) return;
  const node = event.target.closest?.('.node');
  if (event.key === 'Escape') {
    if (!byId('legend').hidden) toggleLegend(false);
    else if (state.chosen !== null) choose(null, true);
  } else if (node && event.key.startsWith('Arrow')) {
    canvas.focus(canvas.neighbour(node.dataset.id, event.key));
  } else if (node && (event.key === 'Enter' || event.key === ' ')) {
    choose(node.dataset.id, false);
    byId('panel').focus({ preventScroll: true });
  } else if (SHORTCUTS[event.key]) {
    SHORTCUTS[event.key]();
  } else {
    return;
  }
  event.preventDefault();
};

// What the page's address chooses; nothing where that is no name.
const named = (hash) => { try { return decodeURIComponent(hash) || null; } catch { return null; } };

const start = () => {
  setTheme(THEMES.includes(remembered()) ? remembered() : 'auto');
  drawLegend();
  state.chosen = named(location.hash.slice(1));
  document.addEventListener('keydown', onKey);
  byId('filter').addEventListener('input', () => { state.filter = byId('filter').value; show(); });
  byId('filter').addEventListener('keydown', (event) => {
    if (event.key !== 'Escape' && event.key !== 'Enter') return;
    if (event.key === 'Escape') { byId('filter').value = ''; state.filter = ''; show(); }
    canvas.focus(canvas.at);
  });
  byId('scrub').addEventListener('input', () => scrubTo(Number(byId('scrub').value)));
  byId('pause').addEventListener('click', () => pause(!state.paused));
  byId('larger').addEventListener('click', () => zoom(1.2));
  byId('smaller').addEventListener('click', () => zoom(1 / 1.2));
  byId('fit').addEventListener('click', () => zoom(null));
  byId('theme').addEventListener('click', nextTheme);
  byId('help').addEventListener('click', () => toggleLegend(byId('legend').hidden));
  byId('save').addEventListener('click', () => save(byId('graph')));
  addEventListener('resize', () => canvas.scale());
  new Feed(agents, take).start();
};

start();
