{{/* What the schema can't say, in words that help. */}}
{{- define "tessera.validate" -}}
{{- $values := .Values }}
{{- $own := dict
  "mdm" (list "listen" "metrics-listen" "health-listen")
  "sds" (list "control-listen" "management-listen" "metrics-listen" "health-listen" "data-listen" "name" "advertise-host" "host-id")
  "sdc" (list "control-listen" "management-listen" "metrics-listen" "health-listen" "nbd-listen" "nbd-socket" "resume-dir" "name" "advertise-host" "host-id")
  "mgmt" (list "listen" "grpc-listen" "metrics-listen" "health-listen") }}
{{- $instead := dict "device" "sds.devices" "protection-domain" "sds.protectionDomain" "fault-set" "sds.faultSet.name" "fault-set-file" "sds.faultSet.fromNodeLabel"
  "join-token-file" "joinToken.existingSecret" "cache-dir" "sdc.cache" "cache-size" "sdc.cache" "nbd-tls" "sdc.nbd.tcp" "nbd-tls-certificate" "sdc.nbd.tcp"
  "nbd-tls-key" "sdc.nbd.tcp" "nbd-tls-client-ca" "sdc.nbd.tcp" "alert-rules" "mgmt.alertRules" "notification-config" "mgmt.notifications"
  "web-certificate" "mgmt.console" "web-key" "mgmt.console" "tls-certificate" "tls" "tls-key" "tls" "tls-ca" "tls" "log-format" "logFormat" }}
{{- range $part, $reserved := $own }}
{{- range $key, $value := (index $values $part).config }}
{{- if eq $key "insecure" }}
{{- fail (printf "%s.config.insecure: without TLS Tessera listens on loopback only, where no other pod reaches it. Choose certificates by tls.mode." $part) }}
{{- else if eq $key "log-level" }}
{{- fail (printf "%s.config.log-level: use %s.logLevel" $part $part) }}
{{- else if hasKey $instead $key }}
{{- fail (printf "%s.config.%s: use %s" $part $key (index $instead $key)) }}
{{- else if or (has $key $reserved) (has $key (list "state-dir" "config" "mdm")) }}
{{- fail (printf "%s.config.%s: the chart's ports, probes and volumes depend on it, so it can't be changed" $part $key) }}
{{- else if kindIs "map" $value }}
{{- fail (printf "%s.config.%s: is a flag's value, so text, a number, true, false or a list, not a map" $part $key) }}
{{- end }}
{{- end }}
{{- end }}

{{- if ne (int $values.mdm.replicaCount) 1 }}
{{- fail (printf "mdm.replicaCount: %d, but it can only be 1: the MDM keeps its database alone. While its pod is replaced IO goes on." (int $values.mdm.replicaCount)) }}
{{- end }}
{{- if eq $values.tls.mode "none" }}
{{- fail "tls.mode: none is not possible: without TLS Tessera listens on loopback only, so pods could not reach each other. Use generated, certManager or existingSecret." }}
{{- else if not (has $values.tls.mode (list "generated" "certManager" "existingSecret")) }}
{{- fail (printf "tls.mode: '%s' is none of generated, certManager and existingSecret" $values.tls.mode) }}
{{- end }}
{{- if eq $values.tls.mode "existingSecret" }}
{{- range $role := list "mdm" "sds" "sdc" "mgmt" "admin" }}
{{- if and (not (index $values.tls.existingSecret $role)) (or (not (hasKey (dict "sdc" 1 "mgmt" 1) $role)) (index $values $role).enabled) }}
{{- fail (printf "tls.existingSecret.%s: name the Secret with the certificate of this role, since tls.mode is existingSecret" $role) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq $values.tls.mode "generated") (ge (int64 $values.tls.generated.renewBeforeDays) (int64 $values.tls.generated.certificateDays)) }}
{{- fail (printf "tls.generated.renewBeforeDays: %d is not less than certificateDays (%d): certificates would be renewed every day" (int64 $values.tls.generated.renewBeforeDays) (int64 $values.tls.generated.certificateDays)) }}
{{- end }}
{{- if and (eq $values.tls.mode "generated") (ge (mul 12 (int64 $values.tls.generated.renewBeforeDays)) (int64 $values.tls.generated.caDays)) }}
{{- fail (printf "tls.generated.caDays: %d is not more than 12 times renewBeforeDays (%d): the authority would be replaced all the time" (int64 $values.tls.generated.caDays) (int64 $values.tls.generated.renewBeforeDays)) }}
{{- end }}

