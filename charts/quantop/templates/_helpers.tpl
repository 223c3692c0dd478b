{{/* The release's full name, short enough for what is put behind it. */}}
{{- define "quantop.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end -}}
{{- end -}}

{{- define "quantop.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: quantop
{{ include "quantop.instance" . }}
{{- end -}}

{{- define "quantop.instance" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels that select the operator's pods. */}}
{{- define "quantop.operatorSelector" -}}
{{ include "quantop.instance" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels that select the registry's pods. */}}
{{- define "quantop.registrySelector" -}}
{{ include "quantop.instance" . }}
app.kubernetes.io/component: registry
{{- end -}}

{{- define "quantop.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "quantop.fullname" .) .Values.serviceAccount.name }}
{{- else }}{{ default "default" .Values.serviceAccount.name }}{{ end -}}
{{- end -}}

{{/* An image reference. Takes (dict "root" $ "image" NAME): an entry of `images`, or a reference. */}}
{{- define "quantop.image" -}}
{{- $images := .root.Values.images -}}
{{- if not (hasKey $images .image) -}}
{{- if not (contains "/" .image) -}}
{{- fail (printf "%q is neither an entry of images nor an image reference" .image) -}}
{{- end -}}
{{- .image -}}
{{- else -}}
{{- $image := get $images .image -}}
{{- $name := printf "%s/%s" $images.registry $image.repository | trimPrefix "/" -}}
{{- $digest := default (get $images.digests $image.repository) $image.digest -}}
{{- if $digest -}}
{{- printf "%s@%s" $name $digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What Pod Security "restricted" asks of a pod, and who every image of quantop runs as. */}}
{{- define "quantop.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "quantop.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
