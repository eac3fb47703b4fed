// MGMT's settings in force, and one's own password.
import { consoleClient } from '../api/clients';
import { Empty, Facts, Loaded, PageHead, Panel, StackedBar, Tabs } from '../components/basics';
import { formatBytes } from '../components/format';
import { Table } from '../components/Table';
import { useOverview } from '../store/live';
import { useResource } from '../store/resource';
import { linkTo, useRoute } from '../store/router';
import { PasswordForm } from './SignInPage';

export function SettingsPage() {
  const tab = useRoute().query.get('tab') ?? 'settings';
  return (
    <>
      <PageHead title="Settings" />
      <Tabs label="Settings" current={tab} tabs={[
        { id: 'settings', label: 'In force', href: linkTo(['settings']) },
        { id: 'versions', label: 'Versions', href: linkTo(['settings'], { tab: 'versions' }) },
        { id: 'password', label: 'Password', href: linkTo(['settings'], { tab: 'password' }) },
      ]} />
      {tab === 'password' ? <Password /> : tab === 'versions' ? <Versions /> : <InForce />}
    </>
  );
}

function InForce() {
  const settings = useResource('settings', (signal) => consoleClient.getSettings({}, { signal }));
  return (
    <Loaded of={settings}>
      {(found) => (
        <>
          <Panel title="MGMT">
            <Facts facts={[['Version', found.softwareVersion],
              ['Database', `${formatBytes(found.databaseBytes)} of at most ${formatBytes(found.databaseLimitBytes)}`]]} />
            <StackedBar label="Database" whole={Number(found.databaseLimitBytes)} parts={[{ label: 'Database', value: Number(found.databaseBytes), kind: 'used' }]} />
          </Panel>
          <p class="muted">Settings are changed by flags or in the configuration file, and hold from the next start on.</p>
          <Table caption="Settings in force" rows={found.settings} keyOf={({ name }) => name} sortedBy="name" pageSize={100} columns={[
            { id: 'name', head: 'Name', sort: ({ name }) => name, cell: ({ name }) => <code>{name}</code> },
            { id: 'value', head: 'Value', cell: ({ value }) => value ? <code class="wrap">{value}</code> : <span class="muted">empty</span> },
            { id: 'source', head: 'From', sort: ({ source }) => source, cell: ({ source }) => source },
            { id: 'what', head: 'What it does', cell: ({ description }) => description },
          ]} empty={<Empty title="None." />} />
        </>
      )}
    </Loaded>
  );
}

function Versions() {
  const components = useOverview()?.components ?? [];
  return (
    <Table caption="Versions" rows={components} keyOf={(part) => `${part.kind}/${part.componentId}`} sortedBy="name" columns={[
      { id: 'name', head: 'Part', sort: ({ name }) => name, cell: ({ name }) => name },
      { id: 'version', head: 'Version', sort: ({ softwareVersion }) => softwareVersion, cell: ({ softwareVersion }) => softwareVersion || <span class="muted">not known</span> },
      { id: 'address', head: 'Address', cell: ({ address }) => address },
    ]} empty={<Empty title="No part was heard of yet." />} />
  );
}

function Password() {
  return <Panel title="Change your password"><p>Your other sessions end by it.</p><PasswordForm /></Panel>;
}
