// The map as SVG: nodes and links are made once, and changed where they change, so that focus and places stay. Whatever
// text comes from outside goes through textContent.

import { busyness, connectionRate, failedShare, health, requestRate, timeAt } from './model.js';
import { duration, percent, rate, short, stateOf } from './format.js';
import { MOST_ROWS, MOST_SIGNS } from './picture.js';

const SVG = 'http://www.w3.org/2000/svg';
const HEADINGS = { workload: 'Clients', service: 'Services', backends: 'Backends' };
// How wide a letter of a label is, about: to measure it would cost a layout.
const LETTER = 6.1;
// Where along a link its label may stand, the best place first.
const LABEL_AT = [0.5, 0.4, 0.6, 0.32, 0.68, 0.25, 0.75];

export const svg = (name, attributes = {}, ...children) => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

const SHAPES = {
  closed: () => [svg('circle', { cx: 6, cy: 6, r: 4.2 })],
  half_open: () => [svg('circle', { cx: 6, cy: 6, r: 4.6, fill: 'none' }), svg('path', { d: 'M6 1.4a4.6 4.6 0 0 0 0 9.2z' })],
  open: () => [svg('path', { d: 'M2 2l8 8M10 2l-8 8' })],
  forced_open: () => [svg('path', { d: 'M.8.8h10.4v10.4h-10.4zM3.4 3.4l5.2 5.2M8.6 3.4l-5.2 5.2' })],
  forced_closed: () => [svg('rect', { x: 1.5, y: 1.5, width: 9, height: 9 })],
  draining: () => [svg('circle', { cx: 6, cy: 6, r: 4.4 })],
};
// The sign of a state: a shape for each, not only a colour.
export const glyph = (state, x = 0, y = 0) => svg('g', { class: `glyph ${state}`, transform: `translate(${x} ${y})` }, ...SHAPES[state]());

const text = (x, y, of, content) => {
  const element = svg('text', { x, y, class: of });
  element.textContent = content;
  return element;
};

// What is written beside a link: all of it, and what is left of it where there is little room.
export const linkLabels = (link) => {
  if (link.kind === 'fallback') return [link.used > 0 ? 'fallback in use' : 'fallback'];
  if (link.kind === 'same') return [];
  const parts = [];
  const { traffic } = link;
  if (traffic.requests > 0) parts.push(`${rate(requestRate(traffic))} req/s`);
  else if (traffic.opened + traffic.failed > 0) parts.push(`${rate(connectionRate(traffic))} conn/s`);
  else if (traffic.active > 0) parts.push(`${traffic.active} open`);
  const failed = failedShare(traffic);
  if (failed > 0) parts.push(`▲\u202f${percent(failed)}`);
  const p99 = timeAt(traffic, 0.99);
  if (link.held > 0) parts.push(`✕ ${link.held}/${link.of}`);
  else if (p99 !== null) parts.push(duration(p99));
  return parts.length > 2 ? [parts.join(' · '), parts.slice(0, 2).join(' · ')] : [parts.join(' · ')].filter(Boolean);
};

const linkLook = (link) => {
  if (link.kind === 'fallback') return link.used > 0 ? 'fallback used' : 'fallback';
  if (link.kind === 'same') return 'same';
  if (link.held > 0 && link.held === link.of) return 'cut';
  return link.held > 0 && health(link.traffic) === 'good' ? 'hurt' : health(link.traffic);
};

// From 1.5 to 8, a step for each tenfold.
const thickness = (link) => (link.kind === 'traffic' ? Math.min(8, 1.5 + 1.4 * Math.log10(1 + 10 * busyness(link.traffic))) : 1.6);

export class Canvas {
  constructor(root, { choose }) {
    this.root = root;
    this.choose = choose;
    this.nodes = new Map();
    this.links = new Map();
    this.headings = svg('g');
    this.under = svg('g');
    this.over = svg('g');
    this.labels = svg('g', { 'aria-hidden': 'true' });
    root.append(this.headings, this.under, this.labels, this.over);
    this.zoom = null;
    this.size = { width: 0, height: 0 };
  }

