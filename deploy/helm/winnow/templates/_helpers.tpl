{{- define "winnow.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "winnow.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: winnow
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "winnow.selector" -}}
app.kubernetes.io/name: winnow
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "winnow.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "winnow.serviceAccount" -}}
{{ ternary (include "winnow.name" .) "default" .Values.serviceAccount.create }}
{{- end -}}

{{/* one setting of winnow.toml: text in quotes, lists and numbers as TOML and JSON agree on them */}}
{{- define "winnow.toml" -}}
{{- range $table, $settings := . }}
[{{ $table }}]
{{- range $name, $value := $settings }}
{{- if kindIs "map" $value }}
{{ $name }} = { {{- $first := true }}{{ range $k, $v := $value }}{{ if not $first }}, {{ end }}{{ $first = false }}{{ $k | quote }} = {{ if kindIs "float64" $v }}{{ if eq $v (floor $v) }}{{ int64 $v | toString | quote }}{{ else }}{{ $v | toString | quote }}{{ end }}{{ else }}{{ $v | toString | quote }}{{ end }}{{ end -}} }
{{- else if kindIs "float64" $value }}
{{ $name }} = {{ if eq $value (floor $value) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- else }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{ end }}
{{- end -}}

{{/* what every pod has: restricted, nobody's names in its environment, settings and secrets mounted */}}
{{- define "winnow.pod" -}}
serviceAccountName: {{ include "winnow.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "winnow.container" -}}
image: {{ include "winnow.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
# whoever types a command in the pod means these settings too
env:
  - {name: WINNOW_CONFIG, value: /etc/winnow/winnow.toml}
  {{- range $name, $value := .part.environment }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- with .root.Values.secretEnvironment }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "winnow.resources" -}}
resources:
  requests: {{- toYaml .resources.requests | nindent 4 }}
  limits:
    {{- toYaml .resources.limits | nindent 4 }}
    {{- if .gpus }}
    nvidia.com/gpu: {{ .gpus }}
    {{- end }}
{{- end -}}

{{- define "winnow.mounts" -}}
- {name: settings, mountPath: /etc/winnow, readOnly: true}
- {name: work, mountPath: /var/lib/winnow}
- {name: tmp, mountPath: /tmp}
{{- range .Values.secretFiles }}
- {name: secret-{{ . }}, mountPath: /run/secrets/{{ . }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "winnow.volumes" -}}
- name: settings
  configMap: {name: {{ include "winnow.name" . }}}
- name: tmp
  emptyDir: {}
{{- range .Values.secretFiles }}
- name: secret-{{ . }}
  secret: {secretName: {{ . }}}
{{- end }}
{{- end -}}
