// Drives the console against a real cluster, one scenario a run: `main.mjs SCENARIO`. What only the one who started the
// cluster can do is asked for by a line "@ words" on stdout and answered by a line on stdin.
import { createInterface } from 'node:readline';
import { scenarios, type Stage } from './scenarios';
import { launch } from '../page/browser';

const [name = ''] = process.argv.slice(2);
const scenario = scenarios[name];
if (!scenario) throw new Error(`there is no scenario "${name}": ${Object.keys(scenarios).join(', ')}`);

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const browser = await launch();
const stage: Stage = {
  browser,
  origin: process.env['CONSOLE_URL'] ?? '',
  adminPassword: process.env['ADMIN_PASSWORD'] ?? '',
  async ask(words) {
    console.log(`@ ${words}`);
    const { value, done } = await answers.next();
    if (done) throw new Error(`nobody answered "${words}"`);
    return value as string;
  },
  say: (words) => console.log(words),
};
let code = 0;
try {
  await scenario(stage);
} catch (error) {
  code = 1;
  console.error(error);
  for (const context of browser.contexts()) {
    for (const page of context.pages()) {
      const text = await page.evaluate(() => document.body.innerText).catch(() => 'the page is gone');
      console.error(`--- ${page.url()}\n${text.slice(0, 3000)}`);
    }
  }
}
await browser.close();
process.exit(code);
