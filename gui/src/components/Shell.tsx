// The frame around every page: where one can go, whether what is shown is true now, who one is.
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { AlertState } from '../gen/tessera/v1/alert_pb';
import { Role } from '../gen/tessera/v1/access_pb';
import type { Session, User } from '../gen/tessera/v1/auth_pb';
import { roleName } from '../store/access';
import { useNow } from '../store/clock';
import { activeAlerts, useOverview, useStreamStatus } from '../store/live';
import { retryStream } from '../store/retry';
import { linkTo, useRoute } from '../store/router';
import { signOut } from '../store/session';
import { useStore } from '../store/store';
import { setTheme, useTheme, type Theme } from '../store/theme';
import { Age } from './basics';
import { formatAge, formatDuration } from './format';
import { say } from './dialogs';
import { describeError } from '../api/errors';

interface Entry {
  path: string;
  label: string;
  key: string;
  adminOnly?: boolean;
}

/** The pages, and the letter that leads to each after "g". */
export const entries: Entry[] = [
  { path: '', label: 'Dashboard', key: 'd' }, { path: 'topology', label: 'Topology', key: 't' },
  { path: 'volumes', label: 'Volumes', key: 'v' }, { path: 'health', label: 'Health', key: 'h' },
  { path: 'alerts', label: 'Alerts', key: 'a' }, { path: 'monitoring', label: 'Monitoring', key: 'm' },
  { path: 'operations', label: 'Operations', key: 'o' }, { path: 'users', label: 'Users', key: 'u' },
  { path: 'audit', label: 'Audit', key: 'l', adminOnly: true }, { path: 'settings', label: 'Settings', key: 's' },
];

export function Shell({ user, session, children, onHelp }: {
  user: User; session: Session | null; children: ComponentChildren; onHelp(): void;
}) {
  const route = useRoute();
  const here = route.path[0] ?? '';
  const [menu, setMenu] = useState(false);
  const main = useRef<HTMLElement>(null);
  const page = route.path.join('/');
  const first = useRef(true);
  useEffect(() => {
    setMenu(false);
    // Another page: its heading is read out, and the next Tab goes on from there.
    if (first.current) first.current = false;
    else main.current?.querySelector<HTMLElement>('h1')?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [page]);
  const lost = useStreamStatus().state === 'lost';
  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={(event) => {
        event.preventDefault();
        main.current?.focus();
      }}>Skip to the page</a>
      <header class="top">
        <button type="button" class="quiet menu-button" aria-expanded={menu} aria-controls="pages" onClick={() => setMenu(!menu)}>
          <span aria-hidden="true">☰</span><span class="hidden">Pages</span>
        </button>
        <a class="brand" href={linkTo([])}><img src="favicon.svg" alt="" width="22" height="22" />Tessera</a>
        <ClusterName />
        <StreamMark />
        <UserMenu user={user} session={session} onHelp={onHelp} />
      </header>
      <nav id="pages" class={menu ? 'pages open' : 'pages'} aria-label="Pages">
        <ul>
          {entries.filter((entry) => !entry.adminOnly || user.role === Role.ADMIN).map((entry) => (
            <li key={entry.path}>
              <a href={linkTo(entry.path === '' ? [] : [entry.path])} aria-current={here === entry.path ? 'page' : undefined}>
                {entry.label}{entry.path === 'alerts' && <AlertCount />}
              </a>
            </li>
          ))}
        </ul>
      </nav>
      <main id="main" ref={main} tabIndex={-1} class={lost ? 'old' : ''}>
        <StreamNotice />
        {children}
      </main>
    </div>
  );
}

function ClusterName() {
  const name = useOverview()?.clusterName;
  return <span class="cluster-name">{name}</span>;
}

function AlertCount() {
  const count = useStore(activeAlerts, (alerts) => [...alerts.values()].filter(({ state }) => state === AlertState.ACTIVE).length);
  return count > 0 ? <span class="count"><span class="hidden">, </span>{count}<span class="hidden"> active</span></span> : null;
}

/** Whether what is shown is true now. */
function StreamMark() {
  const status = useStreamStatus();
  const polled = useOverview()?.polledMs ?? 0n;
  return (
    <span class={`stream-mark ${status.state}`}>
      {status.state === 'live' ? <>Live<span class="wide-only">, figures of <Age ms={polled} never="no poll yet" /></span></>
        : status.state === 'lost' ? 'Not live' : 'Connecting'}
    </span>
  );
}

function StreamNotice() {
  const status = useStreamStatus();
  const now = useNow();
  const overview = useOverview();
  if (status.state === 'lost') {
    const wait = Math.max(0, status.retryAtMs - Date.now());
    return (
      <div class="notice" role="status">
        <p>
          <strong>As of {formatAge(status.sinceMs, Date.now())}.</strong> The connection is lost ({status.reason}).
          {wait > 999 ? ` Tried again in ${formatDuration(wait)}.` : ' Trying again.'}
        </p>
        <button type="button" onClick={retryStream}>Try now</button>
      </div>
    );
  }
  if (overview && !overview.mdmAnswers) {
    return (
      <div class="notice" role="status">
        <p>
          <strong>The MDM does not answer.</strong> What it knows is
          as of {overview.mdmAnsweredMs > 0n ? formatAge(overview.mdmAnsweredMs, now) : 'never'}; volumes and topology can’t be changed.
          IO of clients goes on meanwhile.
        </p>
      </div>
    );
  }
  return null;
}

function UserMenu({ user, session, onHelp }: { user: User; session: Session | null; onHelp(): void }) {
  const theme = useTheme();
  const menu = useRef<HTMLDetailsElement>(null);
  const leave = () => void signOut().catch((error: unknown) => say(describeError(error).message));
  return (
    <details class="user-menu" ref={menu} onKeyDown={(event) => {
      if (event.key !== 'Escape' || !menu.current) return;
      menu.current.open = false;
      menu.current.querySelector('summary')?.focus();
    }}>
      <summary><span class="hidden">Signed in as </span>{user.userName}</summary>
      <div class="menu-box">
        <p>Role {roleName(user.role)}{session && <>, session ends <Age ms={session.expiresMs} /></>}</p>
        <div class="field">
          <label for="theme">Colours</label>
          <select id="theme" onChange={(event) => setTheme(event.currentTarget.value as Theme)}>
            {(['system', 'light', 'dark'] as const).map((one) => (
              <option key={one} value={one} selected={theme === one}>{one === 'system' ? 'As the system' : one === 'light' ? 'Light' : 'Dark'}</option>
            ))}
          </select>
        </div>
        <a href={linkTo(['settings'], { tab: 'password' })}>Change password</a>
        <button type="button" onClick={onHelp}>Keyboard shortcuts</button>
        <button type="button" onClick={leave}>Sign out</button>
      </div>
    </details>
  );
}
