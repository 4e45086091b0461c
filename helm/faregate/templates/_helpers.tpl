{{- define "faregate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "faregate.fullname" -}}
{{- $name := include "faregate.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "faregate.selector" -}}
app.kubernetes.io/name: {{ include "faregate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "faregate.labels" -}}
{{ include "faregate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "faregate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "faregate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "faregate.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The longest stream, in whole seconds. */}}
{{- define "faregate.longest" -}}
{{- .Values.settings.timeoutTotal | ceil | int -}}
{{- end -}}

{{- define "faregate.drain" -}}
{{- if kindIs "invalid" .Values.settings.drain -}}
{{- include "faregate.longest" . -}}
{{- else -}}
{{- int .Values.settings.drain -}}
{{- end -}}
{{- end -}}

{{/* preStop, then the drain, then ten seconds in which the last charges are settled, then time to close the stores. */}}
{{- define "faregate.grace" -}}
{{- if kindIs "invalid" .Values.shutdown.graceSeconds -}}
{{- add (int .Values.shutdown.preStopSeconds) (int (include "faregate.drain" .)) 30 -}}
{{- else -}}
{{- int .Values.shutdown.graceSeconds -}}
{{- end -}}
{{- end -}}

{{/* What the chart itself keeps in a Secret: variable -> value. */}}
{{- define "faregate.ownSecrets" -}}
{{- $own := deepCopy .Values.secrets.create -}}
{{- if and (eq .Values.ledger.store "postgresql") .Values.ledger.url -}}
{{- $_ := set $own "FAREGATE_LEDGER" .Values.ledger.url -}}
{{- end -}}
{{- if and .Values.redis.enabled .Values.redis.url -}}
{{- $_ := set $own "FAREGATE_REDIS" .Values.redis.url -}}
{{- end -}}
{{- toYaml $own -}}
{{- end -}}

{{/* The sources of the folder of secrets; empty where there is none. A later one wins over an earlier one. */}}
{{- define "faregate.secretSources" -}}
{{- range .Values.secrets.existing }}
- secret:
    name: {{ . | quote }}
{{- end }}
{{- if include "faregate.ownSecrets" . | fromYaml }}
- secret:
    name: {{ include "faregate.fullname" . }}-secrets
{{- end }}
{{- range $variable, $from := .Values.secrets.from }}
- secret:
    name: {{ $from.secret | quote }}
    items: [{key: {{ $from.key | quote }}, path: {{ $variable | quote }}}]
{{- end }}
{{- if and (eq .Values.ledger.store "postgresql") .Values.ledger.existingSecret }}
- secret:
    name: {{ .Values.ledger.existingSecret | quote }}
    items: [{key: {{ .Values.ledger.key | quote }}, path: FAREGATE_LEDGER}]
{{- end }}
{{- if and .Values.redis.enabled .Values.redis.existingSecret }}
- secret:
    name: {{ .Values.redis.existingSecret | quote }}
    items: [{key: {{ .Values.redis.key | quote }}, path: FAREGATE_REDIS}]
{{- end }}
{{- end -}}

{{/* The name of a policies file as a key of a ConfigMap, which may hold no slash. */}}
{{- define "faregate.policyKey" -}}
{{- replace "/" "--" . -}}
{{- end -}}

{{/* What rolls the pods when policies change. */}}
{{- define "faregate.policiesDigest" -}}
{{- $seen := dict "files" .Values.policies.files "paths" .Values.policies.existingFiles "digest" .Values.policies.existingDigest -}}
{{- with .Values.policies.existingConfigMap -}}
{{- $_ := set $seen "found" (lookup "v1" "ConfigMap" $.Release.Namespace . | default dict | dig "data" dict) -}}
{{- end -}}
{{- toJson $seen | sha256sum -}}
{{- end -}}

{{/* A size such as 16MiB as nginx writes it: 16m. A megabyte more, for what the JSON of other clients may carry beside it, is not needed. */}}
{{- define "faregate.nginxSize" -}}
{{- $size := .Values.settings.maxBody | toString | lower -}}
{{- regexReplaceAll "^([0-9]+)\\s*(k|m|g)?i?b?$" $size "${1}${2}" -}}
{{- end -}}
