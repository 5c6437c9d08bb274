"""CustomObjectsApi on KubeVirt's kinds: objects as dictionaries."""

from kubernetes import client

from common import Refused, connect

NAMESPACE = "custom"
connect(NAMESPACE)
api = client.CustomObjectsApi()
MACHINES = ("kubevirt.io", "v1", NAMESPACE, "virtualmachines")


def machine(name, **spec):
    kernel = {"image": "localhost/kernel", "kernelPath": "/boot/vmlinuz"}
    domain = {"devices": {}, "memory": {"guest": "64Mi"}, "firmware": {"kernelBoot": {"container": kernel}}}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"runStrategy": "Manual", "template": {"spec": {"domain": domain}}, **spec},
    }


made = api.create_namespaced_custom_object(*MACHINES, machine("vm"))
assert made["status"]["printableStatus"] == "Stopped"
assert made["metadata"]["generation"] == 1
assert made["spec"]["template"]["spec"]["domain"]["firmware"]["uuid"]
assert api.get_namespaced_custom_object(*MACHINES, "vm") == made
listed = api.list_namespaced_custom_object(*MACHINES)
assert (listed["kind"], [item["metadata"]["name"] for item in listed["items"]]) == ("VirtualMachineList", ["vm"])
assert len(api.list_cluster_custom_object("kubevirt.io", "v1", "virtualmachines")["items"]) == 1

# A dictionary goes out as a merge patch.
patched = api.patch_namespaced_custom_object(*MACHINES, "vm", {"spec": {"runStrategy": "Halted"}})
assert (patched["spec"]["runStrategy"], patched["metadata"]["generation"]) == ("Halted", 2)
made["spec"]["runStrategy"] = "Always"
with Refused(409, "Conflict"):
    api.replace_namespaced_custom_object(*MACHINES, "vm", made)
patched["spec"]["runStrategy"] = "Manual"
replaced = api.replace_namespaced_custom_object(*MACHINES, "vm", patched)
assert replaced["metadata"]["generation"] == 3

# The status is a subresource: neither touches the other.
status = api.get_namespaced_custom_object_status(*MACHINES, "vm")
status["status"] = {"printableStatus": "Running", "ready": True}
status["spec"]["runStrategy"] = "Halted"
status = api.replace_namespaced_custom_object_status(*MACHINES, "vm", status)
assert (status["status"]["printableStatus"], status["spec"]["runStrategy"]) == ("Running", "Manual")
assert status["metadata"]["generation"] == 3
status = api.patch_namespaced_custom_object_status(*MACHINES, "vm", {"status": {"created": True}})
assert status["status"] == {"printableStatus": "Running", "ready": True, "created": True}
ignored = api.patch_namespaced_custom_object(*MACHINES, "vm", {"status": {"ready": False}})
assert ignored["status"]["ready"] is True
assert ignored["metadata"]["resourceVersion"] == status["metadata"]["resourceVersion"]

# Refusals say what KubeVirt's webhooks say.
with Refused(422, "Invalid") as refused:
    api.create_namespaced_custom_object(*MACHINES, machine("bad", runStrategy=None))
assert refused.body["message"] == (
    'admission webhook "virtualmachine-validator.kubevirt.io" denied the request: RunStrategy must be specified'
)
assert refused.body["details"]["causes"] == [
    {"reason": "FieldValueInvalid", "message": "RunStrategy must be specified", "field": "spec.running"}
], refused.body
with Refused(404, "NotFound") as refused:
    api.get_namespaced_custom_object(*MACHINES, "none")
assert refused.body["details"] == {"name": "none", "group": "kubevirt.io", "kind": "virtualmachines"}
with Refused(404, "NotFound"):
    api.get_namespaced_custom_object("kubevirt.io", "v9", NAMESPACE, "virtualmachines", "vm")
with Refused(405, "MethodNotAllowed") as refused:
    api.create_namespaced_custom_object(
        "pool.kubevirt.io",
        "v1beta1",
        NAMESPACE,
        "virtualmachinepools",
        {"apiVersion": "pool.kubevirt.io/v1beta1", "kind": "VirtualMachinePool", "metadata": {"name": "p"}, "spec": {}},
    )
assert refused.body["message"] == "VirtualMachinePool is not supported by ferrovirt"
assert not api.list_namespaced_custom_object("pool.kubevirt.io", "v1beta1", NAMESPACE, "virtualmachinepools")["items"]

for number in range(5):
    api.create_namespaced_custom_object(*MACHINES, machine(f"many-{number}"))
first = api.list_namespaced_custom_object(*MACHINES, limit=4)
assert first["metadata"]["remainingItemCount"] == 2, first["metadata"]
rest = api.list_namespaced_custom_object(*MACHINES, limit=4, _continue=first["metadata"]["continue"])
assert len(first["items"]) + len(rest["items"]) == 6 and not rest["metadata"].get("continue")
assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

deleted = api.delete_namespaced_custom_object(*MACHINES, "vm")
assert (deleted["status"], deleted["details"]["name"]) == ("Success", "vm")
api.delete_collection_namespaced_custom_object(*MACHINES)
assert not api.list_namespaced_custom_object(*MACHINES)["items"]
kubevirt = api.get_namespaced_custom_object("kubevirt.io", "v1", "kubevirt", "kubevirts", "kubevirt")
assert kubevirt["status"]["phase"] == "Deployed"
print("done")
