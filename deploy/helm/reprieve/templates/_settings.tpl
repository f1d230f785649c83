{{/* The name of the Secret; a sentence where there is none. */}}
{{- define "reprieve.secret" -}}
{{- with .Values.secret -}}
{{- if and .name .values -}}
{{- fail "Give either secret.name, of a Secret that is there, or secret.values, for one that this release makes: both are set." -}}
{{- else if .name -}}
{{- .name -}}
{{- else if .values -}}
{{- include "reprieve.fullname" $ -}}
{{- else -}}
{{- fail "No Secret is given. Make one (kubectl create secret generic reprieve --from-env-file=reprieve.env, with REPRIEVE_DATABASE_URL, REPRIEVE_REDIS_URL, REPRIEVE_API_TOKENS and REPRIEVE_FLOWER_PASSWORD in that file) and say --set secret.name=reprieve." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "reprieve.secretData" -}}
{{- range $name, $value := .Values.secret.values }}
{{ $name }}: {{ include "reprieve.text" $value | b64enc | quote }}
{{- end -}}
{{- end -}}

{{/* A value of the environment, as it was meant: a number that YAML has read must not become 1e+06. */}}
{{- define "reprieve.text" -}}
{{- ternary . (toJson .) (kindIs "string" .) -}}
{{- end -}}

{{/* The settings of all roles, as lines of YAML; empty ones are left out. */}}
{{- define "reprieve.config" -}}
{{- $config := dict -}}
{{- range $name, $value := .Values.config -}}
{{- $text := include "reprieve.text" $value -}}
{{- if ne $text "" -}}{{- $_ := set $config $name $text -}}{{- end -}}
{{- end -}}
{{- if hasKey $config "REPRIEVE_DRAIN_SECONDS" -}}
{{- fail "Set drainSeconds in place of config.REPRIEVE_DRAIN_SECONDS: how long Kubernetes waits before it kills a worker goes by it." -}}
{{- end -}}
{{- $archive := or (hasKey $config "REPRIEVE_LOG_ARCHIVE_URL") (hasKey (.Values.secret.values | default dict) "REPRIEVE_LOG_ARCHIVE_URL") -}}
{{- if and (not $archive) (gt (int (index .Values.roles "worker-archive").replicas) 0) -}}
{{- fail "Where closed logs go is not given: in a Pod's own folder they would be lost with it. Set config.REPRIEVE_LOG_ARCHIVE_URL=s3://bucket/prefix, or keep them in the database with roles.worker-archive.replicas=0." -}}
{{- end -}}
{{- /* Services, probes and policies go by the ports. Without its address, the API would answer its own Pod alone. */}}
{{- if not (hasSuffix ":8000" (get $config "REPRIEVE_API_ADDRESS")) -}}
{{- fail "config.REPRIEVE_API_ADDRESS must end in :8000, the port of the Pod; the Service and the Ingress may have others." -}}
{{- end -}}
{{- if and (hasKey $config "REPRIEVE_METRICS_ADDRESS") (not (hasSuffix ":9808" $config.REPRIEVE_METRICS_ADDRESS)) -}}
{{- fail "config.REPRIEVE_METRICS_ADDRESS must end in :9808, the port of the Pod." -}}
{{- end -}}
{{- $_ := set $config "REPRIEVE_DRAIN_SECONDS" (toJson .Values.drainSeconds) -}}
{{- if .Values.ingress.enabled -}}
{{- $path := trimSuffix "/" .Values.ingress.path -}}
{{- if and $path (not (hasKey $config "REPRIEVE_API_ROOT_PATH")) -}}
{{- $_ := set $config "REPRIEVE_API_ROOT_PATH" $path -}}
{{- end -}}
{{- if not (hasKey $config "REPRIEVE_PAGE_URL") -}}
{{- $_ := set $config "REPRIEVE_PAGE_URL" (include "reprieve.page" .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $text := $config }}
{{ $name }}: {{ quote $text }}
{{- end -}}
{{- end -}}

{{/* Where people reach the page through the Ingress. */}}
{{- define "reprieve.page" -}}
{{- with .Values.ingress -}}
{{- if not .host -}}
{{- fail "ingress.enabled needs ingress.host, the name that people reach the page by." -}}
{{- end -}}
{{- printf "%s://%s%s" (empty .tlsSecret | ternary "http" "https") .host (trimSuffix "/" .path) -}}
{{- end -}}
{{- end -}}
