// Working with volumes: by mouse, by keyboard, one and many, with what is refused.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { goTo, Stage } from './browser';

let stage: Stage;
before(async () => { stage = await Stage.start(); });
after(() => stage.stop());

test('A volume is created, mapped, snapshot, resized, unmapped and deleted', async () => {
  const page = await stage.page();
  await goTo(page, '#/volumes');
  await page.getByRole('button', { name: 'Create volume' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name').fill('orders');
  await dialog.getByLabel('Size').fill('8GiB');
  const command = (tool: string) => dialog.locator(`[data-command=${tool}]`).textContent();
  assert.equal(await command('tessera'), 'tessera volume create orders --size 8GiB --pool pool1');
  assert.equal(await command('grpcurl'), 'grpcurl -plaintext -H "authorization: Bearer $TESSERA_TOKEN" -d '
    + `'{"name":"orders","poolName":"pool1","sizeBytes":"8589934592","provisioning":"PROVISIONING_THIN"}' $TESSERA_MGMT tessera.v1.VolumeService/CreateVolume`);
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  await page.getByRole('link', { name: 'orders' }).click();
  await page.getByRole('heading', { level: 1, name: 'orders' }).waitFor();
  await page.getByRole('button', { name: 'Map', exact: true }).click();
  await page.getByRole('button', { name: 'Map volume' }).click();
  await page.getByText('nbd://192.0.2.1:10809/orders').waitFor();
  assert.ok(await page.getByRole('button', { name: 'Delete', exact: true }).isDisabled());
  await page.getByRole('button', { name: 'Snapshot', exact: true }).click();
  await dialog.getByLabel('Name').fill('orders-before');
  await page.getByRole('button', { name: 'Create snapshot' }).click();
  await page.locator('.tree').getByRole('link', { name: 'orders-before' }).waitFor();
  await page.getByRole('button', { name: 'Resize' }).click();
  await dialog.getByLabel('New size').fill('12GiB');
  await page.getByRole('button', { name: 'Resize volume' }).click();
  await page.locator('.facts').getByText('12 GiB').waitFor();
  await page.getByRole('button', { name: 'Unmap from sdc1' }).click();
  await page.getByRole('button', { name: 'Unmap volume' }).click();
  await page.getByText('Nobody has it mapped.').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Delete', exact: true }).getAttribute('title'), 'Delete its snapshots first');
  await goTo(page, '#/volumes?tab=snapshots');
  await page.getByRole('button', { name: 'Delete orders-before' }).click();
  await dialog.getByLabel('Keep in the trash for').fill('0s');
  await dialog.getByLabel('Type orders-before to confirm').fill('orders-before');
  await dialog.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByRole('link', { name: 'orders-before' }).waitFor({ state: 'detached' });
  await goTo(page, '#/volumes');
  await page.getByRole('link', { name: 'orders', exact: true }).click();
  await page.getByText('It has no snapshots.').waitFor();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  const remove = dialog.getByRole('button', { name: 'Delete', exact: true });
  assert.ok(await remove.isDisabled(), 'deletion does not ask for the name');
  await dialog.getByLabel('Type orders to confirm').fill('order');
  assert.ok(await remove.isDisabled(), 'another name confirms');
  await dialog.getByLabel('Type orders to confirm').fill('orders');
  await remove.click();
  await page.getByRole('heading', { level: 1, name: 'Volumes' }).waitFor();
  await page.getByRole('link', { name: 'orders', exact: true }).waitFor({ state: 'detached' });
  assert.deepEqual(page.watch.faults, []);
  await page.context().close();
});

test('A volume is created by keyboard alone, and the focus is where it was afterwards', async () => {
  const page = await stage.page();
  await page.keyboard.press('g');
  await page.keyboard.press('v');
  await page.getByRole('heading', { level: 1, name: 'Volumes' }).waitFor();
  await page.getByRole('link', { name: 'db-main', exact: true }).waitFor();
  await page.waitForFunction(() => document.activeElement?.tagName === 'H1');
  await page.keyboard.press('Tab');
  await page.waitForFunction(() => document.activeElement?.textContent === 'Create volume');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.activeElement?.id === 'field-name');
  await page.keyboard.type('by-keyboard');
  await page.keyboard.press('Tab');
  await page.keyboard.type('1GiB');
  // The dialog keeps the focus: however often one goes on, one stays inside.
  for (let presses = 0; presses < 25; presses += 1) {
    await page.keyboard.press('Tab');
    assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement?.closest('dialog') !== null));
  }
  await page.locator('#field-name').focus();
  await page.keyboard.press('Enter');
  await page.getByRole('link', { name: 'by-keyboard' }).waitFor();
  await page.waitForFunction(() => document.activeElement?.textContent === 'Create volume');
  await page.keyboard.press('/');
  await page.keyboard.type('by-key');
  await page.getByText('1 shown').waitFor();
  await page.keyboard.press('Tab');
  await page.context().close();
});

