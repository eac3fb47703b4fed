{{/* What the pods have in common. */}}

{{/* Metadata of a part's pods: (list root "mdm"). No version of the chart, or each new chart would restart everything. */}}
{{- define "tessera.podMetadata" -}}
{{- $root := index . 0 }}
{{- $values := index $root.Values (index . 1) -}}
labels:
  {{- include "tessera.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/part-of: tessera
  {{- with mergeOverwrite (dict) $root.Values.commonLabels $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/config: {{ include "tessera.configChecksum" . }}
  {{- with mergeOverwrite (dict) $root.Values.commonAnnotations $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* First lines of a part's pod spec: (list root "mdm"). */}}
{{- define "tessera.podSpec" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $values := index $root.Values $part -}}
serviceAccountName: {{ include "tessera.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.priorityClassName }}
priorityClassName: {{ $values.priorityClassName }}
{{- else if and $root.Values.priorityClasses.create (ne $part "mgmt") }}
priorityClassName: {{ include "tessera.fullname" $root }}-storage
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.affinity }}
affinity:
  {{- toYaml $values.affinity | nindent 2 }}
{{- else if eq (default "none" $values.podAntiAffinityPreset) "hard" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "tessera.selectorLabels" . | nindent 12 }}
{{- else if eq (default "none" $values.podAntiAffinityPreset) "soft" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "tessera.selectorLabels" . | nindent 14 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "tessera.selectorLabels" (list $root $part) | fromYaml)) }}
  - {{ toYaml (mergeOverwrite $own .) | indent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The probes of a part: (list root "mdm" port). */}}
{{- define "tessera.probes" -}}
{{- $root := index . 0 }}
{{- $port := index . 2 }}
{{- $probes := (index $root.Values (index . 1)).probes -}}
startupProbe:
  grpc: {port: {{ $port }}, service: startup}
  {{- toYaml $probes.startup | nindent 2 }}
readinessProbe:
  grpc: {port: {{ $port }}, service: readiness}
  {{- toYaml $probes.readiness | nindent 2 }}
livenessProbe:
  grpc: {port: {{ $port }}, service: liveness}
  {{- toYaml $probes.liveness | nindent 2 }}
{{- end }}

{{/* Image, resources and security of a part's container: (list root "mdm"). */}}
{{- define "tessera.container" -}}
{{- $root := index . 0 }}
{{- $values := index $root.Values (index . 1) -}}
image: {{ include "tessera.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
{{- end }}

{{/* Command and arguments of a part: (list root "mdm"). */}}
{{- define "tessera.command" -}}
{{- $part := index . 1 -}}
command: [/usr/bin/tessera-{{ $part }}]
args:
  - --config=/etc/tessera/{{ $part }}.toml
  {{- with (index (index . 0).Values $part).extraArgs }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Volume at /etc/tessera: settings, certificate and join token in one, so that all are replaced at once: (list root "mdm"). */}}
{{- define "tessera.etcVolume" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 -}}
name: etc
projected:
  defaultMode: 0440
  sources:
    - configMap:
        name: {{ include "tessera.fullname" $root }}-config
        items:
          - {key: {{ $part }}.toml, path: {{ $part }}.toml}
          {{- if and (eq $part "mgmt") $root.Values.mgmt.alertRules }}
          - {key: alert_rules.toml, path: alert_rules.toml}
          {{- end }}
    {{- include "tessera.tlsSource" (list (include "tessera.tlsSecretName" .) "tls") | nindent 4 }}
    {{- if ne $part "mgmt" }}
    - secret:
        name: {{ include "tessera.joinTokenSecretName" $root }}
        items:
          - {key: join_token, path: join_token}
    {{- end }}
    {{- if and (eq $part "sdc") $root.Values.sdc.nbd.tcp.enabled $root.Values.sdc.nbd.tcp.tlsSecretName }}
    {{- if $root.Values.sdc.nbd.tcp.requireClientCertificate }}
    {{- include "tessera.tlsSource" (list $root.Values.sdc.nbd.tcp.tlsSecretName "nbd-tls") | nindent 4 }}
    {{- else }}
    {{- include "tessera.tlsSource" (list $root.Values.sdc.nbd.tcp.tlsSecretName "nbd-tls" "own") | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if eq $part "mgmt" }}
    {{- with $root.Values.mgmt.console.tlsSecretName }}
    {{- include "tessera.tlsSource" (list . "console-tls" "own") | nindent 4 }}
    {{- end }}
    {{- with $root.Values.mgmt.notifications.existingSecret }}
    - secret:
        name: {{ . }}
        items:
          - {key: notifications.toml, path: notifications.toml}
    {{- end }}
    {{- end }}
{{- end }}

{{/* A TLS Secret in a folder of a projected volume: (list secret folder); a third item: without the authority. */}}
{{- define "tessera.tlsSource" -}}
{{- $folder := index . 1 -}}
- secret:
    name: {{ index . 0 }}
    items:
      {{- if eq (len .) 2 }}
      - {key: ca.crt, path: {{ $folder }}/ca.crt}
      {{- end }}
      - {key: tls.crt, path: {{ $folder }}/tls.crt}
      - {key: tls.key, path: {{ $folder }}/tls.key}
{{- end }}

{{/* Token of the pod's ServiceAccount as a volume, for the container that needs it and no other. */}}
{{- define "tessera.tokenVolume" -}}
name: service-account
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3600}
    - configMap:
        name: kube-root-ca.crt
        items:
          - {key: ca.crt, path: ca.crt}
{{- end }}

{{- define "tessera.tokenMount" -}}
{name: service-account, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{- define "tessera.tmpVolume" -}}
{name: tmp, emptyDir: {sizeLimit: 256Mi}}
{{- end }}

{{/* Restricted, as all pods but the client's. */}}
{{- define "tessera.restrictedPod" -}}
{runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, fsGroupChangePolicy: OnRootMismatch, seccompProfile: {type: RuntimeDefault}}
{{- end }}
{{- define "tessera.restrictedContainer" -}}
{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
{{- end }}

{{/* Pod template of a Job: (dict "root" . "name" "objects" "env" (list) "token" true "certificate" true "deadline" n "account" ".."). */}}
{{- define "tessera.jobTemplate" -}}
{{- $root := .root }}
{{- $jobs := $root.Values.jobs -}}
metadata:
  labels:
    {{- include "tessera.selectorLabels" (list $root "jobs") | nindent 4 }}
    app.kubernetes.io/part-of: tessera
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with mergeOverwrite (dict) $root.Values.commonAnnotations $jobs.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  # A pod that failed stays, with its log.
  restartPolicy: Never
  serviceAccountName: {{ default "default" .account }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with default $jobs.nodeSelector .nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with default $jobs.tolerations .tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext: {{ include "tessera.restrictedPod" $root }}
  containers:
    - name: {{ .name }}
      image: {{ include "tessera.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      terminationMessagePolicy: FallbackToLogsOnError
      command: [/usr/libexec/tessera/kubernetes, {{ .command }}]
      env:
        {{- toYaml .env | nindent 8 }}
      securityContext: {{ include "tessera.restrictedContainer" $root }}
      resources:
        {{- toYaml $jobs.resources | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if .token }}
        - {{ include "tessera.tokenMount" $root }}
        {{- end }}
        {{- if .certificate }}
        - {name: tls, mountPath: /etc/tessera/tls, readOnly: true}
        {{- end }}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {{ include "tessera.tmpVolume" $root }}
    {{- if .token }}
    - {{ include "tessera.tokenVolume" $root | indent 6 | trim }}
    {{- end }}
    {{- if .certificate }}
    # Optional: the script tells of a Secret that is missing, the kubelet would only wait for it.
    - name: tls
      secret: {secretName: {{ include "tessera.tlsSecretName" (list $root "admin") }}, defaultMode: 0440, optional: true}
    {{- end }}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Environment of all that talks to the MDM as administrator, a YAML list. */}}
{{- define "tessera.adminEnv" -}}
- {name: TESSERA_MDM, value: {{ include "tessera.mdmAddress" . | quote }}}
- {name: TESSERA_TLS_CERTIFICATE, value: /etc/tessera/tls/tls.crt}
- {name: TESSERA_TLS_KEY, value: /etc/tessera/tls/tls.key}
- {name: TESSERA_TLS_CA, value: /etc/tessera/tls/ca.crt}
{{- end }}

{{/* Environment of `kubernetes secrets`, a YAML list. */}}
{{- define "tessera.secretsEnv" -}}
{{- $root := . -}}
- {name: TESSERA_NAMESPACE, value: {{ .Release.Namespace | quote }}}
- {name: TESSERA_FULLNAME, value: {{ include "tessera.fullname" . | quote }}}
- {name: TESSERA_CLUSTER_NAME, value: {{ include "tessera.clusterName" . | quote }}}
- {name: TESSERA_TLS_MODE, value: {{ .Values.tls.mode }}}
{{- if not .Values.joinToken.existingSecret }}
- {name: TESSERA_JOIN_TOKEN_SECRET, value: {{ include "tessera.joinTokenSecretName" . }}}
{{- end }}
- {name: TESSERA_CA_DAYS, value: {{ .Values.tls.generated.caDays | int64 | quote }}}
- {name: TESSERA_CERTIFICATE_DAYS, value: {{ .Values.tls.generated.certificateDays | int64 | quote }}}
- {name: TESSERA_RENEW_BEFORE_DAYS, value: {{ .Values.tls.generated.renewBeforeDays | int64 | quote }}}
{{- range $role := list "mdm" "sds" "sdc" "mgmt" "admin" }}
- {name: TESSERA_DNS_NAMES_{{ upper $role }}, value: {{ include "tessera.dnsNames" (list $root $role) | fromJsonArray | join " " | quote }}}
{{- end }}
{{- $labels := include "tessera.selectorLabels" (list . "secrets") | fromYaml }}
- {name: TESSERA_SECRET_LABELS, value: {{ mergeOverwrite $labels (dict "app.kubernetes.io/part-of" "tessera") .Values.commonLabels | mustToJson | quote }}}
{{- end }}

{{/* A claim in a StatefulSet, which can't be changed later, so nothing is in it that may change: (list root "mdm" claim). */}}
{{- define "tessera.claim" -}}
{{- $claim := index . 2 -}}
metadata:
  name: {{ $claim.name }}
  labels:
    {{- include "tessera.selectorLabels" (list (index . 0) (index . 1)) | nindent 4 }}
  {{- with $claim.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- include "tessera.claimSpec" $claim | nindent 2 }}
{{- end }}

{{- define "tessera.claimSpec" -}}
accessModes: {{ default (list "ReadWriteOnce") .accessModes | toJson }}
{{- with .volumeMode }}
volumeMode: {{ . }}
{{- end }}
{{- with .storageClassName }}
storageClassName: {{ . | quote }}
{{- end }}
{{- with .selector }}
selector:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end }}

{{/* (list root "mdm") */}}
{{- define "tessera.pdb" -}}
{{- $root := index . 0 }}
{{- $budget := (index $root.Values (index . 1)).podDisruptionBudget }}
{{- if $budget.enabled }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "tessera.metadata" (dict "root" $root "component" (index . 1) "name" (printf "%s-%s" (include "tessera.fullname" $root) (index . 1))) | nindent 2 }}
spec:
  maxUnavailable: {{ $budget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "tessera.selectorLabels" . | nindent 6 }}
{{- end }}
{{- end }}
