"""Models of the custom resources that the overlays use. Ours, not their projects': they hold the fields that this
project writes, as those projects document them, and refuse every other, so a slip of the pen is seen; whether an
operator accepts the object is not."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Duration = Annotated[str, Field(pattern=r"^(\d+(ms|s|m|h))+$")]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    namespace: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class SecretKey(Strict):
    name: str
    key: str


# keda.sh/v1alpha1 ScaledObject


class ScaleTarget(Strict):
    name: str
    kind: str = "Deployment"
    apiVersion: str = "apps/v1"


class PrometheusMetadata(Strict):
    serverAddress: Annotated[str, Field(pattern=r"^http")]
    query: str
    threshold: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
    activationThreshold: str | None = None
    ignoreNullValues: Literal["true", "false"] | None = None


class Trigger(Strict):
    type: Literal["prometheus"]
    name: str | None = None
    metricType: Literal["AverageValue", "Value"] | None = None
    metadata: PrometheusMetadata


class Fallback(Strict):
    failureThreshold: Count
    replicas: Count


class ScaledObjectSpec(Strict):
    scaleTargetRef: ScaleTarget
    pollingInterval: Count | None = None
    cooldownPeriod: Count | None = None
    minReplicaCount: Count
    maxReplicaCount: Count
    fallback: Fallback | None = None
    triggers: Annotated[list[Trigger], Field(min_length=1)]


class ScaledObject(Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


# monitoring.coreos.com/v1 ServiceMonitor and PrometheusRule


class LabelSelector(Strict):
    matchLabels: Annotated[dict[str, str], Field(min_length=1)]


class Authorization(Strict):
    type: Literal["Bearer"]
    credentials: SecretKey


class Endpoint(Strict):
    port: str
    path: str
    interval: Duration
    authorization: Authorization | None = None


class ServiceMonitorSpec(Strict):
    selector: LabelSelector
    endpoints: Annotated[list[Endpoint], Field(min_length=1)]


class ServiceMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["ServiceMonitor"]
    metadata: Metadata
    spec: ServiceMonitorSpec


class Rule(Strict):
    model_config = ConfigDict(extra="forbid", strict=True, validate_by_alias=True)

    alert: str
    expr: str
    duration: Annotated[Duration, Field(alias="for")]
    labels: dict[str, str]
    annotations: dict[str, str]


class RuleGroup(Strict):
    name: str
    rules: Annotated[list[Rule], Field(min_length=1)]


class PrometheusRuleSpec(Strict):
    groups: Annotated[list[RuleGroup], Field(min_length=1)]


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


# trainer.kubeflow.org/v1alpha1 TrainJob and TrainingRuntime


class RuntimeRef(Strict):
    apiGroup: Literal["trainer.kubeflow.org"]
    kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"]
    name: str


class TrainerPart(Strict):
    image: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    numNodes: Annotated[int, Field(ge=1)]
    resourcesPerNode: dict[Literal["requests", "limits"], dict[str, str | int]]


class TrainJobSpec(Strict):
    runtimeRef: RuntimeRef
    trainer: TrainerPart
    suspend: bool | None = None


class TrainJob(Strict):
    apiVersion: Literal["trainer.kubeflow.org/v1alpha1"]
    kind: Literal["TrainJob"]
    metadata: Metadata
    spec: TrainJobSpec


class MlPolicy(Strict):
    numNodes: Annotated[int, Field(ge=1)]
    torch: dict[Literal["numProcPerNode"], int | str]


class JobTemplateMetadata(Strict):
    labels: dict[str, str]


class JobTemplate(Strict):
    metadata: JobTemplateMetadata
    spec: dict[Literal["template", "backoffLimit"], Any]
    """The pod template goes through the schemas of Kubernetes, as that of a Job."""


class ReplicatedJob(Strict):
    name: str
    template: JobTemplate


class FailurePolicy(Strict):
    maxRestarts: Count


class JobSetSpec(Strict):
    failurePolicy: FailurePolicy | None = None
    replicatedJobs: Annotated[list[ReplicatedJob], Field(min_length=1)]


class JobSetTemplate(Strict):
    spec: JobSetSpec


class TrainingRuntimeSpec(Strict):
    mlPolicy: MlPolicy
    template: JobSetTemplate


class TrainingRuntime(Strict):
    apiVersion: Literal["trainer.kubeflow.org/v1alpha1"]
    kind: Literal["TrainingRuntime"]
    metadata: Metadata
    spec: TrainingRuntimeSpec


MODELS: dict[tuple[str, str], type[Strict]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): TrainJob,
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): TrainingRuntime,
}


def is_custom(manifest: dict[str, Any]) -> bool:
    return (manifest["apiVersion"], manifest["kind"]) in MODELS


def check(manifest: dict[str, Any]) -> None:
    """Raises pydantic's `ValidationError`."""
    MODELS[manifest["apiVersion"], manifest["kind"]].model_validate(manifest)
