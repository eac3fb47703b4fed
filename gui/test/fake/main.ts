// Serves the built console with the double behind it, to look at pages by hand: node build/test.mjs serve.
import { FakeMgmt } from './server';

const mgmt = new FakeMgmt(process.env['CONSOLE_DIR'] ?? '');
if (process.env['DEGRADED']) mgmt.world.degrade();
console.log(`${await mgmt.start(Number(process.env['PORT'] ?? 0))} (ada, otto or vera; the password is "correct horse")`);
setInterval(() => mgmt.poll(), 5000);
