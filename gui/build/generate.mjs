// Makes src/gen from the protos that the console speaks. Needs protoc (PROTOC names another one than that in PATH).
import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const gui = join(dirname(fileURLToPath(import.meta.url)), '..');
const protos = join(gui, '..', 'proto');

const files = [
  'access', 'alert', 'audit', 'auth', 'cluster_record', 'console', 'discovery', 'health', 'latency', 'operation', 'placement',
  'repair', 'schedule', 'scrub', 'topology', 'types', 'usage', 'volume',
].map((name) => `tessera/v1/${name}.proto`);

/** Generates TypeScript into src/gen; throws with protoc's own words when a proto is wrong. */
export function generate() {
  const out = join(gui, 'src', 'gen');
  mkdirSync(out, { recursive: true });
  execFileSync(process.env.PROTOC ?? 'protoc', [
    '-I', protos,
    `--plugin=protoc-gen-es=${join(gui, 'node_modules', '.bin', 'protoc-gen-es')}`,
    `--es_out=${out}`, '--es_opt=target=ts,import_extension=none',
    ...files, 'google/rpc/error_details.proto',
  ], { stdio: 'inherit' });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) generate();
