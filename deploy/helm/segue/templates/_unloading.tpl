{{/* What a container takes to remove the data plane: the pins, and the right to open them. */}}

{{- define "segue.unloading" -}}
resources:
  requests:
    cpu: 10m
    memory: 16Mi
  limits:
    memory: 64Mi
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add: [BPF]
volumeMounts:
  - name: bpf
    mountPath: /bpf
{{- end -}}
