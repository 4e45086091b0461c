{{/* What no schema can say: values that contradict each other end the rendering with one line and the remedy. */}}
{{- define "faregate.validate" -}}
{{- $v := .Values -}}
{{- if eq $v.ledger.store "sqlite" -}}
{{- if or $v.autoscaling.enabled (gt (int $v.replicas) 1) -}}
{{- fail "faregate: SQLite is the ledger of one gateway alone. Remedy: set ledger.store=postgresql, or replicas=1 and autoscaling.enabled=false." -}}
{{- end -}}
{{- if not $v.persistence.enabled -}}
{{- fail "faregate: a ledger in SQLite must outlive its pod. Remedy: set persistence.enabled=true, or ledger.store=postgresql." -}}
{{- end -}}
{{- if or $v.ledger.url $v.ledger.existingSecret -}}
{{- fail "faregate: ledger.url and ledger.existingSecret are for PostgreSQL. Remedy: set ledger.store=postgresql, or leave both empty." -}}
{{- end -}}
{{- else -}}
{{- if eq (empty $v.ledger.url) (empty $v.ledger.existingSecret) -}}
{{- fail "faregate: PostgreSQL needs its address once. Remedy: set ledger.existingSecret (with ledger.key), or ledger.url, and not both." -}}
{{- end -}}
{{- if not (or $v.secrets.existing (hasKey $v.secrets.from "FAREGATE_KEY_PEPPER") (hasKey $v.secrets.create "FAREGATE_KEY_PEPPER")) -}}
{{- fail "faregate: all gateways on one PostgreSQL need the same FAREGATE_KEY_PEPPER. Remedy: put it into a Secret (openssl rand -hex 32) and name that in secrets.existing or secrets.from." -}}
{{- end -}}
{{- end -}}
{{- if and $v.retention.schedule (eq $v.ledger.store "sqlite") -}}
{{- fail "faregate: a job cannot reach a ledger in SQLite, which is in the gateway's own volume. Remedy: leave retention.schedule empty and run `faregate ledger retain` in the gateway's pod, or set ledger.store=postgresql." -}}
{{- end -}}
{{- if and $v.retention.schedule (not $v.retention.existingClaim) -}}
{{- fail "faregate: archives must outlive the job that writes them. Remedy: name a PersistentVolumeClaim in retention.existingClaim." -}}
{{- end -}}
{{- if and $v.redis.enabled (eq (empty $v.redis.url) (empty $v.redis.existingSecret)) -}}
{{- fail "faregate: Redis needs its address once. Remedy: set redis.existingSecret (with redis.key), or redis.url, and not both; or redis.enabled=false." -}}
{{- end -}}
{{- $longest := int (include "faregate.longest" .) -}}
{{- $drain := int (include "faregate.drain" .) -}}
{{- if and (lt $drain $longest) (not $v.shutdown.mayCutStreams) -}}
{{- fail (printf "faregate: a stream may last %d s (settings.timeoutTotal), and a rollout would cut it after %d s (settings.drain). Remedy: leave settings.drain null, lower settings.timeoutTotal, or set shutdown.mayCutStreams=true." $longest $drain) -}}
{{- end -}}
{{- $needed := add (int $v.shutdown.preStopSeconds) $drain 15 -}}
{{- if lt (int (include "faregate.grace" .)) (int $needed) -}}
{{- fail (printf "faregate: shutdown.graceSeconds is %s, and the longest stream needs %d (preStopSeconds + drain + 15). Remedy: leave it null, or raise it." (include "faregate.grace" .) $needed) -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail "faregate: autoscaling.minReplicas is above autoscaling.maxReplicas." -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- fail "faregate: autoscaling goes by a share of resources.requests.cpu. Remedy: set it." -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- fail "faregate: an Ingress needs a host name. Remedy: set ingress.hosts." -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "faregate: an HTTPRoute belongs to a Gateway. Remedy: set httpRoute.parentRefs." -}}
{{- end -}}
{{- if and $v.policies.existingConfigMap (not $v.policies.existingFiles) -}}
{{- fail "faregate: policies.existingConfigMap needs policies.existingFiles, which says where its keys belong (search.yaml: teams/search.yaml)." -}}
{{- end -}}
{{- range $path := values $v.policies.existingFiles -}}
{{- if hasKey $v.policies.files $path -}}
{{- fail (printf "faregate: %s is in policies.files and in policies.existingFiles. Remedy: take one away." $path) -}}
{{- end -}}
{{- end -}}
{{- if $v.networkPolicy.enabled -}}
{{- if and (eq $v.ledger.store "postgresql") (not $v.networkPolicy.ledger) -}}
{{- fail "faregate: with networkPolicy.enabled the gateway could not reach PostgreSQL. Remedy: name its peers in networkPolicy.ledger." -}}
{{- end -}}
{{- if and $v.redis.enabled (not $v.networkPolicy.redis) -}}
{{- fail "faregate: with networkPolicy.enabled the gateway could not reach Redis. Remedy: name its peers in networkPolicy.redis." -}}
{{- end -}}
{{- end -}}
{{- range $host, $urls := $v.settings.baseUrl -}}
{{- $each := list -}}
{{- range splitList "," $urls -}}
{{- $each = append $each (trimAll "/" (trim .)) -}}
{{- end -}}
{{- if ne (len $each) (len (uniq $each)) -}}
{{- fail (printf "faregate: settings.baseUrl.%s names one URL twice." $host) -}}
{{- end -}}
{{- end -}}
{{- $set := list "FAREGATE_HOST" "FAREGATE_PORT" "FAREGATE_ADMIN_HOST" "FAREGATE_ADMIN_PORT" "FAREGATE_DATA" "FAREGATE_POLICIES" "FAREGATE_SECRETS" -}}
{{- range $name := append (keys $v.settings) "drain" -}}
{{- $set = append $set (printf "FAREGATE_%s" ($name | snakecase | upper)) -}}
{{- end -}}
{{- range $v.extraEnv -}}
{{- if has .name $set -}}
{{- fail (printf "faregate: %s in extraEnv would contradict what the chart sets. Remedy: use its value under settings, or leave it." .name) -}}
{{- end -}}
{{- end -}}
{{- if and (not $v.serviceAccount.create) (not $v.serviceAccount.name) $v.serviceAccount.annotations -}}
{{- fail "faregate: serviceAccount.annotations belong to an account that the chart makes. Remedy: set serviceAccount.create=true." -}}
{{- end -}}
{{- end -}}
