// How heavy the console is, how fast, and that it keeps to itself.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { allPages, consoleFolder, goTo, openPage, signIn, Stage } from './browser';
import { costsOfVolumeList, metric, startMeasuring } from './measure';

let stage: Stage;
before(async () => { stage = await Stage.start(); });
after(() => stage.stop());

const weightLimit = 200 * 1024;
/** What one interaction may take of the main thread's own time: other programs on the machine do not count. */
const taskLimitMs = 100;

test('All files together are under 200 KiB compressed, and each has its compressed form beside it', () => {
  const files = readdirSync(consoleFolder, { recursive: true }).map(String).filter((name) => statSync(join(consoleFolder, name)).isFile());
  const packed = files.filter((name) => name.endsWith('.gz'));
  const plain = files.filter((name) => !name.endsWith('.gz'));
  assert.deepEqual(plain.map((name) => `${name}.gz`).sort(), packed.sort());
  const bytes = packed.reduce((sum, name) => sum + statSync(join(consoleFolder, name)).size, 0);
  console.log(`the console is ${(bytes / 1024).toFixed(1)} KiB compressed, ${plain.length} files`);
  assert.ok(bytes < weightLimit, `${bytes} bytes`);
});

test('The page has no inline script or style, and no address of another server', () => {
  const html = readFileSync(join(consoleFolder, 'index.html'), 'utf8');
  assert.doesNotMatch(html, /<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=/);
  for (const name of readdirSync(join(consoleFolder, 'assets')).filter((file) => /\.(js|css)$/.test(file))) {
    const text = readFileSync(join(consoleFolder, 'assets', name), 'utf8');
    const addresses = [...text.matchAll(/https?:\/\/[\w.-]+/g)].map(([address]) => address)
      .filter((address) => !/^http:\/\/www\.w3\.org/.test(address));
    assert.deepEqual([...new Set(addresses)].filter((address) => /fonts|cdn|unpkg|googleapis\.com\/css/.test(address)), []);
  }
});

test('No page breaks the content security policy or asks another server', async () => {
  const context = await stage.browser.newContext();
  await context.addInitScript(() => addEventListener('securitypolicyviolation', (event) =>
    console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`)));
  const page = await openPage(context, stage.origin);
  await signIn(page, stage.origin);
  for (const [, hash] of allPages) await goTo(page, hash);
  await goTo(page, '#/volumes');
  await page.getByRole('button', { name: 'Create volume' }).click();
  await page.getByRole('dialog').waitFor();
  assert.deepEqual(page.watch.faults, []);
  await context.close();
});

test('The first view with an empty cache is quick', async () => {
  const context = await stage.browser.newContext();
  const page = await openPage(context, stage.origin);
  const session = await startMeasuring(page);
  await page.goto(stage.origin);
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0);
  const work = await metric(session, 'TaskDuration');
  console.log(`first paint after ${paint.toFixed(0)} ms, ${(1000 * work).toFixed(0)} ms of the main thread`);
  assert.ok(work > 0 && work < 1, `${work} s of work`);
  await context.close();
});

test('A list of 1,000 volumes sorts, searches, pages, chooses and opens a dialog in under 100 ms each', async () => {
  for (let number = 1; number <= 1000; number += 1) {
    const volume = stage.mgmt.world.addVolume({ name: `vm-${String(number).padStart(4, '0')}-disk`, sizeBytes: BigInt(number) << 30n });
    if (number % 3 === 0) stage.mgmt.world.map(volume, 1n);
  }
  const page = await stage.page();
  const session = await startMeasuring(page);
  await goTo(page, '#/volumes');
  await page.getByText('1,011 shown').waitFor();
  const costs = await costsOfVolumeList(page, session);
  for (const [name, cost] of costs) console.log(`${name}: ${cost.toFixed(0)} ms`);
  assert.deepEqual(costs.filter(([, cost]) => cost > taskLimitMs), []);
  const rows = await page.locator('tbody tr').count();
  assert.ok(rows <= 50, `${rows} rows are in the page`);
  await page.context().close();
});
