// Builds the console into a folder: `node build/build.mjs FOLDER`. Every file gets a .gz beside it. What has a hash in
// its name never changes and may be kept for ever; index.html, the favicon and the licence list may not.
import * as esbuild from 'esbuild';
import { cpSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { generate } from './generate.mjs';
import { licences } from './licences.mjs';

const gui = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Names of the built files, relative to `folder`, in order. */
function filesIn(folder) {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

export async function build(folder) {
  generate();
  // Built beside and then renamed, so that a server that runs never sees half a console.
  const draft = `${folder}.building.${process.pid}`;
  rmSync(draft, { recursive: true, force: true });
  const worker = await bundle(draft, { worker: join(gui, 'src/worker.ts') }, {});
  const workerName = outputOf(worker.metafile, 'src/worker.ts', draft);
  const page = await bundle(draft, { main: join(gui, 'src/main.tsx'), style: join(gui, 'src/styles/main.css') },
    { WORKER_URL: JSON.stringify(workerName) });
  const html = readFileSync(join(gui, 'src/index.html'), 'utf8')
    .replace('%SCRIPT%', outputOf(page.metafile, 'src/main.tsx', draft))
    .replace('%STYLE%', outputOf(page.metafile, 'src/styles/main.css', draft));
  writeFileSync(join(draft, 'index.html'), html);
  cpSync(join(gui, 'src/favicon.svg'), join(draft, 'favicon.svg'));
  cpSync(join(gui, 'src/favicon.ico'), join(draft, 'favicon.ico'));
  writeFileSync(join(draft, 'licences.txt'), licences());
  let total = 0;
  for (const name of filesIn(draft)) {
    const packed = gzipSync(readFileSync(join(draft, name)), { level: 9 });
    writeFileSync(join(draft, `${name}.gz`), packed);
    if (name !== 'licences.txt') total += packed.length;
  }
  mkdirSync(dirname(folder), { recursive: true });
  rmSync(folder, { recursive: true, force: true });
  renameSync(draft, folder);
  return total;
}

async function bundle(folder, entryPoints, define) {
  return esbuild.build({
    entryPoints, define, outdir: folder, absWorkingDir: gui, bundle: true, splitting: true, format: 'esm', minify: true,
    metafile: true, target: ['es2022'], entryNames: 'assets/[name]-[hash]', chunkNames: 'assets/[name]-[hash]',
    jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none', logLevel: 'warning', charset: 'utf8',
  });
}

/** Where an entry point was written to, relative to the console's folder. */
function outputOf(metafile, entry, folder) {
  const found = Object.entries(metafile.outputs).find(([, output]) => output.entryPoint === entry);
  if (!found) throw new Error(`${entry} was not built`);
  return relative(folder, resolve(gui, found[0]));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const folder = process.argv[2];
  if (!folder || process.argv.length > 3) {
    console.error('usage: node build/build.mjs FOLDER\nIt writes the console into FOLDER, in place of what is there.');
    process.exit(2);
  }
  const bytes = await build(resolve(folder));
  console.log(`console: ${(bytes / 1024).toFixed(1)} KiB compressed, in ${folder}`);
}
