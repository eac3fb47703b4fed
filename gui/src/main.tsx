// The console: puts its parts together.
import { render } from 'preact';
import { onSessionOver } from './api/clients';
import { openLink } from './api/link';
import { App } from './components/App';
import { startClock } from './store/clock';
import { forgetLive, streamStatus, takeMessage } from './store/live';
import { setRetry } from './store/retry';
import { startRouter } from './store/router';
import { askWhoIAm, onSession, sessionExpired, sessionState } from './store/session';
import { startTheme } from './store/theme';

startTheme();
startRouter();
startClock();
onSessionOver(sessionExpired);

const link = openLink({
  onStatus(status) {
    streamStatus.set(status);
    if (status.state === 'signed-out') sessionExpired();
  },
  onMessage: takeMessage,
  onIdentity: () => void askWhoIAm(),
});
setRetry(() => link.send({ type: 'retry' }));

let before = sessionState().state;
let firstAnswer = true;
onSession(() => {
  const { state } = sessionState();
  if (state === before) return;
  const cameFromAsking = firstAnswer;
  firstAnswer = false;
  before = state;
  if (state === 'signed-in') {
    streamStatus.set({ state: 'connecting' });
    link.send({ type: cameFromAsking ? 'hello' : 'signed-in' });
  } else {
    forgetLive();
    // A session that merely was not there when the page was opened is no news to other tabs.
    if (!cameFromAsking && state === 'signed-out') link.send({ type: 'signed-out' });
  }
});

void askWhoIAm();

const root = document.getElementById('console');
if (root) {
  root.textContent = '';
  render(<App />, root);
}
