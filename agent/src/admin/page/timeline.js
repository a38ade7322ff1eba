// The last minutes as a strip: how much, how much of it failed, and when breakers changed.

import { svg } from './draw.js';

const TALL = 46;

export const drawHistory = (root, scrub, frames, shown, changes) => {
  const first = frames[0].t;
  const length = Math.max(60_000, frames.at(-1).t - first);
  const most = Math.max(1e-9, ...frames.map((frame) => frame.rate));
  const x = (t) => (t - first) / length * 1000;
  root.setAttribute('viewBox', `0 0 1000 ${TALL}`);
  const y = (rate) => TALL - rate / most * (TALL - 6);
  const path = frames.map((frame) => `L${x(frame.t).toFixed(1)} ${y(frame.rate).toFixed(1)}`).join('');
  const parts = [svg('path', { class: 'rate', d: `M${x(first)} ${TALL}${path}L${x(frames.at(-1).t).toFixed(1)} ${TALL}z` })];
  const mostFailed = Math.max(most * 0.05, ...frames.map((frame) => frame.failed));
  for (const frame of frames) {
    if (frame.failed <= 0) continue;
    const tall = 4 + frame.failed / mostFailed * (TALL * 0.55);
    parts.push(svg('rect', { class: 'failed', x: (x(frame.t) - 2).toFixed(1), y: (TALL - tall).toFixed(1), width: 4, height: tall.toFixed(1) }));
  }
  for (const change of changes) {
    const at = x(Date.parse(change.time));
    if (at < 0 || at > 1000) continue;
    const bad = change.event === 'breaker_opened' || change.event === 'rollout_rolled_back';
    parts.push(svg('path', { class: bad ? 'change bad' : 'change', d: `M${at.toFixed(1)} 0V${TALL}` }));
  }
  parts.push(svg('path', { class: 'now', d: `M${x(shown.t).toFixed(1)} 0V${TALL}` }));
  root.replaceChildren(...parts);
  scrub.max = String(frames.length - 1);
  scrub.value = String(frames.indexOf(shown));
};
