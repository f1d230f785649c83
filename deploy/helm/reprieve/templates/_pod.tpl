{{/*
The Pod of a `role`: `root` is the chart's, `volumes` says whether `data` is a volume of the Pod and not a claim.

Each passes the Pod Security Standard `restricted`. The image's entry point is an init, which collects what detached work
leaves behind, so that only its arguments are given. No role has a liveness probe: who restarts a worker of runs ends the
children of all its runs, and a broker that is away is no reason to. Whether work lives is the reaper's to say; readiness
holds back a rollout that does not work.
*/}}
{{- define "reprieve.pod" -}}
{{- $values := .root.Values -}}
{{- $role := index $values.roles .role -}}
{{- $pods := $values.pods -}}
{{- $asks := has .role (list "worker-runs" "worker-control") -}}
metadata:
  labels:
    {{- include "reprieve.podLabels" . | nindent 4 }}
  annotations:
    checksum/settings: {{ printf "%s%s" (include "reprieve.config" .root) (toJson $values.secret.values) | sha256sum }}
    {{- with include "reprieve.podAnnotations" . }}
    {{- . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "reprieve.serviceAccount" . }}
  automountServiceAccountToken: {{ $asks }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ eq .role "worker-runs" | ternary (add $values.drainSeconds 60) 30 }}
  {{- include "reprieve.podSecurity" . | nindent 2 }}
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{ include "reprieve.named" . }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "reprieve.image" .root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: {{ concat (list "reprieve" "start" .role) ($role.args | default list) | toJson }}
      envFrom: [{configMapRef: {name: {{ include "reprieve.fullname" .root }}}}, {secretRef: {name: {{ include "reprieve.secret" .root }}}}]
      {{- with concat ($pods.env | default list) ($role.env | default list) }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources: {{ $role.resources | default dict | toJson }}
      {{- include "reprieve.containerSecurity" . | nindent 6 }}
      {{- include "reprieve.probe" . | nindent 6 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: data, mountPath: /data}
        {{- with concat ($pods.volumeMounts | default list) ($role.volumeMounts | default list) }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {medium: Memory, sizeLimit: {{ $role.tmpSize | default "64Mi" }}}}
    {{- if .volumes }}
    - {name: data, emptyDir: {}}
    {{- end }}
    {{- with concat ($pods.volumes | default list) ($role.volumes | default list) }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "reprieve.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "reprieve.spread" . }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Labels and annotations of a `role`'s Pods, or of those that only come and go. Its own count before those of all. */}}
{{- define "reprieve.podLabels" -}}
{{- $own := index .root.Values.roles .role | default dict -}}
{{- $labels := hasKey $own "labels" | ternary $own.labels .root.Values.pods.labels | default dict -}}
{{- merge (include "reprieve.selector" . | fromYaml) (deepCopy $labels) | toYaml -}}
{{- end -}}

{{- define "reprieve.podAnnotations" -}}
{{- $own := index .root.Values.roles .role | default dict -}}
{{- with hasKey $own "annotations" | ternary $own.annotations .root.Values.pods.annotations -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{- define "reprieve.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch   # Else each start goes through all of the spool.
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "reprieve.containerSecurity" -}}
securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
{{- end -}}

{{/* Names as Kubernetes refers to them. */}}
{{- define "reprieve.named" -}}
[{{ range $at, $name := . }}{{ if $at }}, {{ end }}{name: {{ quote $name }}}{{ end }}]
{{- end -}}

{{/* How it is known to work, and by which port it is reached. */}}
{{- define "reprieve.probe" -}}
{{- if eq .role "api" -}}
# Not /health/ready: a reaper that is ill is no reason to take the page away that says so.
readinessProbe: {httpGet: {path: /health/live, port: http}, periodSeconds: 10, timeoutSeconds: 5}
# Until every proxy knows that it goes, it still answers.
lifecycle: {preStop: {sleep: {seconds: 5}}}
ports: [{name: http, containerPort: 8000}]
{{- else if eq .role "flower" -}}
readinessProbe: {httpGet: {path: /healthcheck, port: http}, periodSeconds: 30, timeoutSeconds: 5}
ports: [{name: http, containerPort: 5555}]
{{- else -}}
readinessProbe: {exec: {command: [reprieve, healthcheck]}, periodSeconds: 30, timeoutSeconds: 10}
{{- if ne .role "beat" }}
ports: [{name: metrics, containerPort: 9808}]
{{- end }}
{{- end -}}
{{- end -}}

{{/* Where its Pods may go. A role's own counts before that of all. */}}
{{- define "reprieve.placement" -}}
{{- $all := .root.Values.pods -}}
{{- $own := index .root.Values.roles .role | default dict -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with (hasKey $own $key | ternary (get $own $key) (get $all $key)) }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* How they are spread. */}}
{{- define "reprieve.spread" -}}
{{- $own := index .root.Values.roles .role -}}
{{- $selector := include "reprieve.selector" . | fromYaml -}}
{{- with (hasKey $own "topologySpreadConstraints" | ternary (get $own "topologySpreadConstraints") .root.Values.pods.topologySpreadConstraints) -}}
topologySpreadConstraints:
  {{- range . }}
  - {{ hasKey . "labelSelector" | ternary . (merge (dict "labelSelector" (dict "matchLabels" $selector)) .) | toJson }}
  {{- end }}
{{- end }}
{{- end -}}
