// The tab "Where the time goes" of a volume: what its clients say, what they don't, and that nobody is asked too often.
import assert from 'node:assert/strict';
import type { Page } from 'playwright-core';
import { after, before, test } from 'node:test';
import { accessibilityFaults, goTo, Stage } from './browser';

let stage: Stage;
before(async () => { stage = await Stage.start(); });
after(() => stage.stop());

const plain = (text: string | null) => (text ?? '').replaceAll('\u00a0', ' ').trim();
const pageOf = (name: string) => `#/volumes/${stage.mgmt.world.volumes.find((volume) => volume.name === name)?.volumeId}?tab=latency`;
const asked = () => stage.mgmt.calls.filter((call) => call.endsWith('/ExplainLatency')).length;

/** A table's rows, each by its columns' heads. */
async function rowsOf(page: Page, caption: string): Promise<Record<string, string>[]> {
  const rows = await page.getByRole('table', { name: caption, exact: true }).locator('tbody tr').evaluateAll((found) => found.map((row) =>
    Object.fromEntries([...row.querySelectorAll('td')].map((cell) => [cell.getAttribute('data-label') ?? '', cell.textContent ?? '']))));
  return rows.map((row) => Object.fromEntries(Object.entries(row).map(([head, text]) => [head, plain(text)])));
}

test('The causes stand largest first, each with its share, a sentence, its server and device, and what to do', async () => {
  const page = await stage.page({ as: 'vera' });
  await goTo(page, pageOf('db-main').replace('?tab=latency', ''));
  await page.getByRole('link', { name: 'Where the time goes' }).click();
  await page.locator('.verdict').getByText('62 % of all time beyond the best case: writes being written to the journal of device /dev/nvme1n1 of server sds2').waitFor();
  const causes = await rowsOf(page, 'Causes');
  assert.deepEqual(causes.map((cause) => [cause['Share'], cause['Cause']?.split(/ \d/)[0], cause['Where'], cause['Mean'], cause['p99']]), [
    ['62 %', 'Writes: journal', 'sds2/dev/nvme1n1', '4.1 ms', '18 ms'], ['21 %', 'Reads: network', 'sds4', '410 µs', '1.2 ms'],
    ['< 1 %', 'Writes: qos wait', 'client', '900 µs', '2.1 ms']]);
  assert.match(causes[1]?.['Cause'] ?? '', /^Reads: network 21 % of all time .+ 90 µs at best\. What to do: look at the network and the load of both hosts\.$/);
  const widths = await page.getByRole('table', { name: 'Causes', exact: true }).locator('.bar').evaluateAll((bars) => bars.map((bar) =>
    [bar.getAttribute('aria-hidden'), ((bar.firstElementChild?.getBoundingClientRect().width ?? 0) / bar.clientWidth).toFixed(1)]));
  assert.deepEqual(widths, [['true', '0.6'], ['true', '0.2'], ['true', '0.0']]);
  assert.deepEqual((await rowsOf(page, 'What requests took'))[1], { Requests: 'Writes', Answered: '88,210', Mean: '4.8 ms', p50: '4.3 ms', p99: '21 ms', Slowest: '310 ms', 'Best case': '520 µs' });
  assert.match((await rowsOf(page, 'Replicas that writes waited for'))[0]?.['Cause'] ?? '', /^Writes: slowest replica Writes waited 3\.4 ms on average for device/);
  await page.getByRole('link', { name: 'sds2' }).first().click();
  await page.getByRole('heading', { level: 1, name: 'Topology' }).waitFor();
  assert.deepEqual(page.watch.faults, []);
  await page.context().close();
});

test('The slowest requests say what they were, and where their time went, the longest part first', async () => {
  const page = await stage.page();
  await goTo(page, pageOf('db-main'));
  const [write, flush] = await rowsOf(page, 'Slowest requests');
  assert.equal(write?.['Took'], '310 ms');
  assert.equal(write?.['Request'], 'write of 64 KiB at 5 GiB');
  assert.match(write?.['Of it'] ?? '', /^journal 301 ms at sds2network 8\.1 ms at server 5client queue 900 µs$/);
  assert.match(write?.['When'] ?? '', /^\d+ s ago$/);
  assert.equal(flush?.['Request'], 'flush');
  await page.context().close();
});

