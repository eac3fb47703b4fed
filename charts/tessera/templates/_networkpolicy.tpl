{{/* Pods of the release: (list root "sds" "sdc"). */}}
{{- define "tessera.from" -}}
{{- $root := index . 0 }}
{{- range rest . }}
- podSelector:
    matchLabels:
      {{- include "tessera.selectorLabels" (list $root .) | nindent 6 }}
{{- end }}
{{- end }}

{{/* First lines of the policy of a part: (list root "mdm"). */}}
{{- define "tessera.networkPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "tessera.metadata" (dict "root" (index . 0) "component" (index . 1) "name" (printf "%s-%s" (include "tessera.fullname" (index . 0)) (index . 1))) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "tessera.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress]
{{- end }}

{{/* Rule of the metrics port; without peers there is none: (list root 8002). */}}
{{- define "tessera.metricsRule" -}}
{{- with (index . 0).Values.networkPolicy.metricsFrom }}
# Metrics plane.
- ports: [{port: {{ index $ 1 }}}]
  from:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* Health ports say no more than whether a part is well. Most plug-ins let the kubelet's probes through anyway; where not, this does. */}}
{{- define "tessera.healthRule" -}}
- ports: [{port: {{ . }}}]
{{- end }}
