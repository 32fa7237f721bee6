// docker-compose.yml as Compose reads it: anchors merged, ${VARIABLES} filled in. Starting what it describes is the tests'.

import { yaml } from './files.mjs';

/** The file with its variables from `env`. */
export function composeFile(env = {}) {
  return fill(yaml('docker-compose.yml'), env);
}

/** An entry of `volumes`, or undefined for a named volume: `{source, target}`. */
export function mount(entry) {
  const [source, target] = entry.split(':');
  return source.startsWith('.') ? { source, target } : undefined;
}

/** Seconds of a duration such as `50s`. */
export function seconds(duration) {
  const found = /^(\d+)s$/.exec(duration);
  if (!found) throw new Error(`not in seconds: ${duration}`);
  return Number(found[1]);
}

function fill(value, env) {
  if (typeof value === 'string') return fillText(value, env);
  if (Array.isArray(value)) return value.map((item) => fill(item, env));
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, fill(item, env)]));
  }
  return value;
}

/** `$$`, `${NAME}` and `${NAME:-default}`: what the file uses. Another form is a fault of the test. */
function fillText(text, env) {
  return text.replace(/\$(?:\$|\{(\w+)(?::-([^}]*))?\}|(.))/g, (whole, name, otherwise, stray) => {
    if (whole === '$$') return '$';
    if (stray !== undefined) throw new Error(`not understood: ${text}`);
    return env[name] || (otherwise ?? '');
  });
}
