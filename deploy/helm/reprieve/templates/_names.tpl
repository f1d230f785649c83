{{/*
The name that everything here begins with: RELEASE-reprieve, or RELEASE where that says it already.

At most 40 characters, since a StatefulSet's name with "-worker-runs" and the hash of a revision must be a label's
value, and a Service's name: so no dot, and no digit in front. A name that had to be changed for that ends with a hash
of what it was, so that two never become one.
*/}}
{{- define "reprieve.fullname" -}}
{{- $chart := default .Chart.Name .Values.nameOverride -}}
{{- $whole := .Values.fullnameOverride -}}
{{- if not $whole -}}
{{- $whole = ternary .Release.Name (printf "%s-%s" .Release.Name $chart) (contains $chart .Release.Name) -}}
{{- end -}}
{{- if regexMatch "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$" $whole -}}
{{- $whole -}}
{{- else -}}
{{- $plain := regexReplaceAll "[^-a-z0-9]" (lower $whole) "-" -}}
{{- $plain = ternary $plain (printf "r%s" $plain) (regexMatch "^[a-z]" $plain) -}}
{{- printf "%s-%s" ($plain | trunc 31 | trimSuffix "-") (sha256sum $whole | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* What selects Pods: of a `role` of this release, in this namespace. It can never be changed. */}}
{{- define "reprieve.selector" -}}
app.kubernetes.io/name: reprieve
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* Of everything that is made. The chart's version is not among those of volumes, which cannot be changed. */}}
{{- define "reprieve.labels" -}}
app.kubernetes.io/name: reprieve
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- define "reprieve.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The service account of a `role`: those that follow and end Jobs have one of their own. */}}
{{- define "reprieve.serviceAccount" -}}
{{- if not (or .root.Values.serviceAccount.create .root.Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false, so give serviceAccount.name: that account must be there, and one with -worker behind the name." -}}
{{- end -}}
{{- $name := default (include "reprieve.fullname" .root) .root.Values.serviceAccount.name -}}
{{- if has .role (list "worker-runs" "worker-control") -}}
{{- printf "%s-worker" $name -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}
