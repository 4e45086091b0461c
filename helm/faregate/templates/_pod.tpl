{{/* The pod: the same in a StatefulSet and in a Deployment. */}}
{{- define "faregate.env" -}}
- {name: FAREGATE_HOST, value: {{ .Values.listen | quote }}}
- {name: FAREGATE_PORT, value: "8080"}
- {name: FAREGATE_ADMIN_HOST, value: {{ .Values.listen | quote }}}
- {name: FAREGATE_ADMIN_PORT, value: "8081"}
- {name: FAREGATE_DATA, value: /var/lib/faregate}
- {name: FAREGATE_POLICIES, value: /etc/faregate/policies}
{{- if include "faregate.secretSources" . }}
- {name: FAREGATE_SECRETS, value: /run/secrets/faregate}
{{- end }}
{{- $settings := omit .Values.settings "baseUrl" "currency" "drain" }}
{{- range $name, $value := $settings }}
- {name: FAREGATE_{{ $name | snakecase | upper }}, value: {{ $value | toString | quote }}}
{{- end }}
- {name: FAREGATE_DRAIN, value: {{ include "faregate.drain" . | quote }}}
{{- range $host, $url := .Values.settings.baseUrl }}
- {name: FAREGATE_BASE_URL_{{ $host | upper | replace "-" "_" }}, value: {{ $url | quote }}}
{{- end }}
{{- range $host, $code := .Values.settings.currency }}
- {name: FAREGATE_CURRENCY_{{ $host | upper | replace "-" "_" }}, value: {{ $code | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "faregate.mounts" -}}
- {name: data, mountPath: /var/lib/faregate}
- {name: tmp, mountPath: /tmp}
{{- if include "faregate.secretSources" . }}
- {name: secrets, mountPath: /run/secrets/faregate, readOnly: true}
{{- end }}
{{- range $path, $text := .Values.policies.files }}
- {name: policies, mountPath: /etc/faregate/policies/{{ $path }}, subPath: {{ include "faregate.policyKey" $path }}, readOnly: true}
{{- end }}
{{- if .Values.policies.existingConfigMap }}
{{- range $key, $path := .Values.policies.existingFiles }}
- {name: existing-policies, mountPath: /etc/faregate/policies/{{ $path }}, subPath: {{ $key | quote }}, readOnly: true}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "faregate.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if not .Values.persistence.enabled }}
- name: data
  emptyDir: {}
{{- end }}
{{- with include "faregate.secretSources" . }}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- . | trim | nindent 6 }}
{{- end }}
{{- if .Values.policies.files }}
- name: policies
  configMap: {name: {{ include "faregate.fullname" . }}-policies}
{{- end }}
{{- with .Values.policies.existingConfigMap }}
- name: existing-policies
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "faregate.spread" -}}
{{- if .Values.topologySpreadConstraints }}
{{- toYaml .Values.topologySpreadConstraints }}
{{- else if .Values.spread }}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "faregate.selector" $ | nindent 6 }}
  matchLabelKeys: [{{ if $.Values.persistence.enabled }}controller-revision-hash{{ else }}pod-template-hash{{ end }}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "faregate.pod" -}}
metadata:
  annotations:
    checksum/policies: {{ include "faregate.policiesDigest" . }}
    {{- with include "faregate.ownSecrets" . | fromYaml }}
    {{- /* Whoever may read pods may not read Secrets: scrypt makes a short one slow to guess, and the release's name keeps releases apart. */}}
    checksum/secrets: {{ derivePassword 1 "maximum" (toYaml .) $.Release.Namespace (include "faregate.fullname" $) | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "faregate.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "faregate.serviceAccount" . | quote }}
  automountServiceAccountToken: false
  # A Service named faregate would put FAREGATE_PORT and others into the environment.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "faregate.grace" . }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "faregate.spread" . }}
  topologySpreadConstraints:
    {{- . | trim | nindent 4 }}
  {{- end }}
  containers:
    - name: faregate
      image: {{ include "faregate.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        {{- include "faregate.env" . | nindent 8 }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: admin, containerPort: 8081}
      # It may take a while to upgrade a ledger, and to answer while its start waits for PostgreSQL.
      startupProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ div (add (int .Values.probes.startupSeconds) 1) 2 }}
      # The ledger, policies and, where that was chosen, Redis: without them no money can be held.
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        periodSeconds: {{ int .Values.probes.readinessPeriodSeconds }}
        timeoutSeconds: 3
        failureThreshold: 2
      # On the admin port, which answers while streams drain; it asks no store and no host, which no restart would mend.
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: {{ int .Values.probes.livenessPeriodSeconds }}
        timeoutSeconds: 5
        failureThreshold: 3
      # New requests go elsewhere before the gateway stops taking them.
      {{- if gt (int .Values.shutdown.preStopSeconds) 0 }}
      lifecycle:
        preStop:
          sleep: {seconds: {{ int .Values.shutdown.preStopSeconds }}}
      {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- include "faregate.mounts" . | nindent 8 }}
  volumes:
    {{- include "faregate.volumes" . | nindent 4 }}
{{- end -}}
