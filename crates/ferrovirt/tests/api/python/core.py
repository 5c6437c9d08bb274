"""The typed client of the core group and its neighbours."""

import base64

from kubernetes import client

from common import Refused, connect, wait_until

NAMESPACE = "core"
core = connect(NAMESPACE)

# Config maps: created, read, replaced, patched in three ways, deleted.
made = core.create_namespaced_config_map(
    NAMESPACE,
    client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one", labels={"app": "a"}), data={"a": "1"}),
)
assert made.metadata.uid and made.metadata.resource_version and made.metadata.creation_timestamp.tzinfo
with Refused(409, "AlreadyExists") as refused:
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "one"}})
assert refused.body["message"] == 'configmaps "one" already exists'
assert refused.body["details"] == {"name": "one", "kind": "configmaps"}

made.data["b"] = "2"
replaced = core.replace_namespaced_config_map("one", NAMESPACE, made)
assert replaced.data == {"a": "1", "b": "2"}
assert int(replaced.metadata.resource_version) > int(made.metadata.resource_version)
with Refused(409, "Conflict") as refused:
    core.replace_namespaced_config_map("one", NAMESPACE, made)
assert refused.body["message"] == (
    'Operation cannot be fulfilled on configmaps "one": the object has been modified; please apply your changes to the '
    "latest version and try again"
)
# The client sends dictionaries as strategic merge patches and lists as JSON patches.
patched = core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"a": None, "c": "3"}})
assert patched.data == {"b": "2", "c": "3"}
patched = core.patch_namespaced_config_map("one", NAMESPACE, [{"op": "add", "path": "/data/d", "value": "4"}])
assert patched.data == {"b": "2", "c": "3", "d": "4"}
dry = core.patch_namespaced_config_map("one", NAMESPACE, {"data": {"e": "5"}}, dry_run="All")
assert dry.data["e"] == "5"
assert core.read_namespaced_config_map("one", NAMESPACE).data == patched.data

# Generated names and pages.
for number in range(6):
    core.create_namespaced_config_map(
        NAMESPACE, {"metadata": {"generateName": "page-", "labels": {"number": str(number)}}, "data": {}}
    )
seen, token, pages = [], None, 0
while True:
    page = core.list_namespaced_config_map(NAMESPACE, label_selector="number", limit=4, _continue=token)
    seen += [item.metadata.labels["number"] for item in page.items]
    pages += 1
    token = page.metadata._continue
    if not token:
        break
    # A list is of one moment: what comes later is on none of its pages.
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "zz-late", "labels": {"number": "late"}}})
assert (pages, sorted(seen)) == (2, ["0", "1", "2", "3", "4", "5"]), (pages, seen)
with Refused(400, "BadRequest") as refused:
    core.list_namespaced_config_map(NAMESPACE, limit=2, _continue="nonsense")
assert "continue key is not valid" in refused.body["message"], refused.body
assert len(core.list_config_map_for_all_namespaces(field_selector="metadata.name=one").items) == 1
with Refused(400, "BadRequest"):
    core.list_namespaced_config_map(NAMESPACE, label_selector="a in")
status = core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="number")
assert status.kind in ("Status", "ConfigMapList"), status
assert not core.list_namespaced_config_map(NAMESPACE, label_selector="number").items
with Refused(409, "Conflict"):
    core.delete_namespaced_config_map(
        "one", NAMESPACE, body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="other"))
    )
gone = core.delete_namespaced_config_map("one", NAMESPACE)
assert gone.status == "Success" and gone.details.name == "one", gone
with Refused(404, "NotFound") as refused:
    core.read_namespaced_config_map("one", NAMESPACE)
assert refused.body["message"] == 'configmaps "one" not found'
with Refused(422, "Invalid") as refused:
    core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": "Not A Name"}})
assert refused.body["details"]["causes"][0]["field"] == "metadata.name"
with Refused(404, "NotFound") as refused:
    core.create_namespaced_config_map("nowhere", {"metadata": {"name": "one"}})
assert refused.body["message"] == 'namespaces "nowhere" not found'

# Secrets.
core.create_namespaced_secret(NAMESPACE, client.V1Secret(metadata={"name": "s"}, string_data={"key": "value"}))
secret = core.read_namespaced_secret("s", NAMESPACE)
assert secret.type == "Opaque" and secret.string_data is None
assert base64.b64decode(secret.data["key"]) == b"value"
with Refused(422, "Invalid"):
    core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "t"}, "type": "kubernetes.io/tls", "data": {}})

