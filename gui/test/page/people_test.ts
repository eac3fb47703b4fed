// Who may do what, and what happens to the page when a session ends, begins, or is shared by tabs.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Role } from '../../src/gen/tessera/v1/access_pb';
import { allPages, goTo, openPage, signIn, Stage } from './browser';

let stage: Stage;
before(async () => {
  stage = await Stage.start();
  stage.mgmt.world.degrade();
});
after(() => stage.stop());

test('A viewer sees no enabled change button on any page, and the API refuses what the page would not send', async () => {
  const page = await stage.page({ as: 'vera' });
  const own = new Set(['End', 'Make token', 'Revoke', 'Change password']);   // what people may do with what is their own
  const enabled: string[] = [];
  let disabled = 0;
  const volume = `#/volumes/${stage.mgmt.world.volumes[0]?.volumeId}`;
  for (const [name, hash] of [...allPages, ['volume', volume] as const]) {
    await goTo(page, hash);
    const found = await page.locator('main [data-change]').evaluateAll((buttons) =>
      buttons.map((button) => ({ text: button.textContent ?? '', on: !(button as HTMLButtonElement).disabled, why: button.getAttribute('title') })));
    disabled += found.filter(({ on }) => !on).length;
    enabled.push(...found.filter(({ on, text }) => on && !own.has(text)).map(({ text }) => `${name}: ${text}`));
    assert.ok(found.every(({ on, why }) => on || (why ?? '') !== ''), `${name}: a disabled button says why`);
  }
  assert.deepEqual(enabled, []);
  assert.ok(disabled > 30, `only ${disabled} change buttons were there to be disabled`);
  const status = await page.evaluate(async () => {
    const answer = await fetch('/tessera.v1.VolumeService/CreateVolume', { method: 'POST',
      headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' }, body: new Uint8Array(5) });
    return answer.headers.get('grpc-status') ?? await answer.text();
  });
  assert.match(status, /7/);
  assert.deepEqual(page.watch.faults, []);
  await page.context().close();
});

test('When the session ends the sign-in page comes, and after it one is back where one was', async () => {
  const page = await stage.page();
  await goTo(page, '#/volumes?search=mail');
  stage.mgmt.expireSessions();
  await page.getByText('Your session is over').waitFor();
  await page.getByLabel('Name').fill('ada');
  await page.getByLabel('Password', { exact: true }).fill('correct horse');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Volumes' }).waitFor();
  await page.getByRole('link', { name: 'mail' }).waitFor();
  assert.match(page.url(), /#\/volumes\?search=mail$/);
  await page.context().close();
});

test('A wrong password is said without ending anything, and stays on the sign-in page', async () => {
  const context = await stage.browser.newContext();
  const page = await openPage(context, stage.origin);
  await page.goto(stage.origin);
  await page.getByLabel('Name').fill('ada');
  await page.getByLabel('Password', { exact: true }).fill('wrong');
  await page.getByRole('button', { name: 'Sign in' }).click();
  const alert = page.getByRole('alert');
  await alert.getByText('The name or the password is wrong.').waitFor();
  await alert.getByText('UNAUTHENTICATED · SIGN_IN_FAILED').waitFor();
  await context.close();
});

test('Who signs in with a one-time password has to choose one before anything else', async () => {
  stage.mgmt.world.addUser('nina', 'one-time', Role.VIEWER, true);
  const context = await stage.browser.newContext();
  const page = await openPage(context, stage.origin);
  await page.goto(stage.origin);
  await page.getByLabel('Name').fill('nina');
  await page.getByLabel('Password', { exact: true }).fill('one-time');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Choose a password' }).waitFor();
  assert.equal(await page.getByRole('navigation').count(), 0);
  await page.getByLabel('Present password').fill('one-time');
  await page.getByLabel('New password', { exact: true }).fill('short');
  await page.getByLabel('New password again').fill('short');
  await page.getByRole('button', { name: 'Change password' }).click();
  await page.locator('#field-newPassword-error').getByText('must have 10 to 128 bytes').waitFor();
  await page.getByLabel('New password', { exact: true }).fill('long enough now');
  await page.getByLabel('New password again').fill('long enough now');
  await page.getByRole('button', { name: 'Change password' }).click();
  await page.getByRole('heading', { level: 1, name: 'Dashboard' }).waitFor();
  await context.close();
});

test('Two tabs share one stream, both follow it, and signing out in one signs the other out', async () => {
  const first = await stage.page();
  const opened = stage.mgmt.hub.opened;
  const second = await openPage(first.context(), stage.origin);
  await second.goto(stage.origin);
  await second.getByRole('heading', { level: 1, name: 'Dashboard' }).waitFor();
  await second.locator('.stream-mark.live').waitFor();
  await second.locator('.verdict').waitFor();
  stage.mgmt.world.alerts[0]!.summary = 'SDS sds3 is seen by both tabs';
  stage.mgmt.poll();
  for (const page of [first, second]) await page.locator('.alerts').getByText('SDS sds3 is seen by both tabs').waitFor();
  assert.equal(stage.mgmt.hub.opened, opened, 'the second tab opened a stream of its own');
  assert.equal(stage.mgmt.hub.open, 1);
  await first.locator('.user-menu summary').click();
  await first.getByRole('button', { name: 'Sign out' }).click();
  await first.getByRole('heading', { name: 'Sign in' }).waitFor();
  await second.getByRole('heading', { name: 'Sign in' }).waitFor();
  await signIn(second, stage.origin);
  await first.getByRole('heading', { level: 1, name: 'Dashboard' }).waitFor();
  await first.context().close();
});
