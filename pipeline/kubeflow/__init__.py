"""The workflow on Kubeflow Pipelines: parameters, tasks, local runs and deployment."""