# Pods: defaults, status, binding to a node by patching the status.
pod = core.create_namespaced_pod(
    NAMESPACE,
    client.V1Pod(
        metadata=client.V1ObjectMeta(name="p"),
        spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="busybox")]),
    ),
)
assert (pod.status.phase, pod.spec.restart_policy, pod.spec.containers[0].image_pull_policy) == (
    "Pending",
    "Always",
    "Always",
)
pod = core.patch_namespaced_pod_status("p", NAMESPACE, {"status": {"phase": "Running", "podIP": "192.0.2.9"}})
assert (pod.status.phase, pod.status.pod_ip) == ("Running", "192.0.2.9")
assert len(core.list_namespaced_pod(NAMESPACE, field_selector="status.phase=Running").items) == 1
with Refused(422, "Invalid") as refused:
    core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": "q"}, "spec": {"containers": []}})
assert "spec.containers" in refused.body["message"], refused.body
core.delete_namespaced_pod("p", NAMESPACE, grace_period_seconds=0)
wait_until("the pod is gone", lambda: not core.list_namespaced_pod(NAMESPACE).items)

# Events, in both of their groups.
core.create_namespaced_event(
    NAMESPACE,
    client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="e"),
        involved_object=client.V1ObjectReference(kind="Pod", name="p", namespace=NAMESPACE),
        type="Normal",
        reason="Seen",
        message="it was",
    ),
)
assert core.list_namespaced_event(NAMESPACE, field_selector="involvedObject.name=p,reason=Seen").items[0].message == "it was"
events = client.EventsV1Api()
events.create_namespaced_event(
    NAMESPACE,
    client.EventsV1Event(
        metadata=client.V1ObjectMeta(name="f"),
        event_time="2026-01-01T00:00:00.000001Z",
        regarding=client.V1ObjectReference(kind="Pod", name="p", namespace=NAMESPACE),
        reporting_controller="example.com/robot",
        reporting_instance="robot-1",
        action="Looking",
        type="Normal",
        reason="Seen",
        note="in the new group",
    ),
)
assert core.read_namespaced_event("f", NAMESPACE).message == "in the new group"
assert events.read_namespaced_event("f", NAMESPACE).event_time.microsecond == 1

# A service account's token is an identity.
core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": "robot"}})
request = {"spec": {"audiences": [], "expirationSeconds": 3600}}
token = core.create_namespaced_service_account_token("robot", NAMESPACE, request).status.token
configuration = client.Configuration.get_default_copy()
configuration.cert_file = configuration.key_file = None
configuration.api_key = {"authorization": f"Bearer {token}"}
robot = client.CoreV1Api(client.ApiClient(configuration))
with Refused(403, "Forbidden") as refused:
    robot.list_namespaced_secret(NAMESPACE)
assert refused.body["message"] == (
    f'secrets is forbidden: User "system:serviceaccount:{NAMESPACE}:robot" cannot list resource "secrets" in API group "" in '
    f'the namespace "{NAMESPACE}"'
)
rbac = client.RbacAuthorizationV1Api()
rbac.create_namespaced_role(
    NAMESPACE,
    {"metadata": {"name": "read"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]},
)
rbac.create_namespaced_role_binding(
    NAMESPACE,
    {
        "metadata": {"name": "read"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "read"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": NAMESPACE}],
    },
)
assert "s" in [item.metadata.name for item in robot.list_namespaced_secret(NAMESPACE).items]
configuration.api_key = {"authorization": "Bearer nonsense"}
with Refused(401, "Unauthorized"):
    client.CoreV1Api(client.ApiClient(configuration)).list_namespace()

# Reviews, versions, neighbours.
review = client.AuthorizationV1Api().create_self_subject_access_review(
    {"spec": {"resourceAttributes": {"verb": "create", "group": "kubevirt.io", "resource": "virtualmachines"}}}
)
assert review.status.allowed
assert "+ferrovirt." in client.VersionApi().get_code().git_version
assert "kubevirt.io" in [group.name for group in client.ApisApi().get_api_versions().groups]
apps = client.AppsV1Api()
template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}
apps.create_namespaced_deployment(
    NAMESPACE, {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}
)
scale = apps.patch_namespaced_deployment_scale("d", NAMESPACE, {"spec": {"replicas": 4}})
assert scale.spec.replicas == 4 and apps.read_namespaced_deployment("d", NAMESPACE).spec.replicas == 4
lease = client.CoordinationV1Api().create_namespaced_lease(
    NAMESPACE, {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}}
)
assert lease.spec.holder_identity == "me"
core.delete_namespace(NAMESPACE)
wait_until(
    "the namespace is gone",
    lambda: NAMESPACE not in [namespace.metadata.name for namespace in core.list_namespace().items],
)
print("done")