  draw(picture, placed, chosen) {
    this.picture = picture;
    this.placed = placed;
    this.size = { width: placed.width, height: placed.height };
    this.root.setAttribute('viewBox', `0 0 ${placed.width} ${placed.height}`);
    this.scale();
    this.headings.replaceChildren(...placed.headings.map(({ x, kinds }) => {
      const names = [...kinds].map((kind) => HEADINGS[kind]).join(' · ');
      return text(x, 24, 'heading', names);
    }));
    this.#keep(this.nodes, picture.nodes, (node) => this.#makeNode(node), (entry, node) => this.#changeNode(entry, node));
    this.#ports();
    this.#keep(this.links, picture.links, (link) => this.#makeLink(link), (entry, link) => this.#changeLink(entry, link));
    this.#write();
    this.mark(chosen);
  }

  // As large as fits, between readable and natural size, or as large as asked.
  scale() {
    const room = this.root.parentElement.clientWidth;
    const tall = this.root.parentElement.clientHeight;
    const fitting = Math.min(1.15, Math.max(0.55, Math.min(room / this.size.width, Math.max(0.8, tall / this.size.height))));
    const zoom = this.zoom ?? fitting;
    this.shownZoom = zoom;
    this.root.style.width = `${Math.round(this.size.width * zoom)}px`;
    this.root.style.height = `${Math.round(this.size.height * zoom)}px`;
  }