test('Window and operation are chosen, stand in the address, and in the commands that do the same', async () => {
  const page = await stage.page();
  await goTo(page, pageOf('db-main'));
  const command = (tool: string) => page.locator(`[data-command=${tool}]`).textContent();
  assert.equal(await command('tessera'), 'tessera volume latency db-main --window 5m');
  await page.getByText('The last 5 min, asked').waitFor();
  await page.getByRole('group', { name: 'How far back' }).getByRole('button', { name: '10 min' }).click();
  await page.getByText('The last 10 min, asked').waitFor();
  await page.getByLabel('Requests').selectOption('Writes');
  await page.getByRole('table', { name: 'What requests took' }).getByText('Reads').waitFor({ state: 'detached' });
  await page.getByRole('table', { name: 'What requests took' }).getByText('Writes').waitFor();
  assert.equal(await command('tessera'), 'tessera volume latency db-main --window 10m --operation write');
  const id = stage.mgmt.world.volumes[0]?.volumeId;
  assert.equal(await command('grpcurl'), 'grpcurl -plaintext -H "authorization: Bearer $TESSERA_TOKEN" -d '
    + `'{"volumeId":"${id}","windowS":600,"operation":"LATENCY_OPERATION_WRITE"}' $TESSERA_MGMT tessera.v1.LatencyService/ExplainLatency`);
  assert.match(page.url(), /tab=latency&window=600&operation=write/);
  await goTo(page, `${pageOf('db-main')}&window=7&operation=everything`);
  await page.getByText('The last 5 min, asked').waitFor();
  await page.context().close();
});

test('Clients are asked once on opening and once by Refresh, and by nothing else', async () => {
  const page = await stage.page();
  await goTo(page, pageOf('db-main').replace('?tab=latency', ''));
  const before = asked();
  await goTo(page, pageOf('db-main'));
  await page.getByRole('table', { name: 'Causes', exact: true }).waitFor();
  assert.equal(asked(), before + 1);
  // A poll, and an event of volumes, which lists are read again at: the second name is there when both were worked off.
  stage.mgmt.poll();
  const volume = stage.mgmt.world.volumes[0];
  assert.ok(volume);
  volume.labels = { team: 'billing' };
  volume.name = 'db-renamed';
  stage.mgmt.hub.send({ case: 'objects', value: { $typeName: 'tessera.v1.ObjectsChanged', topology: true, volumes: true } });
  await page.getByRole('heading', { level: 1, name: 'db-renamed' }).waitFor();
  assert.equal(asked(), before + 1);
  volume.name = 'db-main';
  stage.mgmt.hub.send({ case: 'objects', value: { $typeName: 'tessera.v1.ObjectsChanged', topology: false, volumes: true } });
  await page.getByRole('heading', { level: 1, name: 'db-main' }).waitFor();
  const answer = page.waitForResponse(/ExplainLatency/);
  await page.getByRole('button', { name: 'Refresh' }).click();
  await answer;
  assert.equal(asked(), before + 2);
  await page.context().close();
});

test('A volume that nobody has mapped has no answer: the server’s words stand there, and nothing is called a fault', async () => {
  const page = await stage.page();
  await goTo(page, pageOf('metrics'));
  await page.locator('.empty').getByText('Volume metrics is mapped to no client, and only clients know what its requests take: map it, use it, and ask again.').waitFor();
  assert.equal(await page.getByRole('alert').count(), 0);
  assert.equal(await page.locator('[data-command=tessera]').textContent(), 'tessera volume latency metrics --window 5m');
  assert.deepEqual(await accessibilityFaults(page), []);
  await page.context().close();
});

test('A volume that nobody used meanwhile says so', async () => {
  const page = await stage.page();
  await goTo(page, pageOf('mail'));
  await page.locator('.empty').getByText('No requests in the last 5 min.').waitFor();
  assert.equal(await page.getByRole('table').count(), 0);
  await page.context().close();
});

test('Clients that are silent are named; when all are, the server’s words say so until one answers again', async (context) => {
  const world = stage.mgmt.world;
  context.after(() => world.silentClients.clear());
  const shared = world.addVolume({ name: 'shared' });
  world.map(shared, 1n);
  world.map(shared, 2n);
  world.silentClients.add(2n);
  const page = await stage.page();
  await goTo(page, pageOf('shared'));
  await page.getByText('Without clients that did not answer: sdc2.').waitFor();
  world.silentClients.add(1n);
  await page.getByRole('button', { name: 'Refresh' }).click();
  const alert = page.getByRole('alert');
  await alert.getByText('No client of volume shared says what its requests take: client sdc1: deadline exceeded; client sdc2: deadline exceeded.').waitFor();
  await alert.getByText('UNAVAILABLE').waitFor();
  // What was known stays, with its age.
  assert.equal((await rowsOf(page, 'Causes')).length, 3);
  assert.deepEqual(await accessibilityFaults(page), []);
  world.silentClients.clear();
  await alert.getByRole('button', { name: 'Try again' }).click();
  await alert.waitFor({ state: 'detached' });
  await page.getByText('Without clients that did not answer').waitFor({ state: 'detached' });
  await page.context().close();
});

for (const theme of ['light', 'dark'] as const) {
  test(`On a telephone in ${theme} colours nothing scrolls sideways, and no serious accessibility fault is found`, async () => {
    const page = await stage.page({ viewport: { width: 360, height: 740 }, colorScheme: theme });
    await goTo(page, pageOf('db-main'));
    const wide = await page.evaluate(() => [...document.querySelectorAll('html, main, .table-box')]
      .filter((element) => element.scrollWidth > element.clientWidth + 1).map((element) => element.className || element.tagName));
    assert.deepEqual(wide, []);
    assert.deepEqual(await accessibilityFaults(page), []);
    await page.context().close();
  });
}
