// How each of these programs is started by hand: sizes from the environment, the outcome printed, an exit code.

/** A number from the environment. */
export function number(name, otherwise) {
  const text = process.env[name];
  if (text === undefined || text === '') return otherwise;
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new Error(`${name} must be a number: ${text}`);
  return value;
}

/** Whether a reader that has to call `sync` after a reconnect fails the run: yes, unless STRICT=0. */
export const STRICT = process.env.STRICT !== '0';

/** Runs it, prints its figures, and ends with 1 where anything in `faults` is said. */
export async function main(title, run) {
  const { figures, faults } = await run((line) => console.log(`  ${line}`));
  console.log(`\n${title}`);
  const width = Math.max(...Object.keys(figures).map((name) => name.length));
  for (const [name, value] of Object.entries(figures)) console.log(`  ${name.padEnd(width)}  ${value}`);
  for (const fault of faults) console.log(`  FAULT: ${fault}`);
  console.log(faults.length ? 'failed' : 'passed');
  process.exit(faults.length ? 1 : 0);
}

/** Whether this module is what node was told to run. */
export function isMain(meta) {
  return process.argv[1] === new URL(meta.url).pathname;
}

/** A line for each of these that is not 0. */
export function faultsOf(verdict) {
  const faults = [];
  for (const wrong of ['lost', 'doubled', 'disordered']) if (verdict[wrong]) faults.push(`${verdict[wrong]} ${wrong}`);
  return [...faults, ...verdict.examples];
}