test('What the server refuses stands next to its field, with the words of the server', async () => {
  const page = await stage.page();
  await goTo(page, '#/volumes');
  await page.getByRole('button', { name: 'Create volume' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name').fill('no name');
  await dialog.getByLabel('Size').fill('much');
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  await dialog.locator('#field-size-error').getByText('This is no size').waitFor();
  await dialog.getByLabel('Size').fill('1GiB');
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  await dialog.locator('#field-name-error').getByText(`'no name' is no name`).waitFor();
  await page.waitForFunction(() => document.activeElement?.id === 'field-name');
  assert.equal(await dialog.getByLabel('Name').getAttribute('aria-invalid'), 'true');
  await dialog.getByLabel('Name').fill('odd');
  await dialog.getByLabel('Size').fill('1000');
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  // The request calls it size_bytes.
  await dialog.locator('#field-size-error').getByText('must be a multiple of 4,096').waitFor();
  await dialog.getByLabel('Size').fill('1GiB');
  await dialog.getByLabel('Name').fill('db-main');
  await dialog.getByRole('button', { name: 'Create volume' }).click();
  await dialog.getByRole('alert').getByText(`A volume is called 'db-main' already.`).waitFor();
  await dialog.getByText('Choose another name.').waitFor();
  await dialog.getByText('ALREADY_EXISTS').waitFor();
  await page.context().close();
});

test('Of several that are deleted at once those that are mapped stay, and are named', async () => {
  const page = await stage.page();
  await goTo(page, '#/volumes');
  for (const name of ['db-main', 'metrics', 'registry']) await page.getByLabel(`Choose ${name}`, { exact: true }).check();
  await page.getByText('3 chosen').waitFor();
  await page.getByRole('button', { name: 'Snapshot chosen' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Each is named after').fill('-together');
  assert.equal(await dialog.locator('[data-command=tessera]').textContent(),
    'tessera snapshot create db-main db-main-together --also registry=registry-together --also metrics=metrics-together');
  await dialog.getByRole('button', { name: 'Create 3 snapshots' }).click();
  await dialog.waitFor({ state: 'detached' });
  for (const name of ['db-main', 'vm-alpine-02', 'backup-staging']) await page.getByLabel(`Choose ${name}`, { exact: true }).check();
  await page.getByRole('button', { name: 'Delete chosen' }).click();
  await dialog.getByLabel('Type 3 volumes to confirm').fill('3 volumes');
  await dialog.getByRole('button', { name: 'Delete 3 volumes' }).click();
  await dialog.getByRole('alert').getByText('volume db-main is mapped to sdc1', { exact: false }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('link', { name: 'vm-alpine-02', exact: true }).waitFor({ state: 'detached' });
  assert.equal(await page.getByRole('link', { name: 'db-main', exact: true }).count(), 1);
  await page.context().close();
});

test('A server that can’t go into maintenance says why, and what to do', async () => {
  const page = await stage.page();
  await goTo(page, '#/topology?show=sds%2F1');
  await page.getByRole('button', { name: 'Enter maintenance' }).click();
  const dialog = page.getByRole('dialog');
  assert.equal(await dialog.locator('[data-command=tessera]').textContent(), 'tessera sds maintenance enter sds1 --for 1h');
  await dialog.getByRole('button', { name: 'Enter maintenance' }).click();
  await dialog.getByText('FAILED_PRECONDITION · MAINTENANCE_UNSAFE').waitFor();
  await dialog.getByText('Wait until rebuilds are done').waitFor();
  await page.context().close();
});