{{- $names := list }}
{{- range $values.sds.devices }}
{{- if and (eq (default "Filesystem" .volumeMode) "Block") (has "ReadWriteMany" (default (list) .accessModes)) }}
{{- fail (printf "sds.devices: '%s' is ReadWriteMany: two servers on one block device destroy each other's data" .name) }}
{{- end }}
{{- if has .name $names }}
{{- fail (printf "sds.devices: two are called '%s'; each needs a name of its own" .name) }}
{{- end }}
{{- if has .name (list "state" "etc" "tmp" "run" "service-account") }}
{{- fail (printf "sds.devices: a device can't be called '%s': that is a volume of the chart" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- if ne (clean $values.sdc.hostRunDir) $values.sdc.hostRunDir }}
{{- fail (printf "sdc.hostRunDir: '%s' is to be written as '%s'" $values.sdc.hostRunDir (clean $values.sdc.hostRunDir)) }}
{{- end }}
{{- if gt (len $values.sdc.hostRunDir) 90 }}
{{- fail "sdc.hostRunDir: too long: paths of unix sockets have at most 107 characters" }}
{{- end }}

{{- if $values.bootstrap.enabled }}
{{- $domains := list }}
{{- $poolNames := list }}
{{- range $domain := $values.bootstrap.domains }}
{{- if has .name $domains }}{{ fail (printf "bootstrap.domains: two are called '%s'" .name) }}{{ end }}
{{- $domains = append $domains .name }}
{{- range .pools }}
{{- if has .name $poolNames }}{{ fail (printf "bootstrap.domains: two pools are called '%s'; names of pools are unique in the cluster" .name) }}{{ end }}
{{- $poolNames = append $poolNames .name }}
{{- $replicas := int (default 2 .replicas) }}
{{- if gt (int (default 1 .minReplicas)) $replicas }}
{{- fail (printf "bootstrap.domains: pool '%s' has minReplicas %d, more than its replicas (%d): its IO would always wait" .name (int .minReplicas) $replicas) }}
{{- end }}
{{- if and (eq $domain.name $values.sds.protectionDomain) (gt $replicas (int $values.sds.replicaCount)) }}
{{- fail (printf "sds.replicaCount: %d servers can't hold the %d copies of pool '%s': each copy is on a server of its own" (int $values.sds.replicaCount) $replicas .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (has $values.sds.protectionDomain $domains) }}
{{- fail (printf "sds.protectionDomain: '%s' is not in bootstrap.domains (%s), so servers would wait for it for ever" $values.sds.protectionDomain (join ", " $domains)) }}
{{- end }}
{{- range $values.sds.devices }}
{{- if and .pool (not (has .pool $poolNames)) }}
{{- fail (printf "sds.devices: '%s' asks for pool '%s', which is not in bootstrap.domains (%s)" .name .pool (join ", " $poolNames)) }}
{{- end }}
{{- end }}
{{- end }}

{{- if and $values.mgmt.ingress.enabled (not $values.mgmt.ingress.hosts) }}
{{- fail "mgmt.ingress.hosts: name at least one host" }}
{{- end }}
{{- if and $values.mgmt.httpRoute.enabled (not $values.mgmt.httpRoute.parentRefs) }}
{{- fail "mgmt.httpRoute.parentRefs: name at least one gateway" }}
{{- end }}
{{- if and (eq $values.mgmt.service.type "ClusterIP") $values.mgmt.service.nodePort }}
{{- fail "mgmt.service.nodePort: is of a Service of type NodePort or LoadBalancer; set mgmt.service.type" }}
{{- end }}
{{- end }}
