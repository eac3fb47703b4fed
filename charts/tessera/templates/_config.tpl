{{/* Settings of the parts: the chart's own with `config` merged over them, as TOML. What differs between pods comes by environment. */}}

{{- define "tessera.config.common" -}}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- $values := index $root.Values $part }}
{{- $common := dict
  "state-dir" (printf "/var/lib/tessera/%s" $part)
  "log-level" (default $root.Values.logLevel $values.logLevel)
  "log-format" $root.Values.logFormat
  "tls-certificate" "/etc/tessera/tls/tls.crt"
  "tls-key" "/etc/tessera/tls/tls.key"
  "tls-ca" "/etc/tessera/tls/ca.crt" }}
{{- if ne $part "mdm" }}{{ $_ := set $common "mdm" (include "tessera.mdmAddress" $root) }}{{ end }}
{{- if ne $part "mgmt" }}{{ $_ := set $common "join-token-file" "/etc/tessera/join_token" }}{{ end }}
{{- toJson $common }}
{{- end }}

{{- define "tessera.config.mdm" -}}
{{- $host := .Values.listenAddress }}
{{- $own := dict
  "listen" (printf "%s:8001" $host)
  "metrics-listen" (printf "%s:8002" $host)
  "health-listen" (printf "%s:8007" $host)
  "create-fault-sets" true }}
{{- include "tessera.toml" (mergeOverwrite (include "tessera.config.common" (list . "mdm") | fromJson) $own .Values.mdm.config) }}
{{- end }}

{{- define "tessera.config.sds" -}}
{{- $host := .Values.listenAddress }}
{{- $devices := list }}
{{- range .Values.sds.devices }}
{{- $device := include "tessera.devicePath" . }}
{{- if .pool }}{{ $device = printf "%s,pool=%s" $device .pool }}{{ end }}
{{- if .capacity }}{{ $device = printf "%s,capacity=%s" $device (include "tessera.bytes" .capacity) }}{{ end }}
{{- $devices = append $devices $device }}
{{- end }}
{{- $own := dict
  "protection-domain" .Values.sds.protectionDomain
  "device" $devices
  "control-listen" (printf "%s:9100" $host)
  "management-listen" (printf "%s:9200" $host)
  "metrics-listen" (printf "%s:9400" $host)
  "health-listen" (printf "%s:9500" $host)
  "data-listen" (printf "%s:9700" $host) }}
{{- if include "tessera.faultSetLabel" . }}
{{- $_ := set $own "fault-set-file" "/run/tessera/fault_set" }}
{{- else if .Values.sds.faultSet.name }}
{{- $_ := set $own "fault-set" .Values.sds.faultSet.name }}
{{- end }}
{{- include "tessera.toml" (mergeOverwrite (include "tessera.config.common" (list . "sds") | fromJson) $own .Values.sds.config) }}
{{- end }}

{{/* Label of nodes that says which servers fail together; nothing where that is said otherwise. */}}
{{- define "tessera.faultSetLabel" -}}
{{- if not .Values.sds.faultSet.name }}{{ .Values.sds.faultSet.fromNodeLabel }}{{ end }}
{{- end }}

{{/* Where a device is in its pod. */}}
{{- define "tessera.devicePath" -}}
{{- if eq (default "Filesystem" .volumeMode) "Block" }}
{{- printf "/dev/tessera/%s" .name }}
{{- else }}
{{- printf "/mnt/tessera/%s" .name }}
{{- end }}
{{- end }}

{{- define "tessera.config.sdc" -}}
{{- $host := .Values.listenAddress }}
{{- $sdc := .Values.sdc }}
{{- $own := dict
  "control-listen" (printf "%s:8003" $host)
  "management-listen" (printf "%s:8004" $host)
  "metrics-listen" (printf "%s:8006" $host)
  "health-listen" (printf "%s:8008" $host)
  "nbd-listen" ""
  "nbd-socket" (printf "%s/nbd.sock" $sdc.hostRunDir)
  "resume-dir" "/run/tessera-resume" }}
{{- if $sdc.nbd.tcp.enabled }}
{{- $folder := ternary "/etc/tessera/nbd-tls" "/etc/tessera/tls" (ne $sdc.nbd.tcp.tlsSecretName "") }}
{{- $_ := mergeOverwrite $own (dict
  "nbd-listen" (printf "%s:8005" $host)
  "nbd-tls" "required"
  "nbd-tls-certificate" (printf "%s/tls.crt" $folder)
  "nbd-tls-key" (printf "%s/tls.key" $folder)) }}
{{- if $sdc.nbd.tcp.requireClientCertificate }}
{{- $_ := set $own "nbd-tls-client-ca" (printf "%s/ca.crt" $folder) }}
{{- end }}
{{- end }}
{{- if $sdc.cache.enabled }}
{{- $_ := mergeOverwrite $own (dict "cache-dir" "/var/cache/tessera" "cache-size" (include "tessera.bytes" $sdc.cache.size)) }}
{{- end }}
{{- include "tessera.toml" (mergeOverwrite (include "tessera.config.common" (list . "sdc") | fromJson) $own $sdc.config) }}
{{- end }}

{{- define "tessera.config.mgmt" -}}
{{- $host := .Values.listenAddress }}
{{- $mgmt := .Values.mgmt }}
{{- $web := ternary "/etc/tessera/console-tls" "/etc/tessera/tls" (ne $mgmt.console.tlsSecretName "") }}
{{- $own := dict
  "listen" (printf "%s:5000" $host)
  "grpc-listen" (printf "%s:5001" $host)
  "metrics-listen" (printf "%s:5002" $host)
  "health-listen" (printf "%s:5003" $host)
  "console-dir" "/usr/share/tessera/console"
  "web-certificate" (printf "%s/tls.crt" $web)
  "web-key" (printf "%s/tls.key" $web) }}
{{- if $mgmt.alertRules }}{{ $_ := set $own "alert-rules" "/etc/tessera/alert_rules.toml" }}{{ end }}
{{- if $mgmt.notifications.existingSecret }}{{ $_ := set $own "notification-config" "/etc/tessera/notifications.toml" }}{{ end }}
{{- include "tessera.toml" (mergeOverwrite (include "tessera.config.common" (list . "mgmt") | fromJson) $own $mgmt.config) }}
{{- end }}

{{/* Of a part's own settings only, so that a pod restarts for nothing else: (list root "mdm"). */}}
{{- define "tessera.configChecksum" -}}
{{- $root := index . 0 }}
{{- $text := include (printf "tessera.config.%s" (index . 1)) $root }}
{{- if eq (index . 1) "mgmt" }}{{ $text = printf "%s%s" $text $root.Values.mgmt.alertRules }}{{ end }}
{{- sha256sum $text }}
{{- end }}
