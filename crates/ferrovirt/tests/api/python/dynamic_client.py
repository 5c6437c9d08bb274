"""The dynamic client: discovery by kind, server-side apply, watch."""

import json

from kubernetes import config, dynamic
from kubernetes.client import api_client
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, ResourceNotFoundError, UnprocessibleEntityError

NAMESPACE = "dynamic"
configuration = config.load_kube_config()
api = dynamic.DynamicClient(api_client.ApiClient(configuration=configuration))

namespaces = api.resources.get(api_version="v1", kind="Namespace")
namespaces.create(body={"metadata": {"name": NAMESPACE}})
machines = api.resources.get(api_version="kubevirt.io/v1", kind="VirtualMachine")
assert (machines.name, machines.namespaced, machines.short_names) == ("virtualmachines", True, ["vm", "vms"])
assert {"create", "deletecollection", "watch"} <= set(machines.verbs)
assert "status" in machines.subresources
assert api.resources.get(api_version="kubevirt.io/v1", singular_name="virtualmachineinstance").kind == "VirtualMachineInstance"
maps = api.resources.get(api_version="v1", kind="ConfigMap")
try:
    api.resources.get(api_version="v1", kind="Nothing")
    raise AssertionError("a kind that is not there was found")
except ResourceNotFoundError:
    pass

kernel = {"image": "localhost/kernel", "kernelPath": "/boot/vmlinuz"}
domain = {"devices": {}, "memory": {"guest": "64Mi"}, "firmware": {"kernelBoot": {"container": kernel}}}
body = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "vm", "namespace": NAMESPACE},
    "spec": {"runStrategy": "Manual", "template": {"spec": {"domain": domain}}},
}
made = machines.create(body=body, namespace=NAMESPACE)
assert made.status.printableStatus == "Stopped"
assert machines.get(name="vm", namespace=NAMESPACE).spec.runStrategy == "Manual"
patch = {"metadata": {"name": "vm"}, "spec": {"runStrategy": "Halted"}}
patched = machines.patch(body=patch, namespace=NAMESPACE, content_type="application/merge-patch+json")
assert patched.spec.runStrategy == "Halted"
try:
    machines.create(body={**body, "metadata": {"name": "bad"}, "spec": {"template": body["spec"]["template"]}}, namespace=NAMESPACE)
    raise AssertionError("a machine without a strategy was accepted")
except UnprocessibleEntityError as error:
    assert "RunStrategy must be specified" in error.summary(), error.summary()



def apply(body, **options):
    # This client can send the media type of apply only as text.
    return maps.server_side_apply(body=json.dumps(body), name=body["metadata"]["name"], namespace=NAMESPACE, **options)


# Server-side apply, with a conflict and with force.
applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "1", "b": "2"}}
one = apply(applied, field_manager="first")
assert one.to_dict()["data"] == {"a": "1", "b": "2"}
assert [(entry.manager, entry.operation) for entry in one.metadata.managedFields] == [("first", "Apply")]
version = one.metadata.resourceVersion
again = apply(applied, field_manager="first")
assert again.metadata.resourceVersion == version, "what changes nothing is not written"
other = {**applied, "data": {"a": "9"}}
try:
    apply(other, field_manager="second")
    raise AssertionError("a conflict was not noticed")
except ConflictError as error:
    assert 'conflict with \\"first\\": .data.a' in error.body.decode(), error.body
one = apply(other, field_manager="second", force_conflicts=True)
assert one.to_dict()["data"] == {"a": "9", "b": "2"}
one = apply({**applied, "data": None}, field_manager="first")
assert one.to_dict()["data"] == {"a": "9"}

# Watch, by the versions of a list.
start = maps.get(namespace=NAMESPACE).metadata.resourceVersion
maps.create(body={"metadata": {"name": "two"}}, namespace=NAMESPACE)
maps.delete(name="two", namespace=NAMESPACE)
seen = []
for event in maps.watch(namespace=NAMESPACE, resource_version=start, timeout=60):
    if event["object"].metadata.name == "two":
        seen.append(event["type"])
    if len(seen) == 2:
        break
assert seen == ["ADDED", "DELETED"], seen

machines.delete(name="vm", namespace=NAMESPACE)
try:
    machines.get(name="vm", namespace=NAMESPACE)
    raise AssertionError("a deleted machine was found")
except NotFoundError:
    pass
assert "kubevirt" in [item.metadata.name for item in api.resources.get(api_version="kubevirt.io/v1", kind="KubeVirt").get().items]
print("done")
