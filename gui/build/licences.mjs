// The licences of what is built into the console, as one text.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const gui = join(dirname(fileURLToPath(import.meta.url)), '..');

/** One paragraph for each package that reaches the browser. */
export function licences() {
  const { dependencies } = JSON.parse(readFileSync(join(gui, 'package.json'), 'utf8'));
  return Object.keys(dependencies).sort().map((name) => {
    const folder = join(gui, 'node_modules', name);
    const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text = file ? readFileSync(join(folder, file), 'utf8').trim() : '';
    return `${name} ${about.version} (${about.license})\n\n${text}\n`;
  }).join('\n----------------------------------------\n\n');
}
