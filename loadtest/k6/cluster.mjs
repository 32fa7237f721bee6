// Starts two nodes as the end-to-end tests do, loads them with k6, and stops them. Its end is k6's.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Cluster } from '../../tests/e2e/harness/setups.mjs';

const setup = new Cluster();
let code = 1;
try {
  await setup.start();
  const admin = await setup.admin();
  const env = { ...process.env, BASE_URL: setup.url, ADMIN_EMAIL: admin.user.email, ADMIN_PASSWORD: admin.password };
  const k6 = spawn('k6', ['run', '--quiet', fileURLToPath(new URL('chat.js', import.meta.url))], { env, stdio: 'inherit' });
  // Interrupted with this one, by the terminal: it prints its summary, and its end is waited for.
  process.removeAllListeners('SIGINT').on('SIGINT', () => {});
  [code] = await once(k6, 'exit');
} finally {
  await setup.stop();
}
process.exit(code ?? 1);
