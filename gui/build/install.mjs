// Installs the packages of package-lock.json unless node_modules has exactly these already: after the first time nothing
// is asked of the network.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const gui = join(dirname(fileURLToPath(import.meta.url)), '..');
const stamp = join(gui, 'node_modules', '.tessera-lock-hash');
const hash = createHash('sha256').update(readFileSync(join(gui, 'package-lock.json'))).digest('hex');

if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) process.exit(0);
const { status } = spawnSync('npm', ['ci', '--prefer-offline', '--no-audit', '--no-fund'], { cwd: gui, stdio: 'inherit' });
if (status !== 0) {
  console.error('the console’s packages could not be installed: npm ci has to reach a registry once, or have them in its cache');
  process.exit(status ?? 1);
}
writeFileSync(stamp, hash);
