// Active alerts with what to do about them.
import { AlertService, AlertState, type Alert } from '../gen/tessera/v1/alert_pb';
import { acknowledgeAlert, createSilence } from '../api/actions/people_actions';
import { subjectLink } from '../store/router';
import { ActionButton } from './ActionButton';
import { Age } from './basics';
import { SeverityBadge, severityTone } from './states';

export function AlertList({ alerts, brief = false }: { alerts: Alert[]; brief?: boolean }) {
  return (
    <ul class="alerts" aria-label="Active alerts">
      {alerts.map((alert) => <AlertItem key={String(alert.alertId)} alert={alert} brief={brief} />)}
    </ul>
  );
}

function AlertItem({ alert, brief }: { alert: Alert; brief: boolean }) {
  const acknowledged = alert.state === AlertState.ACKNOWLEDGED;
  return (
    <li class={`alert ${severityTone[alert.severity]}`}>
      <div class="alert-head">
        <SeverityBadge severity={alert.severity} />
        <a href={subjectLink(alert.subject)}>{alert.summary}</a>
        <span class="muted"><Age ms={alert.raisedMs} />{alert.flaps > 0 && `, came back ${alert.flaps} times`}{alert.silenced && ', silenced'}</span>
      </div>
      {!brief && alert.detail && <p>{alert.detail}</p>}
      {alert.remedy && <p class="remedy">{alert.remedy}</p>}
      {acknowledged && <p class="muted">{alert.acknowledgedBy} takes care, <Age ms={alert.acknowledgedMs} />{alert.comment && `: ${alert.comment}`}</p>}
      {!brief && (
        <div class="actions">
          <ActionButton method={AlertService.method.acknowledgeAlert} action={() => acknowledgeAlert(alert)}
            label={`${acknowledged ? 'Change comment of' : 'Acknowledge'} ${alert.summary}`}>{acknowledged ? 'Change comment' : 'Acknowledge'}</ActionButton>
          <ActionButton method={AlertService.method.createSilence} action={() => createSilence(alert.rule, alert.subject)}
            label={`Silence ${alert.summary}`}>Silence</ActionButton>
        </div>
      )}
    </li>
  );
}
