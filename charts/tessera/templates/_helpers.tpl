{{/* Names, labels and small conversions. */}}

{{- define "tessera.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* 40 characters and not 63: names of StatefulSets and CronJobs, with our suffixes, may have 52. */}}
{{- define "tessera.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tessera.clusterName" -}}
{{- default .Release.Name .Values.clusterName }}
{{- end }}

{{- define "tessera.clusterLabel" -}}
{{- default (include "tessera.clusterName" .) .Values.monitoring.clusterLabel }}
{{- end }}

{{/* Domain of a Service of the release: (list root "mdm"). */}}
{{- define "tessera.serviceDomain" -}}
{{- $root := index . 0 }}
{{- printf "%s-%s.%s.svc.%s" (include "tessera.fullname" $root) (index . 1) $root.Release.Namespace $root.Values.clusterDomain }}
{{- end }}

{{- define "tessera.mdmAddress" -}}
{{- printf "%s-mdm-0.%s:8001" (include "tessera.fullname" .) (include "tessera.serviceDomain" (list . "mdm")) }}
{{- end }}

{{- define "tessera.image" -}}
{{- $image := .Values.image }}
{{- $repository := $image.repository }}
{{- if $image.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" $image.registry) $image.repository }}{{ end }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{/* What never changes of a component's objects: (list root "mdm"). */}}
{{- define "tessera.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "tessera.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "tessera.labels" -}}
{{- $root := index . 0 -}}
{{ include "tessera.selectorLabels" . }}
app.kubernetes.io/part-of: tessera
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The whole metadata of an object: (dict "root" . "component" "mdm" "name" ".." "annotations" (dict) "labels" (dict) "namespace" ""). */}}
{{- define "tessera.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
{{- if ne .namespace "none" }}
namespace: {{ default $root.Release.Namespace .namespace }}
{{- end }}
labels:
  {{- include "tessera.labels" (list $root .component) | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with mergeOverwrite (dict) $root.Values.commonAnnotations (default (dict) .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Name of a component's ServiceAccount: (list root "mdm"). */}}
{{- define "tessera.serviceAccountName" -}}
{{- $root := index . 0 }}
{{- $account := (index $root.Values (index . 1)).serviceAccount }}
{{- if $account.create }}
{{- default (printf "%s-%s" (include "tessera.fullname" $root) (index . 1)) $account.name }}
{{- else }}
{{- default "default" $account.name }}
{{- end }}
{{- end }}

{{/* Secret with the certificate of a role: (list root "mdm"). */}}
{{- define "tessera.tlsSecretName" -}}
{{- $root := index . 0 }}
{{- $role := index . 1 }}
{{- if eq $root.Values.tls.mode "existingSecret" }}
{{- index $root.Values.tls.existingSecret $role }}
{{- else }}
{{- printf "%s-%s-tls" (include "tessera.fullname" $root) $role }}
{{- end }}
{{- end }}

{{- define "tessera.joinTokenSecretName" -}}
{{- default (printf "%s-join-token" (include "tessera.fullname" .)) .Values.joinToken.existingSecret }}
{{- end }}

{{/* The secrets Job has something to make. */}}
{{- define "tessera.makesSecrets" -}}
{{- if or (eq .Values.tls.mode "generated") (not .Values.joinToken.existingSecret) }}true{{ end }}
{{- end }}

{{/* DNS names of a role's certificate, a JSON list: (list root "mdm"). */}}
{{- define "tessera.dnsNames" -}}
{{- $root := index . 0 }}
{{- $role := index . 1 }}
{{- $names := list "localhost" }}
{{- if ne $role "admin" }}
{{- $service := printf "%s-%s" (include "tessera.fullname" $root) $role }}
{{- $inNamespace := printf "%s.%s" $service $root.Release.Namespace }}
{{- $names = concat $names (list $service $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.%s" $inNamespace $root.Values.clusterDomain)) }}
{{- if has $role (list "mdm" "sds") }}
{{- $names = concat $names (list (printf "*.%s.svc" $inNamespace) (printf "*.%s.svc.%s" $inNamespace $root.Values.clusterDomain)) }}
{{- end }}
{{- if eq $role "mgmt" }}
{{- $names = concat $names $root.Values.tls.consoleDnsNames $root.Values.mgmt.ingress.hosts $root.Values.mgmt.httpRoute.hostnames }}
{{- end }}
{{- end }}
{{- $names | uniq | toJson }}
{{- end }}

{{/* Bytes of 1073741824, "1073741824", "1Gi". */}}
{{- define "tessera.bytes" -}}
{{- $units := dict "" 1 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 }}
{{- $text := . | toString }}
{{- if not (kindIs "string" .) }}{{ $text = int64 . | toString }}{{ end }}
{{- $number := regexFind "^[0-9]+" $text }}
{{- mul (int64 $number) (index $units (trimPrefix $number $text)) }}
{{- end }}

{{/* A value of TOML: text, number, boolean, or a list of these. Helm makes all numbers of files floats. */}}
{{- define "tessera.tomlValue" -}}
{{- if kindIs "slice" . }}
{{- $items := list }}
{{- range . }}{{ $items = append $items (include "tessera.tomlValue" .) }}{{ end }}
{{- printf "[%s]" (join ", " $items) }}
{{- else if kindIs "string" . }}
{{- toJson . }}
{{- else if kindIs "bool" . }}
{{- . }}
{{- else if eq (float64 (int64 .)) (float64 .) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* A map as TOML, by the order of its keys. What is null is left out. */}}
{{- define "tessera.toml" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{- printf "%s = %s\n" $key (include "tessera.tomlValue" $value) }}
{{- end }}
{{- end }}
{{- end }}
