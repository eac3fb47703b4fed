// Which page is shown, for whom.
import type { ComponentType } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { AlertsPage } from '../pages/AlertsPage';
import { AuditPage } from '../pages/AuditPage';
import { DashboardPage } from '../pages/DashboardPage';
import { HealthPage } from '../pages/HealthPage';
import { MonitoringPage } from '../pages/MonitoringPage';
import { OperationsPage } from '../pages/OperationsPage';
import { NewcomerPage, SignInPage } from '../pages/SignInPage';
import { SettingsPage } from '../pages/SettingsPage';
import { TopologyPage } from '../pages/TopologyPage';
import { UsersPage } from '../pages/UsersPage';
import { VolumePage } from '../pages/VolumePage';
import { VolumesPage } from '../pages/VolumesPage';
import { linkTo, useRoute } from '../store/router';
import { askWhoIAm, useSession } from '../store/session';
import { useStore } from '../store/store';
import { ActionDialogs } from './ActionDialog';
import { Empty, PageHead, ProblemBox } from './basics';
import { notice } from './dialogs';
import { Shell } from './Shell';
import { Shortcuts, useShortcuts } from './Shortcuts';

const pages: Record<string, ComponentType> = {
  '': DashboardPage, topology: TopologyPage, volumes: VolumesPage, health: HealthPage, alerts: AlertsPage,
  monitoring: MonitoringPage, operations: OperationsPage, users: UsersPage, audit: AuditPage, settings: SettingsPage,
};

export function App() {
  const session = useSession();
  const [help, setHelp] = useState(false);
  useShortcuts(session.state === 'signed-in', () => setHelp(true));
  switch (session.state) {
    case 'asking':
      return <p class="starting" role="status">Tessera</p>;
    case 'unreachable':
      return (
        <main class="lone">
          <h1>The console can’t reach its server</h1>
          <ProblemBox problem={session.problem} onRetry={() => void askWhoIAm()} />
        </main>
      );
    case 'signed-out':
      return <SignInPage expired={session.expired} />;
    case 'newcomer':
      return <NewcomerPage user={session.user} />;
    case 'signed-in':
      return (
        <>
          <Shell user={session.user} session={session.session} onHelp={() => setHelp(true)}><Page /></Shell>
          <ActionDialogs />
          {help && <Shortcuts onClose={() => setHelp(false)} />}
          <Notice />
        </>
      );
  }
}

function Page() {
  const { path } = useRoute();
  const name = path[0] ?? '';
  const Found = pages[name];
  const title = document.querySelector('h1')?.textContent;
  useEffect(() => {
    document.title = `${document.querySelector('h1')?.textContent ?? 'Tessera'} · Tessera`;
  }, [path, title]);
  if (name === 'volumes' && path[1] !== undefined && /^\d+$/.test(path[1])) return <VolumePage key={path[1]} volumeId={BigInt(path[1])} />;
  if (Found) return <Found />;
  return (
    <>
      <PageHead title="There is no such page" />
      <Empty title="Nothing is at this address."><a href={linkTo([])}>To the dashboard</a></Empty>
    </>
  );
}

function Notice() {
  const said = useStore(notice);
  return <div class="toast-place" role="status" aria-live="polite">{said && <p class="toast" key={said.number}>{said.text}</p>}</div>;
}
