"""What the scripts share: the client's configuration, a namespace, and looking at errors."""

import json
import time

from kubernetes import client, config
from kubernetes.client.rest import ApiException

DEADLINE = 60


def connect(namespace):
    """The client with the kubeconfig of the environment, and a namespace that exists."""
    config.load_kube_config()
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": namespace}})
    return core


class Refused:
    """The body of a call that must fail: `with Refused(404, "NotFound") as refused: ...`."""

    def __init__(self, status, reason):
        self.status, self.reason, self.body = status, reason, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        assert error is not None, f"nothing was refused where {self.status} {self.reason} was expected"
        if not isinstance(error, ApiException):
            return False
        self.body = json.loads(error.body)
        found = (error.status, self.body["code"], self.body["reason"], self.body["kind"], self.body["status"])
        wanted = (self.status, self.status, self.reason, "Status", "Failure")
        assert found == wanted, f"{found} where {wanted} was expected: {error.body}"
        return True


def wait_until(what, look):
    """Looks until something is found."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE} s in vain until {what}")
