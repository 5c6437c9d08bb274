"""watch.Watch: order, and resumption where it broke off."""

import threading

from kubernetes import client, watch

from common import DEADLINE, connect

NAMESPACE = "watches"
core = connect(NAMESPACE)


def create(name, **labels):
    return core.create_namespaced_config_map(NAMESPACE, {"metadata": {"name": name, "labels": labels}, "data": {"n": "0"}})


def take(count, **options):
    """The next events, as (type, name, value), and the version to go on from."""
    stream = watch.Watch()
    events = []
    for event in stream.stream(
        core.list_namespaced_config_map, NAMESPACE, label_selector="mine", timeout_seconds=DEADLINE, **options
    ):
        found = event["object"]
        assert isinstance(found, client.V1ConfigMap) and event["raw_object"]["kind"] == "ConfigMap"
        events.append((event["type"], found.metadata.name, found.data["n"]))
        if len(events) == count:
            stream.stop()
    assert len(events) == count, events
    return events, stream.resource_version


create("a", mine="yes")
create("b", mine="yes")
create("other")
events, version = take(2)
assert events == [("ADDED", "a", "0"), ("ADDED", "b", "0")], events

for number in range(1, 4):
    core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"n": str(number)}})
core.patch_namespaced_config_map("b", NAMESPACE, {"metadata": {"labels": {"mine": None}}})
core.delete_namespaced_config_map("a", NAMESPACE)
expected = [
    ("MODIFIED", "a", "1"),
    ("MODIFIED", "a", "2"),
    ("MODIFIED", "a", "3"),
    ("DELETED", "b", "0"),
    ("DELETED", "a", "3"),
]
# Taken one after the other, each from where the one before ended: nothing is missing and nothing comes twice.
resumed, at = [], version
for _ in expected:
    events, at = take(1, resource_version=at)
    resumed += events
assert resumed == expected, resumed
assert take(5, resource_version=version)[0] == expected

# Events that happen while somebody looks.
listed = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
writer = threading.Thread(target=lambda: [create(f"live-{number}", mine="yes") for number in range(20)])
writer.start()
events, _ = take(20, resource_version=listed)
writer.join()
assert [name for _, name, _ in events] == [f"live-{number}" for number in range(20)], events

# The server ends a watch in time, and that is no error.
quiet = list(
    watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, label_selector="none", timeout_seconds=1)
)
assert quiet == [], quiet

# A watch of dictionaries.
for event in watch.Watch().stream(
    client.CustomObjectsApi().list_cluster_custom_object,
    "kubevirt.io",
    "v1",
    "kubevirts",
    timeout_seconds=DEADLINE,
):
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "kubevirt")
    break
print("done")
