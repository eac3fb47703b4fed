// Runs tests: `node build/test.mjs [unit] [page] [--tap] [NAME..]`; with names only files that contain one of them.
// `node build/test.mjs serve` serves the console with the test double behind it; `node build/test.mjs real SCENARIO` plays one
// of test/real/scenarios.ts against a cluster that somebody else started.
import * as esbuild from 'esbuild';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from './build.mjs';
import { generate } from './generate.mjs';

const gui = join(dirname(fileURLToPath(import.meta.url)), '..');
// Below node_modules, so that packages are found and git does not see it. One for each run.
const folder = join(gui, 'node_modules', '.tests', String(process.pid));

const words = process.argv.slice(2);
const kinds = ['unit', 'page'].filter((kind) => words.includes(kind));
const names = words.filter((word) => !word.startsWith('-') && !['unit', 'page', 'serve'].includes(word));
const serve = words[0] === 'serve';
const real = words[0] === 'real';

const entries = serve ? [join(gui, 'test/fake/main.ts')] : real ? [join(gui, 'test/real/main.ts')]
  : (kinds.length > 0 ? kinds : ['unit', 'page']).flatMap((kind) => readdirSync(join(gui, 'test', kind))
    .filter((file) => file.endsWith('_test.ts') && (names.length === 0 || names.some((name) => file.includes(name))))
    .map((file) => join(gui, 'test', kind, file)));
if (entries.length === 0) {
  console.error(`no test file has ${names.join(' or ')} in its name`);
  process.exit(2);
}

mkdirSync(folder, { recursive: true });
let code = 1;
try {
  const environment = { ...process.env };
  if (!real && (serve || kinds.includes('page') || kinds.length === 0)) {
    environment.CONSOLE_DIR ??= join(folder, 'console');
    if (environment.CONSOLE_DIR === join(folder, 'console')) await build(environment.CONSOLE_DIR);
  } else {
    generate();
  }
  await esbuild.build({ entryPoints: entries, outdir: folder, outbase: join(gui, 'test'), bundle: true, platform: 'node', format: 'esm',
    packages: 'external', outExtension: { '.js': '.mjs' }, logLevel: 'warning', sourcemap: 'inline', target: 'node20' });
  const built = entries.map((entry) => join(folder, entry.slice(join(gui, 'test').length + 1).replace(/\.ts$/, '.mjs')));
  const options = serve || real ? [] : ['--test', '--test-concurrency=1', ...(words.includes('--tap') ? ['--test-reporter=tap'] : ['--test-reporter=spec'])];
  code = spawnSync(process.execPath, ['--enable-source-maps', ...options, ...built, ...(real ? words.slice(1) : [])], { stdio: 'inherit', env: environment }).status ?? 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit(code);
