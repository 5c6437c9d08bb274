"""Versions that the server no longer knows (its state was restored from a backup): 410, and the way on."""

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

from common import DEADLINE, Refused

config.load_kube_config()
core = client.CoreV1Api()

try:
    for _ in watch.Watch().stream(core.list_namespace, resource_version="1", timeout_seconds=DEADLINE):
        raise AssertionError("there was an event")
    raise AssertionError("the watch ended without a word")
except ApiException as error:
    assert error.status == 410, error
    assert error.reason.startswith("Expired: too old resource version: 1 ("), error.reason

with Refused(410, "Expired") as refused:
    core.list_namespace(resource_version="1", resource_version_match="Exact")
assert refused.body["message"] == "The resourceVersion for the provided list is too old.", refused.body

# What a client does then: it lists again and goes on from there.
listed = core.list_namespace()
names = [item.metadata.name for item in listed.items]
assert "default" in names, names
core.create_namespace({"metadata": {"name": "later"}})
stream = watch.Watch()
for event in stream.stream(
    core.list_namespace, resource_version=listed.metadata.resource_version, timeout_seconds=DEADLINE
):
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "later"), event
    stream.stop()
print("done")