  #keep(kept, wanted, make, change) {
    for (const [id, entry] of kept) {
      if (wanted.has(id)) continue;
      entry.group.remove();
      entry.label?.remove();
      kept.delete(id);
    }
    for (const [id, item] of wanted) {
      if (!kept.has(id)) kept.set(id, make(item));
      change(kept.get(id), item);
    }
  }

  #makeNode(node) {
    const group = svg('g', { tabindex: '-1', role: 'button' });
    group.dataset.id = node.id;
    group.addEventListener('click', () => this.choose(node.id));
    this.over.append(group);
    return { group, signature: '' };
  }

  #changeNode(entry, node) {
    const at = this.placed.places.get(node.id);
    entry.group.setAttribute('transform', `translate(${at.x} ${at.y})`);
    const face = this.#face(node, at);
    const signature = JSON.stringify([at.width, at.height, face]);
    entry.state = face.look;
    if (signature === entry.signature) return;
    entry.signature = signature;
    entry.group.setAttribute('class', `node ${node.kind} ${face.look}`);
    entry.group.setAttribute('aria-label', face.spoken);
    const box = { width: at.width, height: at.height, rx: node.kind === 'workload' ? at.height / 2 : 9 };
    const ring = { x: -5, y: -5, width: at.width + 10, height: at.height + 10, rx: box.rx + 5 };
    const inset = node.kind === 'workload' ? 20 : 13;
    const parts = [svg('rect', { class: 'box', ...box }), svg('rect', { class: 'ring', ...ring })];
    face.lines.forEach(([of, content], index) => parts.push(text(inset, 20 + 17 * index, of, content)));
    if (face.corner) parts.push(text(at.width - inset, 20, 'count', face.corner));
    face.rows.forEach(({ state, signs, name, count }, index) => {
      const y = 34 + 19 * index + 10;
      (signs ?? []).forEach((sign, place) => parts.push(glyph(sign, 13 + 18 * place, y - 10)));
      if (state) parts.push(glyph(state, 13, y - 10));
      parts.push(text(state ? 32 : 13, y, 'row', name), text(at.width - 13, y, 'count', count));
    });
    const title = svg('title');
    title.textContent = face.spoken;
    entry.group.replaceChildren(title, ...parts);
  }

  // What a node says: texts, and how it looks.
  #face(node, at) {
    if (node.kind === 'workload') {
      const { workload } = node;
      const where = node.several ? `${workload.node} · ${workload.namespace}` : workload.namespace;
      return {
        look: '', rows: [], lines: [['title', short(workload.name, 18)], ['sub', short(`${workload.kind} · ${where}`, 24)]],
        spoken: `Client ${workload.name}, ${workload.kind} in ${where}`,
      };
    }
    return node.kind === 'service' ? this.#serviceFace(node) : this.#backendsFace(node, at);
  }

  #serviceFace(node) {
    const { service, traffic, backends } = node;
    const held = backends.filter((backend) => backend.held_back).length;
    const all = backends.length > 0 && held === backends.length;
    const state = health(traffic);
    const look = service.gone ? 'gone' : all || state === 'bad' ? 'bad' : held > 0 || backends.length === 0 || state === 'hurt' ? 'hurt' : '';
    const quiet = traffic.requests + traffic.opened + traffic.failed === 0;
    const numbers = traffic.requests > 0 ? `${rate(requestRate(traffic))} req/s` : quiet && node.chosen > 0 ? `${rate(node.chosen)} chosen/s` : `${rate(connectionRate(traffic))} conn/s`;
    const p99 = timeAt(traffic, 0.99);
    const last = service.gone ? 'gone' : backends.length === 0 ? 'no backends' : held > 0 ? `✕ ${held} of ${backends.length}` : `${backends.length} backend${backends.length === 1 ? '' : 's'}`;
    return {
      look, rows: [], corner: '',
      lines: [
        ['title', short(service.name, 24)], ['sub', short(service.frontends.join(', ') || '–', 34)],
        [look === 'bad' || held > 0 ? 'sub warn' : 'sub', [last, numbers, p99 === null ? '' : duration(p99)].filter(Boolean).join(' · ')],
      ],
      spoken: `Service ${service.name}, ${numbers}, ${percent(failedShare(traffic) ?? 0)} failed, ${backends.length} backends, ${held} held back`,
    };
  }

  #backendsFace(node) {
    const held = node.backends.filter((backend) => backend.held_back).length;
    const order = [...node.backends].sort((one, other) => Number(other.held_back) - Number(one.held_back) || (one.key < other.key ? -1 : 1));
    const signs = node.listed ? [] : order.slice(0, MOST_SIGNS).map(stateOf);
    const rows = node.listed ? [] : [{ signs, name: '', count: order.length > MOST_SIGNS ? `+${order.length - MOST_SIGNS}` : '' }];
    if (node.listed) rows.push(...order.slice(0, MOST_ROWS).map((backend) => ({ state: stateOf(backend), name: short(backend.address, 24), count: `${backend.active} open` })));
    if (node.listed && order.length > MOST_ROWS) rows.push({ state: null, name: `and ${order.length - MOST_ROWS} more`, count: '' });
    const whole = node.service.split.reduce((total, one) => total + one.share, 0);
    const share = node.share && whole > 0 ? percent(node.share.share / whole) : '';
    const servers = short(node.servers.join(', '), 14);
    return {
      look: held === 0 ? '' : held === node.backends.length ? 'bad' : 'hurt', rows, corner: [servers, share].filter(Boolean).join(' · '),
      lines: [['title', short(node.version ?? (node.backends.length === 1 ? '1 backend' : `${node.backends.length} backends`), 20)]],
      spoken: `${node.version ? `Version ${node.version}` : 'Backends'} of ${node.service.name}: ${node.backends.length}, ${held} held back`,
    };
  }

  // Links leave and arrive side by side, in the order of what is at their other ends.
  #ports() {
    this.out = new Map();
    this.in = new Map();
    const places = this.placed.places;
    const towards = (link, other) => {
      const next = this.placed.vias.get(link.id)?.at(other === 'to' ? 0 : -1) ?? places.get(link[other]);
      return next.y + next.height / 2;
    };
    const spread = (key, other, side) => {
      for (const [id, links] of Map.groupBy(this.picture.links.values(), (link) => link[key])) {
        const at = places.get(id);
        if (!at) continue;
        links.sort((one, two) => towards(one, other) - towards(two, other) || (one.id < two.id ? -1 : 1));
        const step = Math.min(16, (at.height - 16) / Math.max(1, links.length - 1));
        links.forEach((link, index) => side.set(link.id, at.y + at.height / 2 + (index - (links.length - 1) / 2) * step));
      }
    };
    spread('from', 'to', this.out);
    spread('to', 'from', this.in);
  }

  #makeLink(link) {
    const group = svg('g', {}, svg('path', { class: 'hit' }), svg('path', { class: 'line' }), svg('path', { class: 'tip' }), svg('title'));
    group.addEventListener('click', () => this.choose(link.id));
    group.dataset.id = link.id;
    this.under.append(group);
    const label = this.labels.appendChild(svg('g', {}, svg('rect', { y: -8.5, height: 17, rx: 8.5 }), svg('text', { y: 4 })));
    return { group, label };
  }

  #changeLink(entry, link) {
    const from = this.placed.places.get(link.from);
    const to = this.placed.places.get(link.to);
    const [y1, y2] = [this.out.get(link.id), this.in.get(link.id)];
    const width = thickness(link);
    const tip = 6 + width;
    // A fallback in the same column is reached from the right, in a bow.
    const isBow = link.kind === 'fallback' && to.x <= from.x;
    const [x1, x2] = [from.x + from.width, isBow ? to.x + to.width + 3 : to.x - 3];
    const curves = [];
    let d = `M${x1} ${y1}`;
    let here = [x1, y1];
    const bendTo = (x, y) => {
      const bend = x > here[0] ? (x - here[0]) / 2 : 90;
      curves.push([here, [here[0] + bend, here[1]], [x - bend, y], [x, y]]);
      d += `C${here[0] + bend} ${here[1]} ${x - bend} ${y} ${x} ${y}`;
    };
    for (const via of this.placed.vias.get(link.id) ?? []) {
      bendTo(via.x, via.y + via.height / 2);
      here = [via.x + via.width, via.y + via.height / 2];
      d += `H${here[0]}`;
    }
    if (isBow) {
      const bow = Math.max(x1, x2) + 64;
      curves.push([here, [bow, y1], [bow, y2], [x2 + tip - 1, y2]]);
      d += `C${bow} ${y1} ${bow} ${y2} ${x2 + tip - 1} ${y2}`;
    } else {
      bendTo(x2 - tip + 1, y2);
    }
    const [hit, line, arrow, title] = entry.group.children;
    hit.setAttribute('d', d);
    line.setAttribute('d', d);
    line.setAttribute('stroke-width', width.toFixed(1));
    const back = isBow ? x2 + tip : x2 - tip;
    arrow.setAttribute('d', `M${back} ${y2 - tip * 0.62}L${x2} ${y2}L${back} ${y2 + tip * 0.62}z`);
    entry.look = linkLook(link);
    entry.group.setAttribute('class', `link ${entry.look}`);
    entry.curves = curves;
    entry.words = linkLabels(link);
    title.textContent = entry.words[0] ?? '';
  }

  // Labels where there is room: troubled links first, then the busiest.
  #write() {
    const rank = { bad: 0, cut: 0, 'fallback used': 1, hurt: 1, good: 2, fallback: 3, idle: 4, same: 5 };
    const busy = (id) => { const link = this.picture.links.get(id); return link.traffic ? busyness(link.traffic) : 0; };
    const sorted = [...this.links].sort(([one, a], [two, b]) => rank[a.look] - rank[b.look] || busy(two) - busy(one) || (one < two ? -1 : 1));
    const taken = [...this.placed.places.values()].map((at) => [at.x, at.y, at.x + at.width, at.y + at.height]);
    for (const [id, entry] of sorted) {
      const found = entry.words.map((words) => this.#room(entry.curves, words, taken)).find((one) => one !== null) ?? null;
      entry.label.setAttribute('class', found === null ? 'label none' : `label ${entry.look}`);
      if (found === null) continue;
      const [plate, words] = entry.label.children;
      words.textContent = found.words;
      plate.setAttribute('x', (-found.wide / 2).toFixed(1));
      plate.setAttribute('width', found.wide.toFixed(1));
      entry.label.setAttribute('transform', `translate(${found.at[0].toFixed(1)} ${found.at[1].toFixed(1)})`);
      taken.push(found.box);
    }
  }

  // A place on a link where these words cover nothing; null where there is none.
  #room(curves, words, taken) {
    const wide = words.length * LETTER + 8;
    const around = ([x, y]) => [x - wide / 2, y - 9, x + wide / 2, y + 9];
    // A long label would hide a short line: it stands above it.
    const rise = ([x, y], [start, , , end]) => [x, wide > 0.6 * Math.abs(end[0] - start[0]) ? y - 13 : y];
    const ends = curves.length > 1 ? [curves[0], curves.at(-1)] : curves;
    const isFree = (box) => taken.every((other) => box[2] <= other[0] || box[0] >= other[2] || box[3] <= other[1] || box[1] >= other[3]);
    const at = ends.flatMap((curve) => LABEL_AT.map((part) => rise(this.#point(curve, part), curve))).find((point) => isFree(around(point)));
    return at === undefined ? null : { words, wide, at, box: around(at) };
  }

  #point([a, b, c, d], t) {
    const at = (axis) => a[axis] * (1 - t) ** 3 + 3 * b[axis] * t * (1 - t) ** 2 + 3 * c[axis] * t * t * (1 - t) + d[axis] * t ** 3;
    return [at(0), at(1)];
  }

  // Shows what is chosen, with what it is linked to.
  mark(chosen) {
    const has = this.nodes.has(chosen) || this.links.has(chosen);
    this.root.classList.toggle('choosing', has);
    const near = new Set([chosen]);
    for (const link of this.picture.links.values()) {
      if (link.from !== chosen && link.to !== chosen && link.id !== chosen) continue;
      [link.id, link.from, link.to].forEach((id) => near.add(id));
    }
    for (const [id, { group }] of [...this.nodes, ...this.links]) {
      group.classList.toggle('chosen', id === chosen);
      group.classList.toggle('near', near.has(id));
      this.links.get(id)?.label?.classList.toggle('near', near.has(id));
    }
    this.#roving(this.nodes.has(chosen) ? chosen : this.at);
  }

  // One stop for the Tab key; arrow keys do the rest.
  #roving(id) {
    this.at = this.nodes.has(id) ? id : this.picture.nodes.keys().next().value;
    for (const [other, { group }] of this.nodes) group.setAttribute('tabindex', other === this.at ? '0' : '-1');
  }

  focus(id) {
    this.#roving(id);
    this.nodes.get(this.at)?.group.focus({ preventScroll: true });
    this.reveal(this.at);
  }

  reveal(id) {
    (this.nodes.get(id) ?? this.links.get(id))?.group.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }

  // The node an arrow key leads to.
  neighbour(id, key) {
    const places = this.placed.places;
    const here = places.get(id);
    if (!here) return this.at;
    const middle = (at) => at.y + at.height / 2;
    const all = [...this.picture.nodes.keys()].filter((other) => other !== id);
    const distance = (other) => Math.abs(middle(places.get(other)) - middle(here));
    const nearest = (ids) => ids.sort((one, two) => distance(one) - distance(two))[0];
    if (key === 'ArrowUp' || key === 'ArrowDown') {
      const sign = key === 'ArrowDown' ? 1 : -1;
      return nearest(all.filter((other) => places.get(other).x === here.x && sign * (places.get(other).y - here.y) > 0)) ?? id;
    }
    const sign = key === 'ArrowRight' ? 1 : -1;
    const beyond = all.filter((other) => sign * (places.get(other).x - here.x) > 0);
    const linked = [...this.picture.links.values()]
      .filter((link) => (sign > 0 ? link.from : link.to) === id).map((link) => (sign > 0 ? link.to : link.from)).filter((other) => beyond.includes(other));
    return nearest(linked) ?? nearest(beyond) ?? id;
  }
}
